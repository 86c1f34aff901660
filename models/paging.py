"""Which pages of a pool hold which sequence: bookkeeping on the host, done once a step for all layers of a geometry."""

from collections import defaultdict
from dataclasses import dataclass

from ..kernels.pages import PAGE, Move, PageRuns, Rows, Runs, Span, slots_between
from ..kernels.resident import Growing
from .shares import Shares

REWIND = 8  # a row can go back by so many positions: the longest rejected draft
SPARE = 8  # pages that a row is given at once where they need not follow on those it has: few runs, few pages unused
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
    """The pages of one row in one geometry, as runs of consecutive ones; `base` is the position of the first slot."""

    base: int = 0
    runs: PageRuns = ()

    @property
    def pages(self) -> int:
        return sum(count for _, count in self.runs)

    @property
    def end(self) -> int:
        """The first position that does not fit."""
        return self.base + self.pages * PAGE

    def page(self, index: int) -> int:
        return cut(self.runs, index)[1][0][0]

    def slot(self, position: int) -> int:
        return self.page((position - self.base) // PAGE) * PAGE + (position - self.base) % PAGE

    def slots(self, first: int, end: int) -> Runs:
        """Where the positions `first`.. `end` are."""
        return slots_between(first, end, self.base, self.runs)

    def add(self, start: int, pages: int) -> None:
        self.runs = joined((*self.runs, (start, pages)))


def cut(runs: PageRuns, count: int) -> tuple[PageRuns, PageRuns]:
    """The first `count` pages of the runs, and the others."""
    first = []
    for i, (start, pages) in enumerate(runs):
        if count < pages:
            head = ((start, count),) if count else ()
            return (*first, *head), ((start + count, pages - count), *runs[i + 1 :])
        first.append((start, pages))
        count -= pages
    return tuple(first), ()


def joined(runs: PageRuns) -> PageRuns:
    """The same pages with runs that follow one another made one."""
    made: list[tuple[int, int]] = []
    for start, pages in runs:
        if made and sum(made[-1]) == start:
            start, pages = made[-1][0], made.pop()[1] + pages
        made.append((start, pages))
    return tuple(made)


def numbers(runs: PageRuns) -> list[int]:
    return [page for start, pages in runs for page in range(start, start + pages)]


class Paging:
    """The rows of one geometry: layers with equal `window` (None: everything is kept) share page numbers.

    Rows and snapshots that begin alike hold the same pages. A row writes to its last page only behind what snapshots
    read of it; where another row writes there already, it goes on in a page of its own, with a copy of what it needs.
    """

    def __init__(self, window: int | None):
        self.window, self.pool, self.shares = window, Pool(), Shares()
        self.room = 0  # slots, of which the pool's pages take some
        self.growing: dict[int, Growing] = defaultdict(Growing)  # by the number of rows: what the last step of so many was told

    @property
    def slots(self) -> int:
        """That each layer's pool must have: the same number, whichever steps a layer was asked in."""
        if self.pool.pages * PAGE > self.room:  # each growth copies the pools: a constant share keeps that rare
            self.room = max(self.pool.pages * PAGE, self.room + self.room // 4)
        return self.room

    def kept(self, tokens: int) -> int:
        """Of a sequence of `tokens` tokens so many may be needed again."""
        return tokens if self.window is None else min(tokens, self.window + REWIND + PAGE)

    def first(self, length: int) -> int:
        """The first position that the token at `length` sees."""
        return 0 if self.window is None else max(0, length - self.window + 1)

    def base(self, length: int) -> int:
        """The first position, at a page's begin, that a sequence of `length` tokens may need, even after going back."""
        return self.first(max(0, length - REWIND)) // PAGE * PAGE

    def open(self, expected: int) -> Extent:
        """Room for `expected` tokens is taken at once, which saves moving them later."""
        extent = Extent()
        self._extend(extent, -(-self.kept(expected) // PAGE))
        return extent

    def close(self, extent: Extent) -> None:
        self._let_go(extent.runs, rows=1)

    # Snapshots

    def keep(self, extent: Extent, length: int) -> Extent:
        """The pages that a snapshot at `length` reads: they stay as they are until `drop`."""
        base = max(extent.base, self.base(length))  # a row that went back has not all that it could go back by again
        runs = cut(cut(extent.runs, -(-(length - extent.base) // PAGE))[0], (base - extent.base) // PAGE)[1]
        for i, page in enumerate(numbers(runs)):
            self.shares.count(page, snapshots=1, read=min(PAGE, length - base - i * PAGE))
        return Extent(base, runs)

    def shorten(self, kept: Extent, length: int) -> Extent:
        """What a snapshot at a smaller length reads; the other pages are let go."""
        base = max(kept.base, self.base(length))
        before, runs = cut(kept.runs, (base - kept.base) // PAGE)
        runs, after = cut(runs, -(-(length - base) // PAGE))
        self._let_go((*before, *after), snapshots=1)
        return Extent(base, runs)

    def drop(self, kept: Extent) -> None:
        self._let_go(kept.runs, snapshots=1)

    def resume(self, kept: Extent, length: int, expected: int) -> tuple[Extent, list[Move]]:
        """A row that has the first `length` tokens of a snapshot, with room for `expected`; and what to copy for it."""
        base = max(kept.base, self.base(length))
        runs, (whole, rest) = cut(kept.runs, (base - kept.base) // PAGE)[1], divmod(length - base, PAGE)
        claimed = rest > 0 and self.shares.claimable(cut(runs, whole)[1][0][0], rest)
        shared, others = cut(runs, whole + claimed)
        for page in numbers(shared):
            self.shares.count(page, rows=1)
        extent = Extent(base, shared)
        self._extend(extent, max(-(-self.kept(expected) // PAGE), whole + (rest > 0)) - extent.pages)
        copied = rest > 0 and not claimed
        return extent, [(((others[0][0] * PAGE, rest),), extent.slot(length - rest))] if copied else []

    def whole(self, kept: Extent, length: int) -> list[int]:
        """The pages of a snapshot that its first `length` tokens fill."""
        base = max(kept.base, self.base(length))
        return numbers(cut(cut(kept.runs, (base - kept.base) // PAGE)[1], (length - base) // PAGE)[0])

    # Steps

    def place(self, rows: list[tuple[Extent, int]], new: int, scattered: bool = False) -> Rows:
        """Make room for `new` tokens after each row's length. scattered: a row's pages may be anywhere, none need move."""
        moves: list[Move] = []
        for extent, length in rows:
            if self.window is not None:
                self._forget(extent, length)
            if self.shares.pages:
                moves += self._part(extent, length)
            if length + new > extent.end:
                moves += self._reserve(extent, length, length + new, scattered)
        spans = tuple(self.span(extent, length, length + new) for extent, length in rows)
        return Rows(spans, self.slots, tuple(moves), self.growing[len(rows)])

    def seen(self, rows: list[tuple[Extent, int]]) -> Rows:
        """What the last token of each row saw."""
        return Rows(tuple(self.span(extent, length - 1, length) for extent, length in rows), self.slots)

    def span(self, extent: Extent, length: int, end: int) -> Span:
        """What the tokens from `length` on see, up to `end`."""
        return Span(max(extent.base, self.first(length)), end, extent.base, extent.runs)

    def _forget(self, extent: Extent, length: int) -> None:
        """Free the pages that no later token can see, even after going back."""
        spare = (self.base(length) - extent.base) // PAGE
        if spare > 0:
            gone, extent.runs = cut(extent.runs, spare)
            extent.base += spare * PAGE
            self._let_go(gone, rows=1)

    def _part(self, extent: Extent, length: int) -> list[Move]:
        """Own pages where others read what the next token, after going back, would be written over."""
        index, offset = divmod(length - extent.base, PAGE)
        for page, held in ((index, offset), (index + 1, 0)):  # going back can leave one page
            if page < extent.pages and not self.shares.writable(extent.page(page), held):
                extent.runs, left = cut(extent.runs, page)
                self._let_go(left, rows=1)
                start = self.pool.take(sum(count for _, count in left))
                extent.add(start, sum(count for _, count in left))
                return [(((left[0][0] * PAGE, held),), start * PAGE)] if held else []
        return []

    def _reserve(self, extent: Extent, length: int, end: int, scattered: bool) -> list[Move]:
        """Pages for positions up to `end`; a move where the row's last run cannot be continued in place."""
        more = -(-(end - extent.end) // PAGE)
        own = self._own(extent)
        if extent.pages and self.pool.extend(sum(extent.runs[-1]), more, int((own + more) * GROWTH)):
            extent.add(sum(extent.runs[-1]), more)
            return []
        if scattered:
            extent.add(self.pool.take(max(more, SPARE)), max(more, SPARE))
            return []
        return self._relocate(extent, own, more, length)

    def _own(self, extent: Extent) -> int:
        """How many pages at the row's end nobody else holds."""
        if not self.shares.pages:
            return extent.pages
        pages = numbers(extent.runs)
        return next((i for i, page in enumerate(reversed(pages)) if page in self.shares.pages), len(pages))

    def _relocate(self, extent: Extent, own: int, more: int, length: int) -> list[Move]:
        begin = extent.end - own * PAGE
        source = extent.slots(begin, length)
        wanted = int((own + more) * GROWTH) if extent.pages else more
        start = self.pool.take(wanted)
        extent.runs, left = cut(extent.runs, extent.pages - own)
        extent.add(start, wanted)
        self._let_go(left, rows=1)
        return [(source, start * PAGE)] if source else []

    def _extend(self, extent: Extent, more: int) -> None:
        """Room behind a row that need not move: it follows on what it has, where that is free."""
        if more <= 0:
            return
        after = sum(extent.runs[-1]) if extent.runs else None
        free = after is not None and self.pool.extend(after, more, more)
        extent.add(after if free else self.pool.take(more), more)

    def _let_go(self, runs: PageRuns, rows: int = 0, snapshots: int = 0) -> None:
        for start, count in runs:
            if not self.shares.pages:
                self.pool.give(start, count)
                continue
            freed = self.shares.freed(range(start, start + count), rows, snapshots)
            for begin, size in joined([(page, 1) for page in freed]):
                self.pool.give(begin, size)
