"""The reasoning's budget and the grammar's turn, token by token, on a vocabulary of words."""

import copy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from smelt.engine.errors import EngineFailed
from smelt.engine.guide import Guide, Spelling, along
from smelt.engine.parse import Parser
from smelt.engine.parse.reasoning import CHANNEL, THINK, Tags
from smelt.engine.reasoning import ReasoningState

WORDS = ["<think>", "</think>", "\n", "\n\n", "a", "b", "{", "}", "<end>", "<", "thi", "nk>", "</", "é"[:1], " "]
ID = {word: ident for ident, word in enumerate(WORDS)}
SPELLING = Spelling(
    len(WORDS), frozenset({ID["<end>"]}), (ID["<think>"],), (ID["\n"],), (ID["</think>"], ID["\n\n"]),
    frozenset({ID["\n"], ID["\n\n"]}),
)  # fmt: skip


class Braces:
    """The grammar {a*}."""

    def __init__(self):
        self.text, self.wrong = "", False

    def next(self):
        return {"": "{", "}": ""}.get(self.text[-1:], "a}")

    def compute_bitmask(self):
        return SPELLING.only(*(ID[word] for word in self.next()))

    def validate_tokens(self, tokens):
        return int(WORDS[tokens[0]] in self.next() and WORDS[tokens[0]] != "")

    def consume_token(self, token):
        self.wrong = self.wrong or not self.validate_tokens([token])
        self.text += WORDS[token]
        return not self.wrong

    def is_stopped(self):
        return self.text.endswith("}")

    def is_error(self):
        return self.wrong

    def get_error(self):
        return "no"

    def deep_copy(self):
        return copy.copy(self)


def spelled(token):
    return WORDS[token].encode()


def state(opened=False, tags=THINK):
    return ReasoningState(tags, spelled, opened)


def guide(matcher=True, budget=None, opened=False, spelling=SPELLING):
    return Guide(spelling, state(opened), Braces() if matcher else None, budget)


def fits(made):
    mask = made.mask()
    return set(WORDS) if mask is None else {w for i, w in enumerate(WORDS) if mask[i >> 3] >> (i & 7) & 1}


def feed(made, *words):
    for word in words:
        assert word in fits(made), (word, fits(made))
        made.take(ID[word])
    return made


def test_the_grammar_begins_behind_the_reasoning():
    made = feed(guide(opened=True), "a", "b", "{", "</think>")
    assert fits(made) == {"{", "\n", "\n\n"} and made.waits(0)
    feed(made, "\n\n", "{", "a", "}")
    assert made.ended


def test_the_model_may_open_the_reasoning_or_answer_at_once():
    assert fits(guide()) == {"{", "<think>"}
    assert fits(feed(guide(), "<think>")) == set(WORDS) - {"<end>"}
    assert fits(feed(guide(), "{")) == {"a", "}"}
    made = feed(guide(), "<think>", "a", "</think>")
    assert "<think>" not in fits(made)
    assert fits(guide(spelling=Spelling(len(WORDS), SPELLING.ends))) == {"{"}


def test_line_ends_come_to_an_end():
    made = feed(guide(opened=True), "</think>", "\n", "\n")
    assert fits(made) == {"{"}


def test_a_completion_does_not_end_before_its_answer():
    assert "<end>" not in fits(guide(opened=True)) and "<end>" in fits(guide(matcher=False, opened=True))


@pytest.mark.parametrize("matcher", [True, False])
@pytest.mark.parametrize("budget", range(6))
def test_the_budget_closes_the_block(matcher, budget):
    made, count = guide(matcher, budget, opened=True), 0
    while not made.forced:
        feed(made, "a")
        count += 1
    assert count == max(0, budget - 1)
    lead = ["\n"] if count else []
    for word in (*lead, "</think>", "\n\n"):
        assert fits(made) == {word} and made.waits(0)
        feed(made, word)
    assert made.reasoning.count == count + len(lead) <= budget
    assert fits(made) == ({"{", "\n", "\n\n"} if matcher else set(WORDS))


def test_a_second_block_has_no_budget_left():
    made = feed(guide(False, 3, opened=True), "a", "a", "\n", "</think>", "\n\n", "<think>")
    assert fits(made) == {"\n"}


def test_another_token_than_the_forced_one_is_a_fault():
    made = guide(False, 0, opened=True)
    with pytest.raises(EngineFailed):
        made.take(ID["a"])


