"""The arguments of calls that are not written as JSON: Qwen's tags, Python's keywords, Gemma's own notation.

Members come in the order of the schema. What a notation cannot be held to is refused for a strict tool, by name.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadRequest
from ..parse.schema import referred, types_of
from .lark import Lark

if TYPE_CHECKING:
    from .calls import Call

# Keywords that say nothing of what fits.
NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment",
         "$defs", "definitions"}  # fmt: skip
GEMMA = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": set(),
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
    "null": set(),
}
NONE = '""'
COMMA = '","'
NAME = "/[A-Za-z0-9_.-]{1,64}/"
DEPTH = 32  # of schemas in schemas


def properties_of(call: "Call") -> tuple[dict[str, Any], set[str]]:
    """The declared members, and which must be there."""
    found = call.schema.get("properties")
    found = dict(found) if isinstance(found, Mapping) else {}
    required = {name for name in call.schema.get("required") or () if isinstance(name, str)}
    if undeclared := sorted(required - set(found)):
        refuse(call, f"required names {undeclared[0]!r}, which is none of its properties")
    return found, required & set(found)


def closed(schema: Mapping[str, Any]) -> bool:
    """Has an object no members but the declared ones?"""
    return schema.get("additionalProperties") is False


def refuse(call: "Call", why: str) -> None:
    if not call.lenient:
        raise BadRequest(f"the arguments of {call.name} cannot be held to their schema: {why}", "tools")


def known(call: "Call", schema: Mapping[str, Any], keywords: set[str], where: str) -> None:
    for key in schema:
        if key not in keywords and key not in NOTES:
            refuse(call, f"{where} has the keyword {key!r}, which cannot be enforced in the way this model writes calls")


def within(call: "Call", schema: Any) -> Any:
    """A part of the call's schema, with the definitions that it may refer to."""
    if not isinstance(schema, Mapping):
        return schema
    kept = {key: call.schema[key] for key in ("$defs", "definitions") if key in call.schema}
    return {**schema, **kept}


def listed(lark: Lark, members: Sequence[tuple[str, bool]], between: str) -> str:
    """Members in their order, each with whether it must be there; `between` stands between any two."""
    after = before = ""  # what follows from here: when a member came already, and when none did
    for member, needed in reversed(members):
        later = f"{between} {member}" if needed else f"({between} {member})?"
        after, rest = lark.rule(f"{later} {after}"), after
        first = f"{member} {rest}"
        before = lark.rule(first if needed else f"{first} | {before or NONE}")
    return before


# <parameter=KEY>VALUE</parameter>

CLOSE = "\n</parameter>"


def xml_parameters(lark: Lark, call: "Call") -> str:
    # In one piece: what scans the text never goes back, and a line end could also begin another parameter.
    end, properties = lark.text("\n</function>"), call.schema.get("properties")
    if call.input is not None:
        return f"{xml_begin(lark, 'input')} {lark.shape(call.input)} {lark.text(CLOSE)} {end}"
    if not properties and closed(call.schema):
        return end
    if not properties:
        begin, follows = lark.text("\n<parameter="), lark.text(">\n")
        return f"({begin} {lark.rule(NAME, terminal=True)} {follows} {lark.until(CLOSE)})* {end}"
    properties, required = properties_of(call)
    members = [
        (f"{xml_begin(lark, name)} {xml_value(lark, call, name, schema)}", name in required)
        for name, schema in properties.items()
    ]
    return " ".join([*(member if needed else f"({member})?" for member, needed in members), end])


def xml_begin(lark: Lark, name: str) -> str:
    return lark.text(f"\n<parameter={name}>\n")


def xml_value(lark: Lark, call: "Call", name: str, schema: Any) -> str:
    """Texts stand as they are, up to the tag; other values are JSON."""
    types = types_of(schema, call.schema)
    if isinstance(schema, Mapping) and texts(schema.get("enum")):
        return lark.rule(" | ".join(lark.text(text + CLOSE) for text in schema["enum"]))
    if types and "string" not in types:
        return f"{lark.json(within(call, schema), lenient=call.lenient)} {lark.text(CLOSE)}"
    if isinstance(schema, Mapping) and types == {"string"}:
        known(call, schema, {"type", "$ref", "anyOf"}, f"its property {name!r}")
    elif types - {"string", "null"}:
        refuse(call, f"its property {name!r} may be a text or something else, which look alike in this model's calls")
    return lark.until(CLOSE)


def texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) and value for value in values)


# name=VALUE, name=VALUE


