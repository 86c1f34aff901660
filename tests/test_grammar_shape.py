"""Whatever a shape's grammar lets through is of that shape; JSON is checked by another implementation of JSON schemas."""

import json
import re

import jsonschema
import pytest
from smelt.engine.errors import BadRequest
from smelt.engine.request import Request, Shape
from walks import House, walk

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mail": {"type": ["string", "null"], "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 3]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
SCHEMAS = {
    "person": PERSON,
    "any of": {"anyOf": [{"const": {"x": None}}, {"type": "number", "exclusiveMinimum": 1.5, "maximum": 9}]},
    "recursive": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
                "required": ["left"],
                "additionalProperties": False,
            }
        },
    },
    "pattern": {"type": "array", "items": {"type": "string", "pattern": "^[a-c]+/?$"}, "maxItems": 2},
    "all of": {"allOf": [{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
                         {"type": "object", "properties": {"b": {"const": "é"}}, "required": ["b"]}]},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"const": 1}], "items": False, "minItems": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return House(tmp_path_factory.mktemp("house"), "hermes")


def texts(house, shape, seeds=20):
    request, made = Request(text="x", shape=shape), []
    for seed in range(seeds):
        tokens = walk(house, house.matcher(request), seed, steps=300)
        if tokens is not None:
            made.append(house.tokenizer.decode(tokens))
    assert len(made) > seeds / 3, "most walks should end"
    return made


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_fits_its_schema(house, name):
    made = texts(house, Shape("json", SCHEMAS[name], "x"))
    for text in made:
        jsonschema.validate(json.loads(text), SCHEMAS[name])
    assert len(set(made)) > 1 or name in ("tuple",)


def test_white_space_comes_to_an_end(house):
    matcher = house.matcher(Request(text="x", shape=Shape("json", PERSON, "x")))
    [space] = house.tokenizer.encode(" ")
    matcher.consume_tokens(house.tokenizer.encode("{"))
    count = 0
    while matcher.validate_tokens([space]) == 1:
        matcher.consume_token(space)
        count += 1
    assert 10 < count < 100


@pytest.mark.parametrize("pattern", [r"a/b[0-9]{2}", r'("[a-z]*"\n){1,2}', r"(?s:.)[^a]\.", r"(x|/)y*", r"[A-Za-z]+é?"])
def test_texts_match_their_expression(house, pattern):
    for text in texts(house, Shape("regex", pattern, "x")):
        assert re.fullmatch(pattern, text)


def test_one_of_several_texts(house):
    choice = ("yes", "yes please", 'a "quoted"\nline', "é\\n", "no")
    assert set(texts(house, Shape("choice", choice, "x"), seeds=60)) == set(choice)


def test_a_sentence_of_a_grammar(house):
    lark = 'start: "[" item ("," item)* "]"\nitem: /[0-9]{1,2}/ | start\n'
    for text in texts(house, Shape("lark", lark, "x")):
        assert isinstance(json.loads(re.sub(r"\b0+(?=\d)", "", text)), list)


@pytest.mark.parametrize(
    ("kind", "value", "word"),
    [
        ("json", {"type": "array", "contains": {}, "items": {"uniqueItems": True}}, "contains"),
        ("json", {"type": "string", "format": "phone"}, "phone"),
        ("json", {"$ref": "#/$defs/missing"}, "missing"),
        ("json", {"oneOf": [{"type": "object"}, {"type": "object", "properties": {"a": {}}}]}, "oneOf.*anyOf"),
        ("json", {"type": "string", "x-guidance": {"lenient": True}, "not": {}}, "not"),
        ("json", {"type": "integer", "minimum": 2, "maximum": 1}, "minimum"),
        ("lark", "start: missing", "missing"),
        ("lark", "start: (", "Expected"),
        ("regex", "(a", "unclosed"),
        ("regex", "a(?!b)", "look-around"),
    ],
)
def test_what_cannot_be_enforced_is_named(house, kind, value, word):
    with pytest.raises(BadRequest, match="(?s)the.place.*" + word) as caught:
        house.matcher(Request(text="x", shape=Shape(kind, value, "the.place")))
    assert caught.value.param == "the.place" and "\n" not in caught.value.message
