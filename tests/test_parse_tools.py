"""Tool calls: every known output means what it should, wherever it is split, and its arguments are always JSON."""

import json
import time

import outputs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.engine.parse import Format, Parser, Reasoning, Text, ToolArguments, ToolClosed, ToolOpened, joined
from smelt.engine.parse.formats import BY_TEMPLATE
from smelt.engine.parse.reasoning import FAMILIES

GRAMMARS = {name: grammar() for name, grammar, _ in reversed(BY_TEMPLATE)}
CASES = [(name, text, meaning) for name, cases in outputs.ALL.items() for text, meaning in cases]


def parser(name, tools=outputs.TOOLS, **options):
    return Format(name, GRAMMARS[name]).parser(tools, **options)


def run(made, parts):
    return [piece for part in parts for piece in made.feed(part)] + made.finish()


def meaning(pieces):
    """Text, ("think", text) and (name, arguments). Checks the order of a call's pieces on the way."""
    found, arguments, last = [], {}, -1
    for piece in joined(pieces):
        if isinstance(piece, Text):
            found.append(piece.text)
        elif isinstance(piece, Reasoning):
            found.append(("think", piece.text))
        elif isinstance(piece, ToolOpened):
            assert piece.call == last + 1
            last = piece.call
            arguments[last] = ""
        elif isinstance(piece, ToolArguments):
            assert piece.call == last and piece.text
            arguments[last] += piece.text
        elif isinstance(piece, ToolClosed):
            assert piece.call == last
            opened = next(one for one in pieces if isinstance(one, ToolOpened) and one.call == last)
            found.append((opened.name, json.loads(arguments.pop(last))))
    assert not arguments, "every call is closed"
    return found


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_known_outputs_wherever_they_are_split(name, text, expected):
    assert meaning(run(parser(name), [text])) == expected
    assert meaning(run(parser(name), list(text))) == expected
    for at in range(1, len(text)):
        assert meaning(run(parser(name), [text[:at], text[at:]])) == expected, f"split before {text[at:]!r}"


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_known_outputs_in_random_pieces(case, data):
    name, text, expected = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    parts = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    pieces = run(parser(name), parts)
    assert meaning(pieces) == expected
    told = 0
    for piece in pieces:
        if isinstance(piece, Text):  # it says where in the output it stood
            assert "".join(text[begin:end] for begin, end in piece.spans) == piece.text
            assert told <= piece.spans[0][0] and (told := piece.spans[-1][1]) <= len(text)


# Whatever comes

MARKS = sorted(
    {
        *(
            '{"name": "weather", "arguments": {',
            '"city": "',
            '"',
            "'",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\\",
            "\\u",
            "\\ud83d",
            "\n",
        ),
        *("(", ")", "=", "weather", "now", "call:", "1", "-", "null", "x", " ", "<", ">", "/", "`", ";", "\ufffd", "é"),
        *(
            "<tool_call>",
            "</tool_call>",
            "<tool",
            "</parameter>",
            "<parameter=city>",
            "<function=weather>",
            "</function>",
        ),
        *(
            "<|tool_call>",
            "<tool_call|>",
            '<|"|>',
            "[TOOL_CALLS]",
            "[ARGS]",
            "[CALL_ID]",
            "<|python_tag|>",
            "weather.call(",
        ),
        *("<|tool_call_start|>[weather(", "<|tool_call_end|>", "<TOOLCALL>[", "</TOOLCALL>", "<start_function_call>"),
        *("<think>", "</think>", "<|channel>thought\n", "<channel|>", "[THINK]", "[/THINK]"),
    }
)
garbage = st.lists(st.sampled_from(MARKS), max_size=30).map("".join)


@pytest.mark.parametrize("name", outputs.ALL)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_garbage_never_raises_and_splits_do_not_matter(name, data):
    text, opened = data.draw(garbage), data.draw(st.booleans())
    tags = data.draw(st.sampled_from([None, *FAMILIES]))
    parts = data.draw(st.sampled_from([list(text), [text[i : i + 5] for i in range(0, len(text), 5)]]))
    whole = meaning(run(Parser(GRAMMARS[name], tags, outputs.TOOLS, opened=opened), [text]))
    assert meaning(run(Parser(GRAMMARS[name], tags, outputs.TOOLS, opened=opened), parts)) == whole


