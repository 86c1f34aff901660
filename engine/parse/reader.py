"""Text that is still coming, for machines written as generators: they `yield` when they need more of it.

A method that returns a `Step` waits only while the text so far leaves the answer open; at the end of the text nothing
is. What it decides never depends on how the text was cut. `mark` keeps what follows, for a machine that may have to go
back.
"""

import re
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Step = Generator[None, None, T]

SPACE = re.compile(r"\s*")


class Malformed(Exception):
    """The text is not what the format prescribes."""


class Reader:
    """buffer: what was fed and is still needed. at: what comes next in it. ended: nothing more will be fed.

    passed: characters that were fed and are no longer in the buffer
    """

    def __init__(self):
        self.buffer, self.at, self.ended, self.marked = "", 0, False, False
        self.passed = 0

    def feed(self, text: str) -> None:
        if self.marked:
            self.buffer += text
        else:
            self.passed += self.at
            self.buffer, self.at = self.buffer[self.at :] + text, 0

    def mark(self) -> int:
        self.marked = True
        return self.at

    def release(self) -> None:
        self.marked = False

    @property
    def left(self) -> int:
        return len(self.buffer) - self.at

    def take(self, count: int) -> str:
        text = self.buffer[self.at : self.at + count]
        self.at += count
        return text

    def ahead(self, count: int = 1) -> Step[str]:
        """The next `count` characters, fewer at the end; not consumed."""
        while self.left < count and not self.ended:
            yield
        return self.buffer[self.at : self.at + count]

    def run(self, pattern: re.Pattern[str], limit: int = 1 << 30) -> Step[str]:
        """Consume the characters that the pattern (of single characters, repeated) takes from here, to its end."""
        while True:
            found = pattern.match(self.buffer, self.at)
            count = min(limit, found.end() - self.at if found else 0)
            if count < self.left or self.ended:
                return self.take(count)
            yield

    def available(self, pattern: re.Pattern[str]) -> str:
        """As `run`, but only what is there already."""
        found = pattern.match(self.buffer, self.at)
        return self.take(found.end() - self.at) if found else ""

    def space(self) -> Step[str]:
        return self.run(SPACE)

    def starts(self, options: tuple[str, ...], offset: int = 0) -> Step[str | None]:
        """Which of the options comes next (the longest), or `offset` characters later; not consumed."""
        while True:
            rest = self.buffer[self.at + offset :]
            found = max((option for option in options if rest.startswith(option)), key=len, default=None)
            open_ones = [option for option in options if len(option) > len(rest) and option.startswith(rest)]
            if self.ended or not any(found is None or len(option) > len(found) for option in open_ones):
                return found
            yield

    def beyond(self, offset: int, options: tuple[str, ...]) -> Step[str | None]:
        """What comes after `offset` characters and white space: one of the options, "" for the end, or None."""
        while True:
            begin = SPACE.match(self.buffer, self.at + offset).end()
            if begin < len(self.buffer):
                return (yield from self.starts(options, begin - self.at))
            if self.ended:
                return ""
            yield

    def expect(self, text: str) -> Step[None]:
        if (yield from self.starts((text,))) is None:
            raise Malformed(f"{text!r} was expected")
        self.at += len(text)

    def skip_past(self, ends: tuple[str, ...]) -> Step[None]:
        """Drop everything up to and with the first of the texts, or all there is."""
        longest = max(map(len, ends))
        while True:
            places = [(place, end) for end in ends if (place := self.buffer.find(end, self.at)) >= 0]
            if places:
                place, end = min(places)
                self.at = place + len(end)
                return
            if self.ended:
                self.at = len(self.buffer)
                return
            self.at = max(self.at, len(self.buffer) - longest + 1)
            yield
