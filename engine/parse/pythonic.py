"""Calls as Python writes them: [weather(city="Köln", days=2), now()]. LFM2 puts them between marks, Llama does not.

Arguments without a name take the names of the schema in their order.
"""

import re

from .calls import Call, Calls
from .json_calls import NAME, call_objects
from .reader import Malformed, Reader, Step
from .values import Syntax, more, value

CALLED = re.compile(r"[\w.:/-]*")
KEYWORD = re.compile(r"\w*")
QUOTES = ('"""', "'''", '"', "'")
START, END = "<|tool_call_start|>", "<|tool_call_end|>"
PYTHON = Syntax(quotes=QUOTES, ends=(END,), again=(START,), after=",)]}:")


class Lfm2:
    """<|tool_call_start|>[f(a=1), g()]<|tool_call_end|>; the system prompt can ask for JSON in the same place."""

    openers = (START,)
    first: tuple[str, ...] = ()
    marks = (START, END)

    def read(self, r: Reader, calls: Calls, opener: str) -> Step[None]:
        r.at += len(opener)
        yield from r.space()
        head = (yield from r.ahead()) or "x"
        after = yield from r.beyond(head == "[", ("{",))
        if head == "{" or (head == "[" and after == "{"):
            yield from call_objects(r, calls, PYTHON._replace(after=",}]:"))
        else:
            yield from call_list(r, calls, PYTHON)
        if (yield from r.beyond(0, (END,))):
            yield from r.skip_past((END,))


def call_list(r: Reader, calls: Calls, s: Syntax, *, declared: bool = False) -> Step[None]:
    """[f(...), g(...)], or one call without the brackets."""
    if (yield from r.ahead()) != "[":
        yield from python_call(r, calls, s, declared=declared)
        return
    r.at += 1
    made = len(calls.made)
    while (yield from more(r, s, "]")):
        try:
            yield from python_call(r, calls, s, declared=declared)
        except Malformed:
            if len(calls.made) == made:
                raise
            yield from r.skip_past(s.ends or ("\n",))
            return
    if len(calls.made) == made:
        raise Malformed("a list without calls")


def python_call(r: Reader, calls: Calls, s: Syntax, *, declared: bool = False) -> Step[None]:
    yield from r.space()
    name = yield from r.run(CALLED, 200)
    yield from r.expect("(")
    meant = calls.tools.resolve(name.removesuffix(".call"))
    if meant is None and (declared or not NAME.fullmatch(name)):
        raise Malformed("no such tool")
    call = calls.open(meant or name)
    try:
        yield from parameters(r, call, calls, s)
    except Malformed:
        call.close()
        raise
    call.close()


def parameters(r: Reader, call: Call, calls: Calls, s: Syntax) -> Step[None]:
    """a=1, b="x"), up to and with the closing parenthesis."""
    unnamed = (name for name in calls.tools.properties(call.name))
    while (yield from more(r, s, ")")):
        name = yield from keyword(r)
        if name is None:
            name = next((key for key in unnamed if key not in call.writer.keys), None)
            if name is None:
                raise Malformed("more arguments than the schema has")
        call.writer.key(name)
        yield from value(r, call.writer, s, item=True)


def keyword(r: Reader) -> Step[str | None]:
    """The name before `=`, if there is one."""
    r_name = yield from word_ahead(r)
    follows = yield from r.beyond(len(r_name), ("=", "=="))
    if not r_name or follows != "=":
        return None
    r.at += len(r_name)
    yield from r.space()
    r.at += 1
    return r_name


def word_ahead(r: Reader) -> Step[str]:
    """The word that comes next, not consumed."""
    count = 1
    while True:
        seen = yield from r.ahead(count)
        word = KEYWORD.match(seen)[0]
        if len(word) < count or len(seen) < count or count > 200:
            return word
        count += 1
