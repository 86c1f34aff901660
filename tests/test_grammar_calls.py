"""Whatever a grammar of calls lets through, the parser of the same format reads as calls that fit."""

import json

import jsonschema
import pytest
from smelt.engine.errors import BadRequest
from smelt.engine.grammar import grammar_of
from smelt.engine.parse import Text, ToolArguments, ToolClosed, ToolOpened
from smelt.engine.request import Request, Shape, ToolUse
from walks import FORMATS, House, walk

ASK = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "where": {"$ref": "#/$defs/point"},
    },
    "required": ["city", "where"],
    "additionalProperties": False,
    "$defs": {
        "point": {
            "type": "object",
            "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
            "required": ["y"],
            "additionalProperties": False,
        }
    },
}
NOW = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = (tool("weather", WEATHER), tool("now", NOW))


@pytest.fixture(scope="module", params=FORMATS)
def house(request, tmp_path_factory):
    return House(tmp_path_factory.mktemp("house"), request.param)


def calls(pieces):
    made = {}
    for piece in pieces:
        if isinstance(piece, ToolOpened):
            made[piece.call] = [piece.name, ""]
        elif isinstance(piece, ToolArguments):
            made[piece.call][1] += piece.text
    assert sum(isinstance(piece, ToolClosed) for piece in pieces) == len(made)
    return [(name, json.loads(arguments)) for name, arguments in made.values()]


def text(pieces):
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)).strip()


def walked(house, request, seeds=25, prefer=()):
    """The pieces of many random answers."""
    ended = 0
    for seed in range(seeds):
        tokens = walk(house, house.matcher(request), seed, prefer=prefer)
        if tokens is not None:
            ended += 1
            yield house.pieces(request, tokens)
    assert ended > seeds / 3, "most walks should end"


def fits(name, arguments):
    jsonschema.validate(arguments, {"weather": WEATHER, "now": NOW}[name])


def test_a_required_call_is_made_and_fits(house):
    request = Request(messages=ASK, tools=TOOLS, tool_use=ToolUse(required=True))
    counts = set()
    for pieces in walked(house, request):
        made = calls(pieces)
        counts.add(len(made))
        assert made and not text(pieces)
        for name, arguments in made:
            fits(name, arguments)
    assert len(counts) > 1


def test_a_named_tool_is_called_once(house):
    request = Request(messages=ASK, tools=TOOLS, tool_use=ToolUse(required=True, name="now"))
    for pieces in walked(house, request, seeds=4):
        assert calls(pieces) == [("now", {})]


def test_one_call_at_most(house):
    request = Request(messages=ASK, tools=TOOLS, tool_use=ToolUse(single=True))
    counts = set()
    for pieces in walked(house, request, seeds=40, prefer=house.openers):
        made = calls(pieces)
        counts.add(len(made))
        assert all(name in ("weather", "now") for name, _ in made)
    assert counts == {0, 1} if house.openers else counts <= {0, 1}


def test_a_strict_tool_fits_where_the_model_calls_it(house):
    request = Request(messages=ASK, tools=TOOLS, tool_use=ToolUse(strict={"weather", "now"}))
    made = [call for pieces in walked(house, request, seeds=40, prefer=house.openers) for call in calls(pieces)]
    for name, arguments in made:
        fits(name, arguments)
    assert made or not house.openers


def test_a_call_or_an_answer_of_the_shape(house):
    shape = Shape("json", {"enum": ["yes", "no"]}, "response_format")
    request = Request(messages=ASK, tools=TOOLS, shape=shape)
    kinds = set()
    for pieces in walked(house, request, prefer=house.openers):
        made = calls(pieces)
        kinds.add(bool(made))
        assert bool(made) != (text(pieces) in ('"yes"', '"no"'))
    assert kinds == {True, False}


PATCH = r"""
start: "*** Begin" LF line+ "*** End"
line: ("+" | "-") /(.*)/ LF
%import common.LF
"""


@pytest.mark.parametrize(("kind", "value"), [("lark", PATCH), ("regex", r'(a|"|\\){1,4}\n[/-]')])
def test_the_input_of_a_custom_tool_follows_its_grammar(house, kind, value):
    import re

    parameters = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    tools = (tool("patch", parameters), *TOOLS)
    use = ToolUse(required=True, name="patch", inputs={"patch": Shape(kind, value, "tools[0].format.definition")})
    request = Request(messages=ASK, tools=tools, tool_use=use)
    whole = re.compile(r"\*\*\* Begin\n([+-].*\n)+\*\*\* End" if kind == "lark" else value)
    breaks = {ident for ident in range(house.vocab) if house.tokenizer.token_bytes(ident) in (b"\n", b"*", b"\\", b"n")}
    for pieces in walked(house, request, seeds=12, prefer=breaks):
        [(name, arguments)] = calls(pieces)
        assert name == "patch" and whole.fullmatch(arguments["input"]), arguments


def test_what_cannot_be_held_to_its_schema_is_refused_for_a_strict_tool(house):
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {}, "uniqueItems": True}}}
    for strict, refused in (({"f"}, True), ((), False)):
        request = Request(messages=ASK, tools=(tool("f", schema),), tool_use=ToolUse(required=True, strict=strict))
        if refused:
            with pytest.raises(BadRequest, match="uniqueItems"):
                house.matcher(request)
        else:
            assert house.matcher(request)


def test_mistral_may_write_a_space_before_the_list(tmp_path):
    house = House(tmp_path, "mistral")
    matcher = house.matcher(Request(messages=ASK, tools=TOOLS, tool_use=ToolUse(required=True)))
    for begin in ('[TOOL_CALLS] [{"name": "now"', '[TOOL_CALLS][{"name": "now"'):
        tokens = house.tokenizer.encode(begin)
        assert matcher.validate_tokens(tokens) == len(tokens)


def test_without_a_wish_there_is_no_grammar(house):
    assert grammar_of(Request(messages=ASK, tools=TOOLS), house.format, house.marks, house.vocab) is None
    assert grammar_of(Request(messages=ASK, tool_use=ToolUse(single=True)), house.format, house.marks, 9) is None
