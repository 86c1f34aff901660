"""The parser of one answer: text in, as it comes; reasoning, text and calls out, as soon as they are certain.

It is one generator over a `Reader`, whose parts are the formats' own. What could still become a mark is held back,
white space beside a mark belongs to the mark, and a mark that nothing sensible follows is text.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from .calls import Calls
from .grammar import Grammar
from .pieces import Piece, Reasoning, Text, ToolClosed, ToolOpened, joined
from .reader import Malformed, Reader, Step
from .reasoning import Tags
from .schema import Tools

MAX_THOUGHT = 1 << 16  # characters: a call at the end of the reasoning is not longer


class Parser:
    """grammar   the tool format, or None; without declared tools no call is looked for
    tags      the family's reasoning marks, or None
    opened    the prompt ends inside the reasoning block
    """

    def __init__(
        self,
        grammar: Grammar | None,
        tags: Tags | None,
        tools: Iterable[Mapping[str, Any]] = (),
        *,
        opened: bool = False,
    ):
        self.tags, self.declared = tags, list(tools)
        self.pieces: list[Piece] = []
        self.reader = Reader()
        self.calls = Calls(self.pieces.append, Tools(self.declared), self.reader.release)
        self.grammar = grammar if self.calls.tools else None
        self.space = ""  # white space that may stand beside a mark
        self.after = False  # a mark was the last thing: white space that follows is the mark's
        self.fresh = True  # nothing but white space since the beginning, or since a mark
        self.thought = ""  # reasoning since a call's mark in it
        self.thoughts = 0  # blocks of reasoning
        self.at_first, self.later = self.all_openers(first=True), self.all_openers(first=False)
        self.steps = self.run(opened and tags is not None)
        next(self.steps, None)

    def feed(self, text: str) -> list[Piece]:
        self.reader.feed(text)
        next(self.steps, None)
        return self.taken()

    def finish(self) -> list[Piece]:
        """What was still open, at the end of the text."""
        self.reader.ended = True
        next(self.steps, None)
        return self.taken()

    def taken(self) -> list[Piece]:
        pieces = joined(self.pieces)
        self.pieces.clear()
        return pieces

    def all_openers(self, first: bool) -> "Marks":
        found: tuple[str, ...] = ()
        if self.tags is not None and (first or self.tags.anywhere):
            found += self.tags.opens
        if self.grammar is not None:
            found += self.grammar.openers + (self.grammar.first if first else ())
        return marks_of(found)

    # The machine

    def run(self, opened: bool) -> Step[None]:
        if opened:
            yield from self.reasoning()
        while (opener := (yield from self.text())) is not None:
            if self.tags is not None and opener in self.tags.opens:
                self.reader.at += len(opener)
                yield from self.reasoning()
            else:
                yield from self.call(opener)
        if not self.after:
            self.put_text(self.space, 0)

    def call(self, opener: str) -> Step[None]:
        """A call where the opener is; or the opener is text."""
        assert self.grammar is not None
        r, made = self.reader, len(self.calls.made)
        begin = r.mark()  # until a call is opened
        try:
            yield from self.grammar.read(r, self.calls, opener)
        except Malformed:
            if len(self.calls.made) == made:
                r.at = begin
                self.say(r.take(len(opener)))
                return
            self.calls.made[-1].close()
        finally:
            r.release()
        self.boundary()

    def boundary(self) -> None:
        self.space, self.after, self.fresh = "", True, True

    # Text

    def text(self) -> Step[str | None]:
        """Give text out up to the next opener, and return that; None at the end."""
        r = self.reader
        while True:
            marks = self.openers()
            place, opener = marks.find(r)
            self.say(r.take(place - r.at))
            if opener is not None:
                opener = yield from r.starts(marks.longer(opener))
                if opener in self.openers().marks:  # else the text before it was not only white space
                    return opener
                self.say(r.take(1))
            elif not r.ended:
                yield
            elif not r.left:
                return None
            else:
                self.say(r.take(r.left))

    def openers(self) -> "Marks":
        """What may begin something here."""
        return self.at_first if self.fresh else self.later

    def say(self, text: str) -> None:
        """Text that is no mark. White space at its end waits for what follows."""
        if not text:
            return
        if self.after:
            text = text.lstrip()
            if not text:
                return
            self.after = False
        text = self.space + text
        body = text.rstrip()
        self.space = text[len(body) :]
        if body:
            self.fresh = False
            self.put_text(body, len(self.space))
        if self.grammar is None and (self.tags is None or not self.fresh):  # no mark will come
            self.put_text(self.space, 0)
            self.space = ""

    def put_text(self, text: str, before: int) -> None:
        """Text that ends so many characters before what the reader is to read next."""
        if text:
            end = self.reader.passed + self.reader.at - before
            self.pieces.append(Text(text, ((end - len(text), end),)))

    # Reasoning

    def reasoning(self) -> Step[None]:
        """Up to the closing mark, or to the end: then a call that it ends with was meant as one."""
        assert self.tags is not None
        r, tags, held, begun = self.reader, self.tags, "", False
        marks = marks_of(tags.closes + tags.opens)
        self.thought, self.thoughts = "", self.thoughts + 1
        while True:
            place, mark = marks.find(r)
            text = held + r.take(place - r.at)
            text = text if begun else text.lstrip()
            body = text.rstrip()
            held = text[len(body) :]
            if body and not begun and self.thoughts > 1:
                body = "\n\n" + body  # blocks of one answer are one reasoning to whoever reads it
            self.think(body)
            begun = begun or bool(body)
            if mark in tags.closes:
                r.at += len(mark)
                yield from self.closed()
                return
            if mark:  # the opening mark again; in the middle it is the model's own word
                word = r.take(len(mark))
                held += word if begun else ""
            elif r.ended and not r.left:
                self.late_calls()
                return
            else:
                yield

    def closed(self) -> Step[None]:
        """The closing mark again, which some templates provoke, and the mark of what follows, are no text."""
        assert self.tags is not None
        self.boundary()
        while found := (yield from self.reader.beyond(0, self.tags.marks)):
            if found in self.tags.opens:
                return
            yield from self.reader.skip_past((found,))

    def think(self, text: str) -> None:
        if not text:
            return
        self.pieces.append(Reasoning(text))
        if self.grammar is not None:
            self.thought = since(self.grammar.openers, self.thought + text)[:MAX_THOUGHT]

    def late_calls(self) -> None:
        """Reasoning that was never closed and ends with a whole call: the model stopped to have it made."""
        if self.grammar is None or not self.thought.startswith(self.grammar.openers):
            return
        inner = Parser(self.grammar, None, self.declared)
        pieces = joined([*inner.feed(self.thought), *inner.finish()])
        closed = bool(pieces) and isinstance(pieces[-1], ToolClosed)
        if closed and not any(isinstance(piece, Text) for piece in pieces) and self.known(pieces):
            self.pieces += pieces

    def known(self, pieces: list[Piece]) -> bool:
        names = [piece.name for piece in pieces if isinstance(piece, ToolOpened)]
        return all(name in self.calls.tools.parameters for name in names)


class Marks:
    """Texts to look for while more of the text is coming. One search finds a mark, or what could become one at the end."""

    def __init__(self, marks: tuple[str, ...]):
        self.marks = tuple(sorted(set(marks), key=len, reverse=True))
        begun = sorted({mark[:n] for mark in marks for n in range(1, len(mark))}, key=len, reverse=True)
        parts = [*map(re.escape, self.marks), *(re.escape(part) + r"\Z" for part in begun)]
        self.pattern = re.compile("|".join(parts) or "(?!)")

    def find(self, r: Reader) -> tuple[int, str | None]:
        """(how far nothing begins, the mark that begins there); no mark where there is none, or none yet."""
        found = self.pattern.search(r.buffer, r.at)
        if found is None:
            return len(r.buffer), None
        if found[0] in self.marks:
            return found.start(), found[0]
        return (len(r.buffer) if r.ended else found.start()), None

    def longer(self, mark: str) -> tuple[str, ...]:
        """The mark, and those that it is the beginning of."""
        return tuple(other for other in self.marks if other.startswith(mark))


marks_of = lru_cache(64)(Marks)


def since(marks: tuple[str, ...], text: str) -> str:
    """What follows the last mark, with it; or what could be its beginning."""
    place = max((text.rfind(mark) for mark in marks), default=-1)
    return text[place:] if place >= 0 else text[-max(map(len, marks), default=1) :]
