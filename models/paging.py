"""Which pages of a pool hold which sequence: bookkeeping on the host, done once a step for all layers of a geometry."""

from dataclasses import dataclass

from ..kernels.pages import PAGE, Rows, Span
from ..kernels.resident import Growing

REWIND = 8  # a row can go back by so many positions: the longest rejected draft
GROWTH = 1.5  # spare room given to a row that had to move, so that moving costs a constant a token


class Pool:
    """The free pages of one geometry, as sorted intervals. It grows when it has no room; it never shrinks."""

    def __init__(self):
        self.pages = 0
        self.free: list[tuple[int, int]] = []  # (first page, pages)

    def extend(self, after: int, count: int, room: int) -> bool:
        """Take the `count` pages from `after` on, if they are free or the pool ends there.

        It does not grow for that while `room` consecutive pages are free elsewhere: the row had better move there.
        """
        found = next((i for i, (start, _) in enumerate(self.free) if start == after), None)
        size = 0 if found is None else self.free[found][1]
        short = count - size
        if short > 0 and (after + size != self.pages or any(free >= room for _, free in self.free)):
            return False
        self.pages += max(0, short)
        if found is not None:
            self._shrink(found, min(count, size))
        return True

    def take(self, count: int) -> int:
        """The first page of `count` consecutive ones."""
        for i, (start, size) in enumerate(self.free):
            if size >= count:
                self._shrink(i, count)
                return start
        start = self.pages
        if self.free and sum(self.free[-1]) == self.pages:
            start = self.free.pop()[0]
        self.pages = start + count
        return start

    def give(self, start: int, count: int) -> None:
        """Free these pages again, joining neighbours."""
        merged = []
        for begin, size in sorted([*self.free, (start, count)]):
            if merged and sum(merged[-1]) == begin:
                begin, size = merged[-1][0], merged.pop()[1] + size
            merged.append((begin, size))
        self.free = merged

    def _shrink(self, index: int, count: int) -> None:
        start, size = self.free[index]
        self.free[index : index + 1] = [(start + count, size - count)] if size > count else []


@dataclass
class Extent:
    """The consecutive pages of one row in one geometry; `base` is the position of the first slot."""

    base: int = 0
    start: int = 0
    pages: int = 0

    @property
    def end(self) -> int:
        """The first position that does not fit."""
        return self.base + self.pages * PAGE

    def slot(self, position: int) -> int:
        return self.start * PAGE + position - self.base


class Paging:
    """The rows of one geometry: layers with equal `window` (None: everything is kept) share page numbers."""

    def __init__(self, window: int | None):
        self.window, self.pool = window, Pool()
        self.growing: dict[int, Growing] = {}  # by the number of rows: what the last step of so many was told

    @property
    def slots(self) -> int:
        return self.pool.pages * PAGE

    def kept(self, tokens: int) -> int:
        """Of a sequence of `tokens` tokens so many may be needed again."""
        return tokens if self.window is None else min(tokens, self.window + REWIND + PAGE)

    def first(self, length: int) -> int:
        """The first position that the token at `length` sees."""
        return 0 if self.window is None else max(0, length - self.window + 1)

    def open(self, expected: int) -> Extent:
        """Room for `expected` tokens is taken at once, which saves moving them later."""
        extent = Extent()
        if expected:
            self._relocate(extent, -(-self.kept(expected) // PAGE), 0)
        return extent

    def resume(self, length: int) -> Extent:
        """Room for a sequence that already has `length` tokens."""
        base = self.first(max(0, length - REWIND)) // PAGE * PAGE
        pages = -(-(length - base) // PAGE)
        return Extent(base, self.pool.take(pages), pages)

    def close(self, extent: Extent) -> None:
        if extent.pages:
            self.pool.give(extent.start, extent.pages)

    def place(self, rows: list[tuple[Extent, int]], new: int) -> Rows:
        """Make room for `new` tokens after each row's length."""
        moves = []
        for extent, length in rows:
            self._forget(extent, length)
            moves += self._reserve(extent, length, length + new)
        spans = tuple(self.span(extent, length, length + new) for extent, length in rows)
        return Rows(spans, self.slots, tuple(moves), self.growing.setdefault(len(rows), Growing()))

    def seen(self, rows: list[tuple[Extent, int]]) -> Rows:
        """What the last token of each row saw."""
        return Rows(tuple(self.span(extent, length - 1, length) for extent, length in rows), self.slots)

    def span(self, extent: Extent, length: int, end: int) -> Span:
        """What the tokens from `length` on see, up to `end`."""
        first = max(extent.base, self.first(length))
        return Span(first, ((extent.slot(first), end - first),))

    def _forget(self, extent: Extent, length: int) -> None:
        """Free the pages that no later token can see, even after going back."""
        spare = max(0, self.first(max(0, length - REWIND)) - extent.base) // PAGE
        if spare:
            self.pool.give(extent.start, spare)
            extent.base, extent.start, extent.pages = extent.base + spare * PAGE, extent.start + spare, extent.pages - spare

    def _reserve(self, extent: Extent, length: int, end: int) -> list:
        """Pages for positions up to `end`; a move where the row's run cannot be continued in place."""
        more = -(-(end - extent.end) // PAGE)
        if more <= 0:
            return []
        wanted = extent.pages + more
        if extent.pages and self.pool.extend(extent.start + extent.pages, more, int(wanted * GROWTH)):
            extent.pages = wanted
            return []
        return self._relocate(extent, wanted, length)

    def _relocate(self, extent: Extent, pages: int, length: int) -> list:
        old, held = (extent.start, extent.pages), length - extent.base
        wanted = int(pages * GROWTH) if extent.pages else pages
        extent.start, extent.pages = self.pool.take(wanted), wanted
        if not old[1]:
            return []
        self.pool.give(*old)
        return [(((old[0] * PAGE, held),), extent.start * PAGE)] if held else []
