"""Mistral's calls, by the age of the tokenizer:

[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]
[TOOL_CALLS]f{"a": 1}
[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}
"""

import re

from .calls import Calls
from .json_calls import NAME, call_objects
from .reader import Malformed, Reader, Step
from .values import Syntax, fields

START, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
CALLED = re.compile(r"[^\s\[\]{}()\"',]*")
IDENT = re.compile(r"\w*")
JSON = Syntax()


class Mistral:
    openers = (START,)
    first: tuple[str, ...] = ()
    marks = (START, ARGS, CALL_ID)

    def read(self, r: Reader, calls: Calls, opener: str) -> Step[None]:
        r.at += len(opener)
        yield from r.space()
        if (yield from r.starts(("[{", "{", "["))) in ("[{", "{", "["):
            yield from call_objects(r, calls, JSON)
            return
        yield from named_call(r, calls)
        while (yield from another(r)):  # some say the mark only once
            yield from named_call(r, calls)


def named_call(r: Reader, calls: Calls) -> Step[None]:
    yield from r.space()
    name = yield from r.run(CALLED, 200)
    if not NAME.fullmatch(name):
        raise Malformed("no name")
    yield from r.space()
    if (yield from r.starts((CALL_ID,))):
        r.at += len(CALL_ID)
        yield from r.run(IDENT, 100)
        yield from r.space()
    if (yield from r.starts((ARGS,))):
        r.at += len(ARGS)
        yield from r.space()
    yield from r.expect("{")
    call = calls.open(calls.tools.resolve(name) or name)
    try:
        yield from fields(r, call.writer, JSON)
    except Malformed:
        call.close()
        yield from skip_to_next(r)
        return
    call.close()


def skip_to_next(r: Reader) -> Step[None]:
    """Drop what is broken, up to the next call's mark, which is left to be read."""
    yield from r.skip_past((START,))
    if r.left or not r.ended:
        r.at -= len(START)


def another(r: Reader) -> Step[bool]:
    """Does NAME[ARGS] follow? Words do not."""
    yield from r.space()
    count = 1
    while True:
        seen = yield from r.ahead(count)
        name = CALLED.match(seen)[0]
        if len(name) < count or count > 100:
            break
        count += 1
    return bool(name) and (yield from r.starts((ARGS, CALL_ID), len(name))) is not None
