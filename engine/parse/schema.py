"""What the declared tools say of their arguments, as far as a parser needs it.

Schemas come from clients and values from models: nothing here raises.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

TYPES = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
INTEGER = re.compile(r"[+-]?\d{1,300}(\.0+)?")
NOTHING: frozenset[str] = frozenset()


class Tools:
    """The catalogue of one request, in the form {"type": "function", "function": {"name", "parameters"}}."""

    def __init__(self, tools: Iterable[Mapping[str, Any]] = ()):
        functions = [tool.get("function", tool) for tool in tools]
        self.parameters = {function["name"]: function.get("parameters") for function in functions if "name" in function}
        self.plain: dict[str, list[str]] = {}
        for name in self.parameters:
            self.plain.setdefault(plain(name), []).append(name)

    def __bool__(self) -> bool:
        return bool(self.parameters)

    def resolve(self, name: str) -> str | None:
        """The declared tool that is meant: by name, without a namespace, or the only one but for case, - and _."""
        if name in self.parameters:
            return name
        for spelled in (name, re.split(r"[.:/]", name)[-1]):
            meant = self.plain.get(plain(spelled), ())
            if len(meant) == 1:
                return meant[0]
        return None

    def properties(self, name: str) -> dict[str, Any]:
        schema = self.parameters.get(name)
        found = schema.get("properties") if isinstance(schema, Mapping) else None
        return dict(found) if isinstance(found, Mapping) else {}

    def types(self, name: str, key: str) -> frozenset[str]:
        """The JSON types that an argument may have; none where nothing is said."""
        return types_of(self.properties(name).get(key), self.parameters.get(name))


def plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def types_of(schema: Any, root: Any, depth: int = 0) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth > 8:
        return NOTHING
    if isinstance(schema.get("$ref"), str):
        return types_of(referred(root, schema["$ref"]), root, depth + 1)
    named = schema.get("type")
    if named is not None:
        named = named if isinstance(named, list) else [named]
        return frozenset(kind for kind in named if isinstance(kind, str)) & TYPES
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            parts = [types_of(part, root, depth + 1) for part in schema[key]]
            return frozenset().union(*parts) if all(parts) else NOTHING
    if isinstance(schema.get("allOf"), list):
        parts = [found for part in schema["allOf"] if (found := types_of(part, root, depth + 1))]
        return frozenset.intersection(*parts) if parts else NOTHING
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return frozenset(map(type_of, values)) if isinstance(values, list) else NOTHING


def referred(root: Any, pointer: str) -> Any:
    for key in pointer.removeprefix("#/").split("/"):
        root = root.get(key) if isinstance(root, Mapping) else None
    return root


def type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "integer" if isinstance(value, int) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def allowed(value: Any, types: frozenset[str]) -> bool:
    kind = type_of(value)
    return kind in types or (kind == "integer" and "number" in types)


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def coerced(spelled: str, types: frozenset[str]) -> str:
    """A JSON text as the schema wants it, where that is certain; else as it is."""
    value = json.loads(spelled)
    if not types or allowed(value, types):
        return spelled
    if isinstance(value, str):
        return from_text(value, types)
    if types == {"string"} and value is not None:
        return dumps(spelled)
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return str(int(value))
    return spelled


def from_text(text: str, types: frozenset[str]) -> str:
    """JSON for a value that was given as plain text. Without types, a text that spells a JSON value is that value."""
    if types == {"string"}:
        return dumps(text)
    bare = text.strip()
    word = {"true": "true", "false": "false", "null": "null", "none": "null"}.get(bare.lower())
    if word and (not types or allowed(json.loads(word), types)):
        return word
    if "integer" in types and INTEGER.fullmatch(bare):
        return str(int(float(bare) if "." in bare else bare))
    value = literal(bare)
    if value is None or isinstance(value, str) or not (allowed(value, types) if types else True):
        return dumps(text)
    return dumps(value)


def literal(text: str) -> Any:
    """The value of a JSON text, or of Python's way to write one; None where it is neither."""
    for read in (json.loads, python_literal):
        try:
            return json.loads(dumps(read(text)))  # there and back: no infinities, no tuples
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def python_literal(text: str) -> Any:
    import ast

    if not text.startswith(("{", "[")):
        raise ValueError("numbers and words were JSON already")
    return ast.literal_eval(text)
