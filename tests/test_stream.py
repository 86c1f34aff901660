"""Ids become events: log-probabilities stay with the text of their tokens, whatever is held back."""

from queue import SimpleQueue

import pytest
from smelt.engine import decoding
from smelt.engine.events import Finished, Reasoning, Text, ToolOpened
from smelt.engine.parse import Format
from smelt.engine.parse.formats import BY_TEMPLATE
from smelt.engine.parse.reasoning import FAMILIES
from smelt.engine.reasoning import ReasoningState
from smelt.engine.request import Sampling
from smelt.engine.sequence import Done, Sequence, Token
from smelt.engine.stream import Choice

THINK = next(tags for tags in FAMILIES if "<think>" in tags.opens)
HERMES = next(grammar() for name, grammar, _ in BY_TEMPLATE if name == "hermes")
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
END = Done("stop", 0.0, 0.0, 0.0)


NAMES = {byte: name for name, byte in decoding.ALPHABET.items()}


class Words:
    """A byte-level tokenizer whose ids are places in a list of texts or bytes; None is a token that is not shown."""

    def __init__(self, texts):
        self.raw = [text.encode() if isinstance(text, str) else text for text in texts]
        self.pipeline = decoding.Pipeline({"type": "ByteLevel"})

    def token_bytes(self, ident):
        return self.raw[ident] or b""

    def piece(self, ident):
        return "".join(NAMES[byte] for byte in self.token_bytes(ident))

    def hidden(self, skip_special, keep=()):
        return {ident for ident, raw in enumerate(self.raw) if raw is None}


def choice(texts, stop=(), tools=(), opened=False, parser=True):
    sequence = Sequence([1], Sampling(), 0, 100, frozenset(), SimpleQueue().put)
    sequence.started = sequence.decoding = sequence.arrived
    format = Format("hermes", HERMES, THINK)
    words, made = Words(texts), format.parser(tools, opened=opened) if parser else None
    return Choice(0, sequence, words, stop, made, reasoning=ReasoningState(THINK, words.token_bytes, opened))


def events(texts, end=END, **options):
    made = choice(texts, **options)
    said = [event for ident in range(len(texts)) for event in made.take(Token(ident, -float(ident)))]
    return said + ([] if made.ended else list(made.take(end)))


def scored(said):
    """(text, ids of its tokens) of every Text."""
    return [(event.text, [score.id for score in event.logprobs]) for event in said if isinstance(event, Text)]


def test_each_text_has_the_tokens_that_it_is_made_of():
    assert scored(events(["Hel", "lo", " you", " <", "3"], tools=[WEATHER])) == [
        ("Hel", [0]), ("lo", [1]), (" you", [2]), (" <3", [3, 4])]  # fmt: skip


def test_reasoning_has_none_and_leaves_none_to_the_answer():
    said = events(["<think>", "hm", "m", "</think>", "\n\n", "Yes", "."])
    assert [event.text for event in said if isinstance(event, Reasoning)] == ["hm", "m"]
    assert scored(said) == [("Yes", [5]), (".", [6])]
    assert scored(events(["hm", "</think>", "Yes"], opened=True)) == [("Yes", [2])]


@pytest.mark.parametrize(
    ("texts", "opened", "tokens"),
    [
        (["<think>", "hm", "m", "</think>", "\n\n", "Yes", "."], False, 2),
        ([" ", "hm", "</think>", "\n", "Yes"], True, 2),
        (["Yes", ", ", "no"], False, 0),
        (["\n", "hm"], True, 2),
    ],
)
def test_reasoning_tokens_are_those_between_its_marks(texts, opened, tokens):
    usage = events(texts, opened=opened)[-1].usage
    assert (usage.reasoning_tokens, usage.completion_tokens) == (tokens, len(texts))


def test_a_call_has_none_and_text_around_it_has_its_own():
    call = ["<tool", "_call>", '{"name": "weather", "arguments"', ": {}}", "</tool_call>"]
    said = events(["Look", "ing", " ", *call, "\n", "Done"], tools=[WEATHER])
    assert any(isinstance(event, ToolOpened) for event in said)
    assert scored(said) == [("Look", [0]), ("ing", [1]), ("Done", [9])]


def test_a_token_in_two_texts_is_told_with_the_first():
    assert scored(events(["a ", "<tool", "s> b"], tools=[WEATHER])) == [("a", [0]), (" <tools> b", [1, 2])]
    assert scored(events(["one", " th", "is"], stop=["three"])) == [("one", [0]), (" ", [1]), ("this", [2])]


@pytest.mark.parametrize("parser", [True, False])
def test_a_stop_string_takes_its_own_tokens_along(parser):
    said = events(["one", " two", " th", "ree", " four"], stop=[" three"], parser=parser)
    assert scored(said) == [("one", [0]), (" two", [1])]
    assert said[-1].stop == " three"
    assert scored(events(["one", " two th", "ree"], stop=["three"], parser=parser)) == [("one", [0]), (" two ", [1])]


@pytest.mark.parametrize("parser", [True, False])
def test_parts_of_a_character_and_hidden_tokens_go_with_what_follows(parser):
    parts = [b"\xe2", b"\x82", b"\xac"]
    assert scored(events(["5", *parts, None, "!"], parser=parser)) == [("5", [0]), ("\u20ac", [1, 2, 3]), ("!", [4, 5])]
    assert scored(events(["5", *parts[:2]], parser=parser)) == [("5", [0]), ("\ufffd", [1, 2])]
    assert scored(events(["5", None], parser=parser)) == [("5", [0]), ("", [1])]
    assert scored(events(["</think>", None], opened=True)) == []


def test_every_token_of_an_answer_is_told_once():
    said = events(["a", " b", " \n", "c", " "])
    assert [ident for _, ids in scored(said) for ident in ids] == [0, 1, 2, 3, 4]
    assert "".join(text for text, _ in scored(said)) == "a b \nc " and isinstance(said[-1], Finished)
