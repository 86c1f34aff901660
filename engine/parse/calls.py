"""The calls of one answer, as pieces."""

from collections.abc import Callable, Mapping
from typing import Any

from .arguments import Writer
from .pieces import Piece, ToolArguments, ToolClosed, ToolOpened
from .schema import Tools


class Call:
    """One call that was opened. Its arguments are an object from the beginning, open for more until `close`."""

    def __init__(self, index: int, name: str, put: Callable[[Piece], None], tools: Tools):
        self.index, self.name, self.put = index, name, put
        self.properties = tools.properties(name)
        self.types = lambda key: tools.types(name, key)
        self.writer = Writer(self.write, self.types)
        self.closed = False
        put(ToolOpened(index, name))
        self.writer.open("{")

    def write(self, text: str) -> None:
        self.put(ToolArguments(self.index, text))

    def fill(self, arguments: Mapping[str, Any]) -> None:
        for key, value in arguments.items():
            self.writer.member(key, value)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.writer.finish()
            self.put(ToolClosed(self.index))


class Calls:
    """made: the calls so far. opened: told of each; there is no way back from it."""

    def __init__(self, put: Callable[[Piece], None], tools: Tools, opened: Callable[[], None]):
        self.put, self.tools, self.opened = put, tools, opened
        self.made: list[Call] = []

    def open(self, name: str) -> Call:
        self.opened()
        call = Call(len(self.made), name, self.put, self.tools)
        self.made.append(call)
        return call
