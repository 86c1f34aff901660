"""Which format a checkpoint writes, and how arguments are made to fit their schema."""

import json

import chat_templates
import pytest
import vocabularies
from smelt.engine.chat import ChatTemplate
from smelt.engine.chat_formats import FORMATS
from smelt.engine.parse import choose
from smelt.engine.parse.reasoning import BRACKETS, CHANNEL, THINK
from smelt.engine.parse.schema import Tools, coerced, from_text, types_of
from smelt.engine.tokenizer import Tokenizer


class Vocabulary:
    def __init__(self, *tokens):
        self.tokens = tokens

    def id_of(self, token):
        return self.tokens.index(token) if token in self.tokens else None


TOOLS = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "tokens", "name", "tags"),
    [
        (chat_templates.QWEN, (), "hermes", THINK),
        (chat_templates.LLAMA, (), "llama-3", None),
        (chat_templates.MISTRAL, (), "mistral", None),
        (chat_templates.NEMOTRON, (), "nemotron", THINK),
        (chat_templates.GEMMA, (), "hermes", None),
        (chat_templates.PLAIN, ("[TOOL_CALLS]", "<|python_tag|>"), "hermes", None),
        ("", ("[TOOL_CALLS]",), "hermes", None),
        (TOOLS + "<tool_call>\n<function=example>", (), "xml", None),
        (TOOLS + "<|tool_call>call:<|channel>", (), "gemma-4", CHANNEL),
        (TOOLS + "<start_function_call>", (), "function-gemma", None),
        (TOOLS + "<|tool_list_start|>", (), "lfm2", None),
        (TOOLS + "<|python_tag|>", (), "llama-3", None),
        (TOOLS + "ipython <tool_call>", (), "hermes", None),
        (TOOLS + "ipython", (), "llama-3", None),
        (TOOLS, ("<|tool_call_start|>", "<think>"), "lfm2", THINK),
        (TOOLS, ("[TOOL_CALLS]", "[THINK]"), "mistral", BRACKETS),
        (TOOLS, (), "hermes", None),
    ],
)
def test_the_format_is_told_by_template_and_vocabulary(source, tokens, name, tags):
    made = choose(source, Vocabulary(*tokens))
    assert (made.name, made.tags) == (name, tags)


@pytest.mark.parametrize("format", [name for name, *_ in FORMATS])
def test_built_in_chat_formats_teach_hermes(format):
    source = next(source for name, source, _ in FORMATS if name == format)
    assert choose(source, Vocabulary("[TOOL_CALLS]")).name == "hermes"


def test_the_template_of_conversations_with_tools_tells():
    made = ChatTemplate({"default": chat_templates.PLAIN, "tool_use": chat_templates.MISTRAL}, {})
    assert choose(made.tool_source, Vocabulary()).name == "mistral"


def test_marks_that_are_special_tokens_stay_visible(tmp_path):
    marks = ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>")
    folder = vocabularies.folder(tmp_path, vocabularies.byte_level(special=(*marks, "<turn|>"), visible=()))
    tokenizer = Tokenizer.load(folder)
    keep = choose(TOOLS + "<|tool_call>call:<|channel>", tokenizer).keep(tokenizer)
    assert keep == {tokenizer.id_of(mark) for mark in marks}
    text = '<|channel>thought\nx<channel|><|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|><turn|>'
    assert tokenizer.decode(tokenizer.encode(text), keep=keep) == text.removesuffix("<turn|>")


# Schemas


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"string", "null"}),
        ({"oneOf": [{"type": "string"}, {}]}, set()),
        ({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}, {"string"}),
        ({"enum": ["a", 1]}, {"string", "integer"}),
        ({"const": True}, {"boolean"}),
        ({"$ref": "#/$defs/x"}, {"object"}),
        ({"$ref": "#/$defs/loop"}, set()),
        ({"$ref": "nowhere"}, set()),
        ({"type": "riddle"}, set()),
        ({"type": [5]}, set()),
        ({"enum": 5}, set()),
        (None, set()),
        (5, set()),
    ],
)
def test_types_of_a_schema(schema, types):
    root = {"$defs": {"x": {"type": "object"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert types_of(schema, root) == types


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", {"integer"}, 5),
        (" 5 ", {"integer"}, 5),
        ("5.0", {"integer"}, 5),
        ("5.5", {"integer"}, "5.5"),
        ("5", {"number"}, 5),
        ("1e3", {"number"}, 1000.0),
        ("1e999", {"number"}, "1e999"),
        ("five", {"integer"}, "five"),
        ("TRUE", {"boolean"}, True),
        ("yes", {"boolean"}, "yes"),
        ("None", {"string", "null"}, None),
        ("None", {"string"}, "None"),
        ("[1, 2]", {"array"}, [1, 2]),
        ("[1, 2]", {"string"}, "[1, 2]"),
        ("{'a': (1, None)}", {"object"}, {"a": [1, None]}),
        ("{broken", {"object"}, "{broken"),
        ("[1]", {"object"}, "[1]"),
        ("5", set(), 5),
        ("true", set(), True),
        ("007", set(), "007"),
        ("a b", set(), "a b"),
        ("", set(), ""),
        ("9" * 5000, {"integer"}, "9" * 5000),
        ("[" * 5000, set(), "[" * 5000),
    ],
)
def test_plain_text_as_the_schema_wants_it(text, types, value):
    assert json.loads(from_text(text, frozenset(types))) == value


@pytest.mark.parametrize(
    ("value", "types", "made"),
    [
        (5, {"string"}, "5"),
        (True, {"string"}, "true"),
        ({"a": 1}, {"string"}, '{"a": 1}'),
        (None, {"string"}, None),
        ("5", {"integer"}, 5),
        ("x", {"integer"}, "x"),
        (5.0, {"integer"}, 5),
        (5.5, {"integer"}, 5.5),
        (5, {"number"}, 5),
        (1, {"boolean"}, 1),
        ("[1]", {"array"}, [1]),
        ("x", {"string", "array"}, "x"),
        ("x", set(), "x"),
    ],
)
def test_json_as_the_schema_wants_it(value, types, made):
    assert json.loads(coerced(json.dumps(value), frozenset(types))) == made


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("get_weather", "get_weather"),
        ("functions.get_weather", "get_weather"),
        ("default_api:getWeather", "get_weather"),
        ("get-weather", "get_weather"),
        ("Get Weather", "get_weather"),
        ("weather", None),
        ("twin", None),
        ("TWIN", "TWIN"),
        ("ns.tool", "ns.tool"),
        ("", None),
    ],
)
def test_the_tool_that_is_meant(name, meant):
    names = ["get_weather", "TWIN", "t_win", "ns.tool"]
    assert Tools([{"function": {"name": one}} for one in names]).resolve(name) == meant