@pytest.mark.parametrize("name", outputs.ALL)
@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<[{"), max_size=50), at=st.integers(0, 50))
def test_prose_is_left_as_it_is(name, text, at):
    assert meaning(run(parser(name), [text[:at], text[at:]])) == ([text] if text else [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "form", ["<tool_call>{}</tool_call>", "[TOOL_CALLS] [{}]", "<TOOLCALL>[{}]</TOOLCALL>", "<|python_tag|>{}"]
)
@settings(max_examples=50, deadline=None)
@given(
    arguments=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    ascii=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
def test_strict_json_means_exactly_what_it_says(form, arguments, ascii, indent):
    name = {"<to": "hermes", "[TO": "mistral", "<TO": "nemotron", "<|p": "llama-3"}[form[:3]]
    call = json.dumps({"name": "undeclared", "arguments": arguments}, ensure_ascii=ascii, indent=indent)
    assert meaning(run(parser(name), list(form.replace("{}", call)))) == [("undeclared", arguments)]


@settings(max_examples=50, deadline=None)
@given(value=st.text(max_size=30))
def test_any_text_as_a_parameter(value):
    text = f"<tool_call>\n<function=write_file>\n<parameter=content>\n{value}\n</parameter>\n</function>\n</tool_call>"
    assert meaning(run(parser("xml"), list(text))) == [("write_file", {"content": value})]


@settings(max_examples=50, deadline=None)
@given(arguments=st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), json_values, max_size=4))
def test_python_literals_mean_what_python_means(arguments):
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    text = f"<|tool_call_start|>[undeclared({written})]<|tool_call_end|>"
    assert meaning(run(parser("lfm2"), list(text))) == [("undeclared", arguments)]


# In a stream


def arrivals(name, text):
    """(how much was fed, piece) for a text that comes character by character."""
    made = parser(name)
    return [(at, piece) for at, char in enumerate(text, 1) for piece in made.feed(char)]


STREAMS = {
    "hermes": '<tool_call>{"name": "write_file", "arguments": {"content": "@"}}</tool_call>',
    "xml": "<tool_call>\n<function=write_file>\n<parameter=content>\n@\n</parameter>\n</function>\n</tool_call>",
    "gemma-4": '<|tool_call>call:write_file{content:<|"|>@<|"|>}<tool_call|>',
    "llama-3": '{"name": "write_file", "parameters": {"content": "@"}}',
    "mistral": '[TOOL_CALLS]write_file[ARGS]{"content": "@"}',
    "lfm2": "<|tool_call_start|>[write_file(content='@')]<|tool_call_end|>",
    "nemotron": '<TOOLCALL>[{"name": "write_file", "arguments": {"content": "@"}}]</TOOLCALL>',
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_name_comes_at_once_and_arguments_as_they_are_written(name):
    before, after = STREAMS[name].split("@")
    content = "some words " * 50
    seen = arrivals(name, before + content + after)
    opened = next(at for at, piece in seen if isinstance(piece, ToolOpened))
    assert opened <= len(before) + 1
    lags, sent = [], 0
    for at, piece in seen:
        if isinstance(piece, ToolArguments) and len(before) < at <= len(before + content):
            sent += len(piece.text)
            lags.append(at - len(before) - sent)
    assert len(lags) > 300 and max(lags) <= 3


def test_text_before_a_call_and_prose_come_at_once():
    seen = arrivals("hermes", "I look. <toolkit> ok")
    assert [at for at, piece in seen][:3] == [1, 3, 4], "a space waits for what follows it"
    assert "".join(piece.text for at, piece in seen) == "I look. <toolkit> ok"


def test_a_long_call_costs_no_more_per_character():
    text = STREAMS["hermes"].replace("@", "abc\\n" * 40_000)
    made, begun = parser("hermes"), time.perf_counter()
    for at in range(0, len(text), 4):
        made.feed(text[at : at + 4])
    made.finish()
    assert time.perf_counter() - begun < 5
    assert len(made.reader.buffer) < 1000


# What counts as a call


def test_without_tools_no_call_is_looked_for():
    for name, text, _ in CASES:
        assert meaning(run(parser(name, tools=()), list(text))) == [text]


def test_tools_of_any_shape_do_no_harm():
    odd = [
        {"function": {"name": "weather", "parameters": bad}}
        for bad in (None, 5, [], {"properties": 5}, {"properties": {"city": 5}})
    ]
    odd += [
        {"name": "flat"},
        {"function": {"name": "weather", "parameters": {"properties": {"city": {"$ref": "#/properties/city"}}}}},
    ]
    for tool in odd:
        assert meaning(run(parser("hermes", tools=[tool]), list(outputs.HERMES[0][0]))) == [outputs.KOELN]


def test_nesting_without_end():
    deep = "[" * 10_000
    text = f'<tool_call>{{"name": "weather", "arguments": {{"more": {deep}'
    (name, arguments), *rest = meaning(run(parser("hermes"), [text, "}</tool_call> ok"]))
    assert name == "weather" and rest == ["ok"]
    assert meaning(run(parser("gemma-4"), ["<|tool_call>call:now" + "{" * 10_000])) == [("now", {})]
    assert meaning(run(parser("hermes"), ["<tool_call>" + "{" * 10_000])) == ["<tool_call>" + "{" * 10_000]
