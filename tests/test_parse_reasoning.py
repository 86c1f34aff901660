"""Reasoning: told from the answer by the family's marks, wherever the text is split, and never inside an argument."""

import outputs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.engine.parse import Format, Reasoning, Text
from smelt.engine.parse.gemma import Gemma4
from smelt.engine.parse.llama import Llama3
from smelt.engine.parse.mistral import Mistral
from smelt.engine.parse.reasoning import BRACKETS, CHANNEL, FAMILIES, SEED, THINK
from smelt.engine.parse.tagged import Hermes, Xml
from test_parse_tools import meaning, run

QWEN, CODER = Format("hermes", Hermes(), THINK), Format("xml", Xml(), THINK)
GEMMA, MAGISTRAL = Format("gemma-4", Gemma4(), CHANNEL), Format("mistral", Mistral(), BRACKETS)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
KOELN = outputs.KOELN

# format, the prompt opened the block, text, meaning
CASES = [
    (QWEN, False, "<think>\nhm, so\n</think>\n\nYes.", [("think", "hm, so"), "Yes."]),
    (QWEN, False, "\n<think>hm</think>Yes.", [("think", "hm"), "Yes."]),
    (QWEN, False, "<think>\n\n</think>\n\nYes.\n", ["Yes.\n"]),
    (QWEN, True, "\nhm\n</think>\n\nYes.", [("think", "hm"), "Yes."]),
    (QWEN, True, "<think>\nhm\n</think>\n\nYes.", [("think", "hm"), "Yes."]),
    (QWEN, True, "hm</think></think>\nYes.", [("think", "hm"), "Yes."]),
    (QWEN, True, "hm, and so on", [("think", "hm, and so on")]),
    (QWEN, True, "hm </thi", [("think", "hm </thi")]),
    (QWEN, True, "a <think> b</think>c", [("think", "a <think> b"), "c"]),
    (QWEN, True, "", []),
    (QWEN, False, "The <think> tag, </think> too.", ["The <think> tag, </think> too."]),
    (QWEN, False, "Yes", ["Yes"]),
    (QWEN, False, f"<think>hm</think>\n\n{CALL}", [("think", "hm"), KOELN]),
    (QWEN, False, f"<think>hm</think>\n\nI look.\n{CALL}", [("think", "hm"), "I look.", KOELN]),
    (QWEN, False, f"{CALL}\n<think>more</think>\nYes", [KOELN, ("think", "more"), "Yes"]),
    (
        CODER,
        False,
        "<think>a</think><function=write_file><parameter=content>x</think>y<think></parameter></function>",
        [("think", "a"), ("write_file", {"content": "x</think>y<think>"})],
    ),
    # a call inside a block that never closes, and one that is only talked of
    (QWEN, True, f"So I call:\n{CALL}", [("think", f"So I call:\n{CALL}"), KOELN]),
    (QWEN, True, f"I could write {CALL} but no.", [("think", f"I could write {CALL} but no.")]),
    (QWEN, True, f"I could write {CALL}</think>No.", [("think", f"I could write {CALL}"), "No."]),
    (QWEN, True, "the <tool_call> tag", [("think", "the <tool_call> tag")]),
    # Gemma: the marks mean nothing else, so a block may begin anywhere
    (GEMMA, False, "<|channel>thought\nhm\n<channel|>Yes.", [("think", "hm"), "Yes."]),
    (GEMMA, False, "<|channel>thought\n<channel|>Yes.", ["Yes."]),
    (GEMMA, False, "<|channel>thought\nhm<channel|><|channel>final\nYes.", [("think", "hm"), "Yes."]),
    (GEMMA, False, "<|channel>thought\na<channel|><|channel>thought\nb<channel|>Yes.", [("think", "a\n\nb"), "Yes."]),
    (GEMMA, False, "Well. <|channel>thought\nhm<channel|>Yes.", ["Well.", ("think", "hm"), "Yes."]),
    (GEMMA, True, "\nhm<channel|><|tool_call>call:now{}<tool_call|>", [("think", "hm"), ("now", {})]),
    (MAGISTRAL, False, '[THINK]hm[/THINK]Yes.[TOOL_CALLS]now[ARGS]{}', [("think", "hm"), "Yes.", ("now", {})]),
    (Format("hermes", Hermes(), SEED), True, "hm</seed:think>Yes.", [("think", "hm"), "Yes."]),
    (Format("llama-3", Llama3(), THINK), False, '<think>x</think>{"name": "now", "parameters": {}}', [("think", "x"), ("now", {})]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "opened", "text", "expected"), CASES)
def test_known_outputs_wherever_they_are_split(form, opened, text, expected):
    parts = [[text[:at], text[at:]] for at in range(len(text) + 1)]
    for split in [[text], list(text), *parts]:
        assert meaning(run(form.parser(outputs.TOOLS, opened=opened), split)) == expected


@pytest.mark.parametrize("tags", FAMILIES)
@settings(max_examples=100, deadline=None)
@given(
    thought=st.text(st.characters(exclude_characters="<["), max_size=20),
    answer=st.text(st.characters(exclude_characters="<["), max_size=20),
    opened=st.booleans(),
)
def test_without_tools_only_white_space_at_the_marks_is_lost(tags, thought, answer, opened):
    text = ("" if opened else tags.opens[0]) + thought + tags.closes[0] + answer
    pieces = run(Format("hermes", Hermes(), tags).parser(opened=opened), list(text))
    assert "".join(piece.text for piece in pieces if isinstance(piece, Reasoning)) == thought.strip()
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == answer.lstrip()


def test_reasoning_comes_as_it_is_thought():
    made = QWEN.parser(outputs.TOOLS, opened=True)
    seen = [(at, piece) for at, char in enumerate("one two</thin k> x</think>y", 1) for piece in made.feed(char)]
    assert seen[0] == (1, Reasoning("o"))
    assert (5, Reasoning(" t")) in seen, "a space waits for what follows it"
    assert "".join(piece.text for _, piece in seen) == "one two</thin k> xy"


def test_the_marks_can_be_left_in_the_text():
    made = QWEN.parser(outputs.TOOLS, reasoning=False, opened=True)
    assert meaning(run(made, ["<think>hm</think>x"])) == ["<think>hm</think>x"]


def test_whether_a_prompt_ends_in_the_block():
    assert THINK.end_open("<|im_start|>assistant\n<think>\n")
    assert not THINK.end_open("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert CHANNEL.end_open("<|turn>model\n<|channel>thought\n")
