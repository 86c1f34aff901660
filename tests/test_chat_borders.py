"""Where the parts of rendered conversations end: what the next turn, or another conversation, begins with."""

from array import array

import chat_templates as t
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from smelt.engine.chat_borders import borders, covering, fitting, place
from smelt.engine.errors import BadRequest
from smelt.engine.prefix_tree import common
from smelt.engine.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(tiny.BUILTIN)
SYSTEM = t.says("system", "You answer in few words, and never in rhyme.")
ASKED = [SYSTEM, *t.TURNS[-1:], t.says("assistant", "Yes."), t.says("user", "Why is the sky blue?")]


def tokens_of(text):
    return TOKENIZER.encode_prompt(text, rendered_by_template=True)


def found(name, messages, **variables):
    """(prompt's tokens, the borders in it)"""
    template = t.template(name)
    text = template.render(messages, **variables)
    render = lambda said: template.render(said, add_generation_prompt=False, **variables)  # noqa: E731
    return tokens_of(text), borders(messages, text, tokens_of(text), render, TOKENIZER.token_bytes)


def shared(name, tokens, messages, **variables):
    other = tokens_of(t.template(name).render(messages, **variables))
    return common(array("i", tokens), array("i", other))


@pytest.mark.parametrize("name", sorted(t.ALL))
def test_the_next_turn_begins_with_all_up_to_the_last_border(name):
    messages = [t.says("user", "Hello, who are you?")]
    tokens, found_at = found(name, messages)
    turn = [*messages, t.says("assistant", "I am Smelt."), t.says("user", "Good.")]
    assert found_at and found_at[-1] <= shared(name, tokens, turn)
    question = TOKENIZER.decode(tokens[: found_at[-1]], skip_special=False)
    assert "who are you" in question  # and it is not before the last message


@pytest.mark.parametrize("name", ["qwen", "llama", "nemotron"])
def test_other_conversations_begin_with_the_system_message(name):
    tokens, found_at = found(name, [SYSTEM, t.says("user", "Why is the sky blue?")])
    other = shared(name, tokens, [SYSTEM, t.says("user", "Compare two teas.")])
    assert found_at[0] == other
    assert SYSTEM["content"] in TOKENIZER.decode(tokens[: found_at[0]], skip_special=False)


def test_what_was_thought_since_the_last_question_is_behind_a_border():
    """In the next turn the template leaves it out."""
    loop = [t.says("user", "Weather?"), t.calls() | {"reasoning_content": "Let me look."}]
    loop.append(t.says("tool", "blue", tool_call_id="abcdefghi", name="weather"))
    tokens, found_at = found("qwen", loop)
    turn = shared("qwen", tokens, [*loop, t.says("assistant", "Blue."), t.says("user", "And now?")])
    assert "Let me look" in TOKENIZER.decode(tokens) and turn < len(tokens) - 10
    assert turn - 4 <= max(p for p in found_at if p <= turn) and len(found_at) == 3


def test_a_template_that_refuses_a_part_has_the_other_borders():
    text = "<user>Hello<user>Again<answer>"

    def render(messages):
        if len(messages) != 2:
            raise BadRequest("two messages, please", "messages")
        return text.removesuffix("<answer>")

    said = [t.says("user", "Hello"), t.says("user", "Again")]
    assert borders(said, text, list(text.encode()), render, lambda token: bytes([token])) == (len(text) - 8,)


@given(st.lists(st.text("aé \U0001f600", max_size=4), max_size=12), st.data())
def test_a_place_is_after_the_last_token_that_is_whole(pieces, data):
    text = "".join(pieces)
    end = data.draw(st.integers(0, len(text)))
    at = place(range(len(pieces)), text, end, lambda i: pieces[i].encode())
    assert len("".join(pieces[:at])) <= end
    assert not any(pieces[at:]) or len("".join(pieces[: at + 1])) > end or not pieces[at]


def test_tokens_that_fit_and_tokens_that_cover():
    sizes = lambda token: b"x" * token  # noqa: E731
    assert [fitting([2, 3, 1], n, sizes) for n in (0, 1, 2, 4, 5, 6, 9)] == [0, 0, 1, 1, 2, 3, 3]
    assert [covering([2, 3, 1], n, sizes) for n in (0, 1, 2, 3, 5, 6)] == [0, 1, 1, 2, 2, 3]
