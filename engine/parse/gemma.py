"""Gemma 4's calls, and FunctionGemma's: <|tool_call>call:NAME{key:<|"|>text<|"|>,other:3}<tool_call|>

Strings stand between marks of their own and know no escapes; keys have no quotes. Models also write plain quotes,
double the braces, and leave the closing mark out.
"""

import re

from .calls import Calls
from .reader import Malformed, Reader, Step
from .values import Syntax, fields

CALLED = re.compile(r"[^\s{}()<>\"'|]*")


class Gemma4:
    start, end, quote = "<|tool_call>", "<tool_call|>", '<|"|>'

    def __init__(self):
        self.openers, self.first = (self.start,), ()
        self.marks = (self.start, self.end, self.quote)
        self.syntax = Syntax((self.quote, '"'), (self.quote,), (self.end,), (self.start,))

    def read(self, r: Reader, calls: Calls, opener: str) -> Step[None]:
        r.at += len(opener)
        yield from r.space()
        yield from r.expect("call:")
        yield from r.space()
        name = yield from r.run(CALLED, 200)
        yield from r.space()
        yield from r.expect("{")
        if not name:
            raise Malformed("a call without a name")
        call = calls.open(calls.tools.resolve(name) or name)
        try:
            yield from fields(r, call.writer, self.syntax)
        except Malformed:
            call.close()
            yield from r.skip_past((self.end,))
            return
        call.close()
        while (yield from r.beyond(0, ("}",))) == "}":
            yield from r.skip_past(("}",))
        if (yield from r.beyond(0, (self.end,))):
            yield from r.skip_past((self.end,))


class FunctionGemma(Gemma4):
    start, end, quote = "<start_function_call>", "<end_function_call>", "<escape>"
