"""What a value may be: a rule checks it, names the field when it is wrong, and says in words what is allowed.

The words are what the documentation's tables are made of, so that they cannot differ from the check.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.errors import BadRequest
from .errors import Missing, Unsupported, WrongType

JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """`check(name, value)` gives the value as the engine wants it, or raises a BadRequest that names the field."""

    words: str
    check: Callable[[str, Any], Any]


def kind_of(value: Any) -> str:
    return "null" if value is None else JSON_NAMES.get(type(value), type(value).__name__)


def shown(value: Any, limit: int = 60) -> str:
    text = f"{value!r}"
    return text if len(text) <= limit else text[:limit] + "..."


def wrong_type(name: str, value: Any, wanted: str) -> WrongType:
    return WrongType(f"{name} is {kind_of(value)} ({shown(value)}); it must be {wanted}", name)


def expect(name: str, value: Any, kind: type) -> Any:
    """`value`, which is of the JSON type `kind`. A boolean is no number, although Python thinks so."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong_type(name, value, JSON_NAMES[kind])
    return value


def require(body: Mapping[str, Any], name: str, within: str = "") -> Any:
    if name not in body or body[name] is None:
        raise Missing(f"{within}{name} is missing; it is required", within + name)
    return body[name]


def check_number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, value, "a number")
    if not low <= value <= high:  # also refuses NaN
        raise BadRequest(f"{name} is {shown(value)}; it must be between {low:g} and {high:g}", name)
    return value


def check_integer(name: str, value: Any, low: float, high: float) -> int:
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        value = int(value)  # JavaScript has one kind of number: 16.0 is 16
    expect(name, value, int)
    if not low <= value <= high:
        above = f"at least {low}" if math.isinf(high) else f"between {low} and {high}"
        raise BadRequest(f"{name} is {shown(value)}; it must be {above}", name)
    return value


def number(low: float, high: float) -> Rule:
    return Rule(f"number, {low:g} to {high:g}", lambda name, value: check_number(name, value, low, high))


def integer(low: int, high: float = math.inf) -> Rule:
    words = f"integer, at least {low}" if math.isinf(high) else f"integer, {low} to {high}"
    return Rule(words, lambda name, value: check_integer(name, value, low, high))


def of_type(kind: type, words: str) -> Rule:
    return Rule(words, lambda name, value: expect(name, value, kind))


boolean = of_type(bool, "boolean")
string = of_type(str, "string")
mapping = of_type(dict, "object")
array = of_type(list, "array")
anything = Rule("any", lambda name, value: value)


def one_of(*allowed: str) -> Rule:
    words = ", ".join(f"`{value}`" for value in allowed)

    def check(name, value):
        if expect(name, value, str) not in allowed:
            raise BadRequest(f"{name} is {shown(value)}; it must be one of {', '.join(allowed)}", name)
        return value

    return Rule(words, check)


def only(*allowed: Any, why: str) -> Rule:
    """Values that ask for nothing; any other one asks for what this version cannot do."""
    words = "only " + ", ".join(f"`{as_json(value)}`" for value in allowed)

    def check(name, value):
        if not any(value == fine and type(value) is type(fine) for fine in allowed):
            choices = ", ".join(as_json(fine) for fine in allowed)
            raise Unsupported(f"{name} is {shown(value)}; {why}. Leave it out, or send {choices}", name)
        return value

    return Rule(words, check)


def refused(why: str, error: type[BadRequest] = Unsupported) -> Rule:
    def check(name, value):
        raise error(f"{name}: {why}", name)

    return Rule("refused", check)


def strings(most: int) -> Rule:
    """One string or a list of them; empty ones are refused."""

    def check(name, value):
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list):
            raise wrong_type(name, value, "a string or an array of strings")
        if len(given) > most:
            raise BadRequest(f"{name} has {len(given)} strings; at most {most} are allowed", name)
        for index, item in enumerate(given):
            where = name if given is not value else f"{name}[{index}]"
            if not expect(where, item, str):
                raise BadRequest(f"{where} is empty; it must have at least one character", name)
        return tuple(given)

    return Rule(f"string, or array of up to {most} strings", check)


def as_json(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