def python_arguments(lark: Lark, call: "Call") -> str:
    if call.input is not None:
        return lark.text('input="') + f" {lark.quoted(call.input)} " + lark.text('"')
    properties, required = properties_of(call)
    if not properties and closed(call.schema):
        return ""
    if not properties:
        member = lark.rule(f'{lark.rule(NAME, terminal=True)} "=" {lark.json(True)}')
        return f'({member} (", " {member})*)?'
    members = [
        (f"{lark.text(name + '=')} {lark.json(within(call, schema), lenient=call.lenient)}", name in required)
        for name, schema in properties.items()
    ]
    return listed(lark, members, '", "')


# {key:<|"|>text<|"|>,other:3}


def gemma_object(lark: Lark, call: "Call", quote: str) -> str:
    if call.input is not None:
        return f"{lark.text('{input:' + quote)} {lark.shape(call.input)} {lark.text(quote + '}')}"
    return Gemma(lark, call, quote).object(call.schema, "it")


class Gemma:
    """Schemas to rules of Gemma's notation, in which strings stand between marks and keys alone."""

    def __init__(self, lark: Lark, call: "Call", quote: str):
        self.lark, self.call, self.quote = lark, call, quote
        self.referred: dict[str, str] = {}
        self.any: str | None = None

    def value(self, schema: Any, where: str, depth: int = 0) -> str:
        if depth > DEPTH:
            raise BadRequest(f"the schema of {self.call.name} is nested deeper than {DEPTH} levels", "tools")
        if not isinstance(schema, Mapping) or not set(schema) - NOTES:
            return self.anything()
        if "$ref" in schema:
            return self.reference(schema["$ref"], where, depth)
        if "enum" in schema or "const" in schema:
            return self.lark.rule(" | ".join(map(self.constant, schema.get("enum", [schema.get("const")]))))
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                known(self.call, schema, {key}, where)
                return self.lark.rule(" | ".join(self.value(part, where, depth + 1) for part in schema[key]))
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        return self.lark.rule(" | ".join(self.typed(kind, schema, where, depth + 1) for kind in kinds))

    def reference(self, pointer: Any, where: str, depth: int) -> str:
        if pointer not in self.referred:
            name = self.referred[pointer] = f"d{len(self.lark.rules)}"
            self.lark.rules[name] = NONE  # holds the name, for a schema that refers to itself
            found = referred(self.call.schema, pointer) if isinstance(pointer, str) else None
            if found is None:
                raise BadRequest(f"the schema of {self.call.name} refers to {pointer!r}, which is not in it", "tools")
            self.lark.rules[name] = self.value(found, where, depth + 1)
        return self.referred[pointer]

    def typed(self, kind: Any, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if kind not in GEMMA:
            known(self.call, schema, set(), where)
            return self.anything()
        known(self.call, schema, {"type", *GEMMA[kind]} | (set(schema) if isinstance(schema["type"], list) else set()), where)
        if kind == "object":
            return self.object(schema, where, depth)
        if kind == "array":
            return self.array(schema, where, depth)
        if kind == "string":
            return self.string()
        numbers = {key: schema[key] for key in GEMMA["number"] if key in schema}
        return self.lark.json({"type": kind, **(numbers if kind in ("integer", "number") else {})})

    def string(self) -> str:
        return f"{self.lark.text(self.quote)} {self.lark.until(self.quote)}"

    def constant(self, value: Any) -> str:
        if isinstance(value, str):
            return self.lark.text(self.quote + value + self.quote)
        return self.lark.text(json.dumps(value))

    def array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        least, most = schema.get("minItems") or 0, schema.get("maxItems")
        item = self.value(schema.get("items", True), f"the items of {where}", depth)
        if most == 0:
            return '"[" "]"'
        further = f'("," {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
        inside = f"{item} {further}"
        return f'"[" {inside} "]"' if least else f'"[" ({inside})? "]"'

    def object(self, schema: Mapping[str, Any], where: str, depth: int = 0) -> str:
        properties, required = schema.get("properties"), set(schema.get("required") or ())
        if not isinstance(properties, Mapping) or not properties:
            return '"{" "}"' if closed(schema) else self.open_object()
        members = [
            (f"{self.lark.text(name + ':')} {self.value(part, f'its property {name!r}', depth + 1)}", name in required)
            for name, part in properties.items()
        ]
        return f'"{{" {listed(self.lark, members, COMMA)} "}}"'

    def open_object(self) -> str:
        member = f'{self.lark.rule(NAME, terminal=True)} ":" {self.anything()}'
        return f'"{{" ({member} ("," {member})*)? "}}"'

    def anything(self) -> str:
        if self.any is None:
            self.any = f"d{len(self.lark.rules)}"
            self.lark.rules[self.any] = NONE
            plain = self.lark.json({"type": ["number", "boolean", "null"]})
            items = f'"[" ({self.any} ("," {self.any})*)? "]"'
            self.lark.rules[self.any] = f"{self.string()} | {plain} | {items} | {self.open_object()}"
        return self.any
