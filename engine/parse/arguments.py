"""The arguments of one call as JSON that is valid whatever is written, and complete whenever it is closed."""

from collections.abc import Callable
from typing import Any

from .schema import NOTHING, coerced, dumps, from_text

CLOSERS = {"{": "}", "[": "]"}


class Writer:
    """JSON, written value by value. A key waits for its value, so a text that is cut off leaves no half member.

    Values that are members of the outermost object are made to fit `types_of(key)`. One that must be converted is held
    until it is complete; all others, strings too, leave as they come.
    """

    def __init__(self, put: Callable[[str], None], types_of: Callable[[str], frozenset[str]] = lambda key: NOTHING):
        self.put, self.types_of = put, types_of
        self.stack: list[str] = []  # what will close the open containers
        self.counts: list[int] = []  # and how many values each has
        self.waiting: str | None = None  # a key without its value
        self.keys: set[str] = set()  # of the outermost object
        self.held: list[str] | None = None  # a value that must be converted
        self.types = NOTHING
        self.in_string = False

    # Containers

    def open(self, bracket: str) -> None:
        self.begin({"{": "object", "[": "array"}[bracket])
        self.write(bracket)
        self.stack.append(CLOSERS[bracket])
        self.counts.append(0)

    def close(self) -> None:
        self.waiting = None
        self.counts.pop()
        self.write(self.stack.pop())
        self.end()

    def key(self, text: str) -> None:
        self.waiting = text

    @property
    def depth(self) -> int:
        return len(self.stack)

    @property
    def empty(self) -> bool:
        """Has the innermost container no value yet?"""
        return not self.counts or self.counts[-1] == 0

    # Values

    def begin_string(self) -> None:
        self.begin("string")
        self.write('"')
        self.in_string = True

    def string(self, text: str) -> None:
        if text:
            self.write(dumps(text)[1:-1])

    def end_string(self) -> None:
        self.in_string = False
        self.write('"')
        self.end()

    def value(self, spelled: str) -> None:
        """A whole value, as JSON."""
        self.begin("value")
        self.write(coerced(spelled, self.types) if self.depth == 1 else spelled)
        self.end()

    def text(self, text: str) -> None:
        """A value given as plain text, of whatever type the schema says."""
        self.begin("value")
        self.write(from_text(text, self.types))
        self.end()

    def member(self, key: str, value: Any) -> None:
        self.key(key)
        self.value(dumps(value))

    # Between

    def begin(self, kind: str) -> None:
        between = ", " if self.counts and self.counts[-1] else ""
        if self.counts:
            self.counts[-1] += 1
        if self.stack and self.stack[-1] == "}":
            key, self.waiting = self.waiting or "", None
            between += dumps(key) + ": "
            if self.depth == 1:
                self.keys.add(key)
                self.types = self.types_of(key)
        self.write(between)
        if self.depth == 1 and self.types and kind != "value" and kind not in self.types:
            self.held = []

    def end(self) -> None:
        if self.depth == 1:
            held, self.held = self.held, None
            if held is not None:
                self.put(coerced("".join(held), self.types))
            self.types = NOTHING

    def write(self, text: str) -> None:
        if text:
            self.put(text) if self.held is None else self.held.append(text)

    def finish(self) -> None:
        """Close whatever is open."""
        if self.in_string:
            self.end_string()
        while self.stack:
            self.close()
