"""Where a completion stands in its reasoning, told token by token. Pure."""

from collections.abc import Callable

from .parse.reasoning import Tags


class ReasoningState:
    """As the parser sees it: a block may open where an answer begins, or anywhere if the family's marks mean nothing
    else, and ends with the first closing mark. That mark again, and the mark of what follows, are no answer yet.

    inside   the next token is a part of the reasoning, or closes it
    may_open the next token may open a block
    count    tokens of reasoning so far, without the marks
    blocks   that were closed
    """

    def __init__(self, tags: Tags, token_bytes: Callable[[int], bytes], opened: bool):
        self.opens, self.closes, self.skipped = encoded(tags.opens), encoded(tags.closes), encoded(tags.closes + tags.then)
        self.anywhere, self.token_bytes = tags.anywhere, token_bytes
        self.longest = max(map(len, self.opens + self.closes))
        self.inside, self.count, self.blocks = opened, 0, 0
        self.fresh, self.tail = True, b""

    @property
    def may_open(self) -> bool:
        return not self.inside and (self.fresh or self.anywhere)

    def take(self, token: int) -> None:
        if not (self.inside or self.may_open):
            return
        text = self.tail + self.token_bytes(token)
        if self.inside:
            self.think(text)
        else:
            self.look(text)

    def think(self, text: bytes) -> None:
        if any(mark in text for mark in self.closes):
            self.inside, self.fresh, self.tail = False, True, b""
            self.blocks += 1
        else:
            self.count += 1
            self.tail = text[-self.longest :]

    def look(self, text: bytes) -> None:
        """Is what comes an opening mark, or can it become one?"""
        begun, skipped = text.lstrip(), self.skipped if self.blocks else ()
        while mark := next((mark for mark in skipped if begun.startswith(mark)), None):
            begun = begun[len(mark) :].lstrip()
        if any(mark in text if self.anywhere else begun.startswith(mark) for mark in self.opens):
            self.inside, self.tail = True, b""
            return
        self.fresh = self.fresh and any(mark.startswith(begun) for mark in self.opens + skipped)
        self.tail = begun if self.fresh else text[-self.longest :]


def encoded(marks: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(mark.encode() for mark in marks)