def test_a_token_that_does_not_fit_is_a_fault():
    with pytest.raises(EngineFailed, match="no"):
        guide().take(ID["b"])


class Nothing(Braces):
    def next(self):
        return ""


def test_a_grammar_that_no_token_fits_is_a_fault():
    with pytest.raises(EngineFailed, match="no token"):
        Guide(Spelling(len(WORDS)), None, Nothing(), None).mask()


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=30), budget=st.integers(0, 8), opened=st.booleans())
def test_what_need_not_wait_needs_no_mask(words, budget, opened):
    """Whatever the token that nobody read yet turns out to be."""
    made = guide(False, budget, opened)
    for word in words:
        assert made.waits(0) or made.mask() is None
        for other in () if made.waits(1) else WORDS:
            ahead = copy.deepcopy(made)
            ahead.take(ID[other])
            assert ahead.mask() is None
        made.take(made.forced[0] if made.forced else ID[word])


@settings(deadline=None)
@example(["<think>", "</think>", "</think>", "<think>", "\n", "\n", "\n"], False)
@given(pieces=st.lists(st.sampled_from([w for w in WORDS if w != "<end>"]), max_size=25), opened=st.booleans())
def test_the_state_is_what_the_parser_says(pieces, opened):
    """Tokens that are reasoning for one are reasoning for the other, but for half a mark, which may become a whole one."""
    here, parser = state(opened), Parser(None, THINK, opened=opened)
    for word in pieces:
        here.take(ID[word])
        parser.feed(word)
    made = parser.feed("X") + parser.finish()
    (last,) = [piece for piece in made if "X" in piece.text]
    assert (type(last).__name__ == "Reasoning") == here.inside or "<" in "".join(pieces[-3:])


def test_marks_that_no_token_is():
    here = state()
    for word in ("<", "thi", "nk>"):
        here.take(ID[word])
    assert here.inside
    for word in ("a", "</", "thi", "nk>"):
        here.take(ID[word])
    assert not here.inside and here.blocks == 1


def test_a_block_may_open_anywhere_only_where_marks_mean_nothing_else():
    anywhere = Tags(("<think>",), ("</think>",), anywhere=True)
    for tags, may in ((THINK, False), (anywhere, True)):
        here = state(tags=tags)
        here.take(ID["a"])
        assert here.may_open == may
        here.take(ID["<think>"])
        assert here.inside == may


def test_families_say_what_stands_around_the_closing_mark():
    assert (THINK.lead, THINK.after) == ("\n", "\n\n") and (CHANNEL.lead, CHANNEL.after) == ("", "")


@settings(max_examples=300, deadline=None)
@given(
    draft=st.lists(st.integers(0, len(WORDS) - 1), max_size=7), matcher=st.booleans(), opened=st.booleans(),
    budget=st.sampled_from([None, 0, 2, 4]), before=st.sampled_from([[], ["a"], ["a", "b"]]),
)  # fmt: skip
def test_masks_along_a_draft_are_those_of_its_tokens_taken(draft, matcher, opened, budget, before):
    """Up to one that does not fit or ends it; and the guide stays where it was."""
    made = guide(matcher, budget, opened)
    if opened and not made.forced:
        for word in before:
            made.take(ID[word]) if not made.forced else None
    state = made.mask(), list(made.forced), made.reasoning.count, made.reasoning.inside
    found, mask, expected = along(made, made.mask(), draft), made.mask(), []
    assert (made.mask(), list(made.forced), made.reasoning.count, made.reasoning.inside) == state
    for token in draft:
        if mask is not None and not mask[token >> 3] >> (token & 7) & 1:
            break
        made.take(token)
        if made.ended:
            break
        mask = made.mask()
        expected.append(mask)
    assert found == expected


def test_a_draft_behind_which_nothing_fits_is_cut_there():
    made = feed(guide(opened=False, spelling=Spelling(len(WORDS), SPELLING.ends)), "{")
    made.matcher.next = lambda: "a" if made.matcher.text == "{" else ""
    made.matcher.deep_copy = lambda: stuck(made.matcher)
    assert along(made, made.mask(), [ID["a"], ID["a"]]) == []


def stuck(matcher):
    """A copy after whose next token nothing fits."""
    other = Braces()
    other.text = matcher.text
    other.next = lambda: "a" if other.text == matcher.text else ""
    return other
