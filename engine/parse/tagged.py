"""Calls in tags: Hermes and Qwen (JSON), Qwen-Coder, Qwen 3.5 and Nemotron 3 (XML), Nemotron's <TOOLCALL> lists.

    <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>
    <tool_call><function=f><parameter=a>1</parameter></function></tool_call>
    <TOOLCALL>[{"name": "f", "arguments": {"a": 1}}]</TOOLCALL>

A model trained on one writes the other at times, with the tag around it, so inside the tag both are read. What closes
a tag may be another one, or missing.
"""

import re
from typing import Any

from .calls import Calls
from .json_calls import NAME, call_object, call_objects, captured
from .reader import Malformed, Reader, Step
from .values import Syntax
from .xml import FUNCTION, NAMED_FUNCTION, function

TAGS = ("tool_call", "tool_calls", "tool_request", "tool_requests", "tool", "TOOLCALL")
ENDS = tuple(f"</{tag}>" for tag in TAGS)
OPENS = ("<tool_call", "<tool_request", FUNCTION, "<TOOLCALL>")
WORD = re.compile(r"[A-Za-z_]*")
ATTRIBUTE = re.compile(r"[a-z]*")
UNQUOTED = re.compile(r"[^\s/>]*")
QUOTED = {'"': re.compile(r'[^"]*'), "'": re.compile(r"[^']*")}
FENCE = re.compile(r"`*")
JSON = Syntax(ends=ENDS, again=OPENS)
INNER = ("<parameters>", "<arguments>", "</parameters>", "</arguments>")


class Hermes:
    openers = ("<tool",)
    first: tuple[str, ...] = ()
    marks = ("<tool_call>", "</tool_call>")

    def read(self, r: Reader, calls: Calls, opener: str) -> Step[None]:
        r.at += 1
        if (yield from r.run(WORD, 20)) not in TAGS:
            raise Malformed("another tag")
        attributes, alone = yield from attributes_of(r)
        name = attributes.get("name") or attributes.get("function")
        if alone:
            given = attributes.get("arguments", attributes.get("parameters", {}))
            if not isinstance(name, str) or not isinstance(given, dict):
                raise Malformed("a tag without a name")
            calls.open(resolved(calls, name)).fill(given)
            calls.made[-1].close()
            return
        yield from inside(r, calls, name if isinstance(name, str) else None)


class Xml(Hermes):
    """The function's tag may stand alone; then it must name a declared tool."""

    openers = ("<tool", "<function")
    marks = (*Hermes.marks, "<function=", "</function>", "<parameter=", "</parameter>")

    def read(self, r: Reader, calls: Calls, opener: str) -> Step[None]:
        if opener == "<tool":
            yield from super().read(r, calls, opener)
        else:
            yield from function(r, calls, JSON, declared=True)
            yield from closings(r)


class Nemotron(Hermes):
    openers = ("<TOOLCALL>",)
    marks = ("<TOOLCALL>", "</TOOLCALL>")


def resolved(calls: Calls, name: str) -> str:
    meant = calls.tools.resolve(name)
    if meant is None and not NAME.fullmatch(name):
        raise Malformed("no name")
    return meant or name


def attributes_of(r: Reader) -> Step[tuple[dict[str, Any], bool]]:
    """What stands in the tag, and whether the tag closes itself."""
    found: dict[str, Any] = {}
    while True:
        yield from r.space()
        head = yield from r.ahead()
        if head == ">":
            r.at += 1
            return found, False
        if head == "/":
            yield from r.expect("/>")
            return found, True
        name = yield from r.run(ATTRIBUTE, 20)
        if name not in ("name", "function", "arguments", "parameters"):
            raise Malformed("another attribute")
        yield from r.expect("=")
        found[name] = yield from attribute(r)


def attribute(r: Reader) -> Step[Any]:
    """In quotes, without them, or as JSON."""
    head = yield from r.ahead()
    if head == "{":
        return (yield from captured(r, JSON))
    if head not in QUOTED:
        return (yield from r.run(UNQUOTED, 200))
    r.at += 1
    text = yield from r.run(QUOTED[head], 1000)
    yield from r.expect(head)
    return text


def inside(r: Reader, calls: Calls, name: str | None) -> Step[None]:
    """One call or several, up to the closing tag."""
    yield from decorations(r)
    begin = yield from r.starts(("{", "[", FUNCTION, NAMED_FUNCTION))
    if begin is None or (begin == "[" and name is not None):
        raise Malformed("no call in the tag")
    while begin is not None:
        if begin == "[":
            yield from call_objects(r, calls, JSON)
        elif begin == "{" and name is not None:
            yield from only_arguments(r, calls, name)
        elif begin == "{":
            yield from call_object(r, calls, JSON)
        else:
            yield from function(r, calls, JSON)
        begin = yield from next_in_tag(r)
    yield from closings(r)


def next_in_tag(r: Reader) -> Step[str | None]:
    yield from decorations(r)
    while (yield from r.ahead()) in ("}", "]", ","):  # brackets too many
        r.at += 1
        yield from decorations(r)
    return (yield from r.starts(("{", FUNCTION, NAMED_FUNCTION)))


def only_arguments(r: Reader, calls: Calls, name: str) -> Step[None]:
    """<tool_call name="f">{...}: a call as ever, or nothing but the arguments."""
    given = yield from captured(r, JSON)
    call = calls.open(resolved(calls, name))
    for key in ("arguments", "parameters"):
        if isinstance(given.get(key), dict) and key not in calls.tools.properties(call.name):
            given = given[key]
    call.fill(given)
    call.close()


def decorations(r: Reader) -> Step[None]:
    """White space, code fences and wrappers around the JSON."""
    while True:
        yield from r.space()
        if (yield from r.ahead()) == "`":
            yield from r.run(FENCE)
            word = yield from r.starts(("json", "xml"))
            r.at += len(word or "")
        elif (tag := (yield from r.starts(INNER))) is not None:
            r.at += len(tag)
        else:
            return


def closings(r: Reader) -> Step[None]:
    """The closing tag, if it is there, once or more."""
    while True:
        found = yield from r.beyond(0, ENDS)
        if not found:
            return
        yield from r.space()
        r.at += len(found)
