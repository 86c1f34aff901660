"""Llama 3's calls: bare JSON where an answer begins, or after <|python_tag|>; several are separated by semicolons.

    {"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}
    <|python_tag|>brave_search.call(query="x")
    <|python_tag|>print(1 + 1)                    code for a tool that runs it
    <function=f>{"a": 1}</function>
    [f(a=1), g()]

Bare JSON and Python lists carry no mark, so they count only when they name a declared tool.
"""

import re

from .calls import Calls
from .json_calls import call_object
from .pythonic import call_list
from .reader import Malformed, Reader, Step
from .values import Syntax
from .xml import FUNCTION, function

TAG = "<|python_tag|>"
INTERPRETERS = ("code_interpreter", "python", "ipython", "execute_python")
JSON = Syntax()
PYTHON = JSON._replace(quotes=('"""', "'''", '"', "'"), after=",)]}:")
ANYTHING = re.compile(r"[\s\S]+")
BEGINS = re.compile(r"[\w.]*")


class Llama3:
    openers = (TAG, FUNCTION)
    first = ("{", "[")
    marks = (TAG,)

    def read(self, r: Reader, calls: Calls, opener: str) -> Step[None]:
        if opener == FUNCTION:
            yield from function(r, calls, JSON, declared=True)
        elif opener == "{":
            yield from call_object(r, calls, JSON, declared=True)
        elif opener == "[":
            yield from call_list(r, calls, PYTHON, declared=True)
        else:
            r.at += len(opener)
            yield from tagged(r, calls)
        if (yield from r.beyond(0, (";",))) == ";":
            yield from r.skip_past((";",))


def tagged(r: Reader, calls: Calls) -> Step[None]:
    yield from r.space()
    head = yield from r.ahead()
    if head == "{":
        yield from call_object(r, calls, JSON)
        return
    name = yield from name_ahead(r)
    if calls.tools.resolve(name.removesuffix(".call")) is not None:
        yield from call_list(r, calls, PYTHON, declared=True)
        return
    yield from code(r, calls)


def name_ahead(r: Reader) -> Step[str]:
    """What is called next, not consumed; empty where nothing is."""
    count = 1
    while True:
        seen = yield from r.ahead(count)
        name = BEGINS.match(seen)[0]
        if len(name) < count:
            return name if seen[len(name) :] == "(" else ""
        count += 1


def code(r: Reader, calls: Calls) -> Step[None]:
    """All the rest is a program, if a declared tool runs programs."""
    name = next((meant for tool in INTERPRETERS if (meant := calls.tools.resolve(tool)) is not None), None)
    if name is None or not (yield from r.ahead()):
        raise Malformed("no tool runs code")
    keys = list(calls.tools.properties(name))
    call = calls.open(name)
    call.writer.key("code" if "code" in keys or len(keys) != 1 else keys[0])
    call.writer.begin_string()
    while (yield from r.ahead()):
        call.writer.string(r.available(ANYTHING))
    call.writer.end_string()
    call.close()
