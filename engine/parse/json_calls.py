"""A call as a JSON object: {"name": ..., "arguments": {...}}, in the variations that models make of it."""

import json
import re
from typing import Any

from .arguments import Writer
from .calls import Call, Calls
from .reader import Malformed, Reader, Step
from .schema import literal
from .values import Syntax, fields, key, more, string, value

NAME_KEYS = ("name", "tool_name", "function_name")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
WRAPPERS = ("function", "tool_call")  # {"type": "function", "function": {...}}
NOTES = ("id", "type", "call_id", "tool_call_id", "index")
MAX_WRAPS = 4  # Qwen has been seen to nest {"name": {"name": ...}} that deep
NAME = re.compile(r"[\w.:/-]{1,200}")


class Found:
    """What is known of one call while its object is read."""

    def __init__(self, declared: bool):
        self.declared = declared
        self.name: str | None = None
        self.arguments: Any = None  # an object that came before the name, or was not written as one
        self.strays: dict[str, Any] = {}  # members beside name and arguments
        self.call: Call | None = None


def call_objects(r: Reader, calls: Calls, s: Syntax, *, declared: bool = False) -> Step[None]:
    """One object, or a list of them."""
    yield from r.space()
    if (yield from r.ahead()) != "[":
        yield from call_object(r, calls, s, declared=declared)
        return
    r.at += 1
    made = len(calls.made)
    while (yield from more(r, s, "]")):
        try:
            yield from call_object(r, calls, s, declared=declared)
        except Malformed:
            if len(calls.made) == made:
                raise
            yield from r.skip_past(s.ends or ("\n",))
            return


def call_object(r: Reader, calls: Calls, s: Syntax, *, declared: bool = False) -> Step[None]:
    """Read one object. Nothing is opened before the name and the beginning of the arguments are certain.

    declared  only a declared tool counts: the object stands in the text without any mark
    """
    found = Found(declared)
    try:
        yield from body(r, calls, s, found, 0)
    except Malformed:
        if found.call is None:
            raise
        found.call.close()
        yield from r.skip_past(s.ends or ("\n",))
        return
    conclude(calls, found)


def body(r: Reader, calls: Calls, s: Syntax, found: Found, depth: int) -> Step[None]:
    yield from r.expect("{")
    while (yield from more(r, s, "}")):
        if (yield from r.ahead()) == "{":
            yield from nameless(r, calls, s, found, depth)
            continue
        name = yield from key(r, s)
        yield from r.space()
        head = yield from r.ahead()
        if head == ":":
            r.at += 1
        elif head:
            raise Malformed("a key without a value")
        else:
            return  # cut off
        yield from entry(r, calls, s, found, name, depth)


def nameless(r: Reader, calls: Calls, s: Syntax, found: Found, depth: int) -> Step[None]:
    """An object without a key: the arguments, whose key was forgotten, or the call itself in doubled braces."""
    if found.call is not None or found.arguments is not None:
        yield from captured(r, s)  # one object too many
        return
    if found.name is not None:
        yield from arguments(r, calls, s, found)
        return
    if depth >= MAX_WRAPS:
        raise Malformed("too many braces")
    yield from body(r, calls, s, found, depth + 1)


def entry(r: Reader, calls: Calls, s: Syntax, found: Found, name: str, depth: int) -> Step[None]:
    if name in NAME_KEYS and found.name is None:
        yield from take_name(r, calls, s, found)
    elif name in ARGUMENT_KEYS and found.call is None and found.arguments is None:
        yield from arguments(r, calls, s, found)
    elif name in WRAPPERS and found.name is None and depth < MAX_WRAPS:
        yield from r.space()
        if (yield from r.ahead()) == "{":
            yield from body(r, calls, s, found, depth + 1)
        else:
            yield from take_name(r, calls, s, found)
    elif found.declared and found.name is None and name not in NOTES:
        raise Malformed("a text, not a call")  # and said early: nobody waits for its end
    else:
        found.strays[name] = yield from captured(r, s)


def take_name(r: Reader, calls: Calls, s: Syntax, found: Found) -> Step[None]:
    """The name, also where it was wrapped again and again. One that was cut off is none."""
    yield from r.space()
    quote = yield from r.starts(s.quotes)
    if quote is None:
        given = unwrapped(found, (yield from captured(r, s)))
    else:
        parts: list[str] = []
        r.at += len(quote)
        whole = yield from string(r, parts.append, quote, s, item=True)
        given = "".join(parts) if whole else None
    if not isinstance(given, str):
        raise Malformed("the name is no text")
    found.name = given.strip()
    if found.declared and calls.tools.resolve(found.name) is None:
        raise Malformed("no such tool")


def unwrapped(found: Found, given: Any) -> Any:
    for _ in range(MAX_WRAPS):
        if not isinstance(given, dict):
            break
        inner = next((given[name] for name in ARGUMENT_KEYS if isinstance(given.get(name), dict)), None)
        found.arguments = inner if inner is not None else found.arguments
        given = given.get("name")
    return given


def arguments(r: Reader, calls: Calls, s: Syntax, found: Found) -> Step[None]:
    """Stream the arguments if it is certain whose they are; else keep them."""
    yield from r.space()
    if (yield from r.ahead()) == "{" and found.name is not None:
        found.call = opened(calls, found)
        r.at += 1
        yield from fields(r, found.call.writer, s)
    else:
        found.arguments = yield from captured(r, s)


def captured(r: Reader, s: Syntax) -> Step[Any]:
    """A value, complete."""
    parts: list[str] = []
    writer = Writer(parts.append)
    yield from value(r, writer, s)
    writer.finish()
    return json.loads("".join(parts)) if parts else None


def opened(calls: Calls, found: Found) -> Call:
    meant = calls.tools.resolve(found.name or "")
    if meant is None and (found.declared or not NAME.fullmatch(found.name or "")):
        raise Malformed("no such tool")
    return calls.open(meant or found.name or "")


def conclude(calls: Calls, found: Found) -> None:
    if found.name is None:
        raise Malformed("a call without a name")
    call = found.call
    if call is None:
        given = as_object(calls, found)
        call = opened(calls, found)
        call.fill(given)
    known = calls.tools.properties(call.name)
    for name, stray in found.strays.items():
        if name not in call.writer.keys and (name in known or (not known and name not in NOTES)):
            call.writer.member(name, stray)
    call.close()


def as_object(calls: Calls, found: Found) -> dict[str, Any]:
    """Arguments that were not written as an object, as the object that they can only mean."""
    given = found.arguments
    if isinstance(given, str):
        given = (literal(given.strip()) or given) if given.strip() else None
    if given is None:
        return {}
    if isinstance(given, dict):
        return given
    only = list(calls.tools.properties(calls.tools.resolve(found.name or "") or ""))
    if len(only) != 1:
        raise Malformed("the arguments are no object")
    return {only[0]: given}
