"""What a sequence remembers: which pages of which pools hold its keys and values.

A geometry is a window (None: everything is kept). All layers of one geometry share page numbers, so the bookkeeping
is done once a step, on the host, and each layer only follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..kernels.attention import PAGE, Pages, Rows, Span

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


@dataclass
class Row:
    """One sequence: how many tokens its state holds, and where."""

    length: int = 0
    extents: dict[int | None, Extent] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One forward pass: `new` tokens for each of the rows that stood at `position` [B] before it."""

    position: mx.array
    rows: dict[int | None, Rows]


class Memory:
    """The state of all sequences of a model. `layers` are its pools, one a layer; layers may share one."""

    def __init__(self, layers: Sequence[tuple[int | None, Pages]]):
        self.layers = layers
        self.pools = {window: Pool() for window, _ in layers}
        self.pages = [pages for _, pages in unique(layers)]

    def open(self, expected: int = 0) -> Row:
        """A new sequence; room for `expected` tokens is taken at once, which saves moving them later."""
        row = Row(extents={window: Extent() for window in self.pools})
        for window, extent in row.extents.items():
            tokens = expected if window is None else min(expected, window + REWIND + PAGE)
            if tokens:
                self._relocate(extent, self.pools[window], -(-tokens // PAGE), 0)
        return row

    def close(self, row: Row) -> None:
        for window, extent in row.extents.items():
            if extent.pages:
                self.pools[window].give(extent.start, extent.pages)
        row.extents, row.length = {}, 0

    def step(self, rows: Sequence[Row], new: int) -> Step:
        """Make room for `new` tokens a row and move the rows' lengths past them."""
        position = mx.array([row.length for row in rows], mx.int32)
        placed = {window: self._place(window, rows, new) for window in self.pools}
        for row in rows:
            row.length += new
        return Step(position, placed)

    def rewind(self, row: Row, count: int) -> None:
        """Forget the last `count` tokens: the next step writes over them."""
        assert 0 <= count <= min(REWIND, row.length), f"cannot go back {count} of {row.length}, at most {REWIND}"
        row.length -= count

    def _place(self, window: int | None, rows: Sequence[Row], new: int) -> Rows:
        moves = []
        for row in rows:
            self._forget(window, row)
            moves += self._reserve(window, row, row.length + new)
        spans = tuple(self._span(window, row, new) for row in rows)
        return Rows(spans, self.pools[window].pages * PAGE, tuple(moves))

    def _forget(self, window: int | None, row: Row) -> None:
        """Free the pages that no later token can see, even after going back."""
        if window is None:
            return
        extent = row.extents[window]
        spare = max(0, row.length - REWIND - window + 1 - extent.base) // PAGE
        if spare:
            self.pools[window].give(extent.start, spare)
            extent.base, extent.start, extent.pages = extent.base + spare * PAGE, extent.start + spare, extent.pages - spare

    def _reserve(self, window: int | None, row: Row, end: int) -> list:
        """Pages for positions up to `end`; a move where the row's run cannot be continued in place."""
        extent, pool = row.extents[window], self.pools[window]
        more = -(-(end - extent.end) // PAGE)
        if more <= 0:
            return []
        wanted = extent.pages + more
        if extent.pages and pool.extend(extent.start + extent.pages, more, int(wanted * GROWTH)):
            extent.pages = wanted
            return []
        return self._relocate(extent, pool, wanted, row.length)

    def _relocate(self, extent: Extent, pool: Pool, pages: int, length: int) -> list:
        old, held = (extent.start, extent.pages), length - extent.base
        wanted = int(pages * GROWTH) if extent.pages else pages
        extent.start, extent.pages = pool.take(wanted), wanted
        if not old[1]:
            return []
        pool.give(*old)
        return [(((old[0] * PAGE, held),), extent.start * PAGE)] if held else []

    def _span(self, window: int | None, row: Row, new: int) -> Span:
        extent, end = row.extents[window], row.length + new
        first = extent.base if window is None else max(extent.base, row.length - window + 1)
        return Span(first, ((extent.slot(first), end - first),))

    @property
    def arrays(self) -> list[mx.array]:
        """All pools: evaluating them computes the state, and nothing that only a logit needs."""
        return [array for pages in self.pages for array in (pages.keys, pages.values)]

    @property
    def nbytes(self) -> int:
        return sum(pages.nbytes for pages in self.pages)

    def row_bytes(self, tokens: int) -> int:
        """What one sequence of `tokens` tokens needs; a sliding layer holds its window, and as much to move into."""
        return sum(
            pages.slot_bytes * (tokens if window is None else min(tokens, 2 * (window + REWIND + PAGE)))
            for window, pages in unique(self.layers)
        )


def unique(layers):
    return list({id(pages): (window, pages) for window, pages in layers}.values())
