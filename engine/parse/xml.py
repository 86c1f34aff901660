"""<function=NAME><parameter=KEY>VALUE</parameter>...</function>: what Qwen-Coder, Qwen 3.5 and Nemotron 3 write.

Values are plain text between two line ends, of the type that the schema says. They may hold anything, even
`</parameter>`: a tag counts only where another tag of the call, or the end, follows it.
"""

import re
from collections.abc import Callable

from .calls import Call, Calls
from .json_calls import NAME
from .reader import Malformed, Reader, Step
from .values import Syntax, fields

FUNCTION, NAMED_FUNCTION = "<function=", "<function name="
PARAMETER, NAMED_PARAMETER = "<parameter=", "<parameter name="
CLOSE_PARAMETER, CLOSE_FUNCTION = "</parameter>", "</function>"
CLOSE_CALL, OPEN_CALL = "</tool_call>", "<tool_call>"
BETWEEN = (PARAMETER, NAMED_PARAMETER, CLOSE_PARAMETER, CLOSE_FUNCTION, CLOSE_CALL, OPEN_CALL, "{")
TAG_NAME = re.compile(r"[^<>\n]*")
PLAIN = re.compile(r"[^<\n]+")
PARAMETER_TAG = re.compile(r"<parameter=([\w.-]+)>")
PARAMETER_BEGUN = re.compile(r"<parameter=[\w.-]*")
# What may follow each tag, so that it closes a value.
FOLLOWS = {
    CLOSE_PARAMETER: (PARAMETER, NAMED_PARAMETER, CLOSE_FUNCTION, CLOSE_CALL, OPEN_CALL, FUNCTION),
    CLOSE_FUNCTION: (CLOSE_CALL, OPEN_CALL, FUNCTION),
    CLOSE_CALL: (OPEN_CALL, FUNCTION),
}


def function(r: Reader, calls: Calls, s: Syntax, *, declared: bool = False) -> Step[None]:
    yield from tag(r, (FUNCTION, NAMED_FUNCTION))
    name = yield from named(r)
    meant = calls.tools.resolve(name)
    if meant is None and (declared or not NAME.fullmatch(name)):
        raise Malformed("no such tool")
    found = yield from r.beyond(0, BETWEEN)
    if found is None:
        raise Malformed("neither parameters nor the end")
    call = calls.open(meant or name)
    try:
        yield from body(r, call, s)
    except Malformed:
        yield from r.skip_past((CLOSE_FUNCTION, *s.ends))
    call.close()


def tag(r: Reader, options: tuple[str, ...]) -> Step[None]:
    found = yield from r.starts(options)
    if found is None:
        raise Malformed("another tag")
    r.at += len(found)


def named(r: Reader) -> Step[str]:
    """The rest of <function=NAME>, whatever quotes it has."""
    name = yield from r.run(TAG_NAME, 300)
    yield from r.expect(">")
    return name.strip().strip("\"'").strip()


def body(r: Reader, call: Call, s: Syntax) -> Step[None]:
    while True:
        yield from r.space()
        found = yield from r.starts(BETWEEN)
        if found in (PARAMETER, NAMED_PARAMETER):
            r.at += len(found)
            yield from parameter(r, call, (yield from named(r)))
        elif found == CLOSE_PARAMETER:
            r.at += len(found)
        elif found == CLOSE_FUNCTION:
            r.at += len(found)
            return
        elif found == "{":  # Llama writes <function=f>{"a": 1}</function>
            r.at += 1
            yield from fields(r, call.writer, s)
        elif found is not None or not (yield from r.ahead()):
            return
        else:
            raise Malformed("text between parameters")


def parameter(r: Reader, call: Call, key: str) -> Step[None]:
    """A value of nothing but text leaves as it comes; others are read when they are complete."""
    writer, streams = call.writer, call.types(key) == {"string"}
    writer.key(key)
    parts: list[str] = []
    if streams:
        writer.begin_string()
    whole = yield from text(r, call, writer.string if streams else parts.append)
    if streams:
        writer.end_string()
    elif whole:
        writer.text("".join(parts))


def text(r: Reader, call: Call, put: Callable[[str], None]) -> Step[bool]:
    """Up to the closing tag, without the line ends that belong to the tags."""
    if (yield from r.starts(("\r\n", "\n"))) is not None:
        r.at += 1 + (r.buffer[r.at] == "\r")
    held, begun = "", False
    while True:
        head = yield from r.ahead()
        if not head:
            put(held.rstrip("\n"))
            return False
        if head == "\n":
            put(held)
            held = r.take(1)
            begun = True
            continue
        if head == "<" and (yield from over(r, call, held == "\n" or not begun)):
            return True
        put(held + (r.take(1) if head == "<" else r.available(PLAIN)))
        held, begun = "", True


def over(r: Reader, call: Call, line_begins: bool) -> Step[bool]:
    """Does the value end here? The tag that it ends with is consumed, others are left."""
    found = yield from r.starts((*FOLLOWS, PARAMETER))
    if found is None:
        return False
    if found == PARAMETER:  # the closing tag was forgotten
        return line_begins and (yield from another(r, call))
    if (yield from r.beyond(len(found), FOLLOWS[found])) is None:
        return False
    r.at += len(found) if found == CLOSE_PARAMETER else 0
    return True


def another(r: Reader, call: Call) -> Step[bool]:
    """Is this <parameter=KEY> with a key that the tool has and the call has not?"""
    count = len(PARAMETER) + 1
    while True:
        seen = yield from r.ahead(count)
        found = PARAMETER_TAG.match(seen)
        if found or len(seen) < count or not PARAMETER_BEGUN.fullmatch(seen) or count > 300:
            break
        count += 1
    key = found[1] if found else ""
    return bool(key) and key not in call.writer.keys and (key in call.properties or not call.properties)
