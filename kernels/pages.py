"""The keys and values of all sequences of a layer, in pages of one pool, and where each sequence's are.

A pool holds the keys of all sequences as [kv_heads, slots, head_dim]; a page is PAGE consecutive slots (Kwon et al.
2023). With the slots behind the heads, a sequence whose pages follow one another is a strided view of the pool, so that
on the CPU a single stream reads it without a copy.

On a GPU kernels write the pools in place (pages_kernel.py): MLX's own update would copy a pool that a step still in
flight reads. MLX does not know of these writes, so whoever reads takes `Pages.written` as an input besides.

With a coding (coding.py) heads are packed: the two pools hold words, and two more the grids of keys and of values.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from weakref import WeakSet

import mlx.core as mx
import numpy as np

from . import launch, packed_pages_kernel, pages_kernel
from .coding import Coding
from .resident import Growing, resident

PAGE = 64  # slots
LEAST_TABLE = 2  # pages in a row of a table: kernels take two at once

Runs = tuple[tuple[int, int], ...]  # (first slot, slots), in the order of positions
PageRuns = tuple[tuple[int, int], ...]  # the same of pages
Move = tuple[Runs, int]  # (old runs, first new slot)


def slots_between(first: int, end: int, base: int, held: PageRuns) -> Runs:
    """Where the positions `first`.. `end` are, of a sequence whose pages `held` begin with position `base`."""
    found, skipped, left = [], first - base, end - first
    for start, pages in held:
        size = min(pages * PAGE - skipped, left)
        if size > 0:
            found.append((start * PAGE + skipped, size))
            left -= size
        skipped = max(0, skipped - pages * PAGE)
    return tuple(found)


@dataclass(frozen=True)
class Span:
    """One sequence after a step's tokens were added: the positions `first`.. `end` that these see, and the pages `held`, of
    which the first begins with position `base`.
    """

    first: int
    end: int
    base: int
    held: PageRuns

    @property
    def runs(self) -> Runs:
        return slots_between(self.first, self.end, self.base, self.held)

    @property
    def origin(self) -> int:
        """The position of the first slot of `pages`."""
        return self.first - (self.first - self.base) % PAGE

    @property
    def pages(self) -> np.ndarray:
        """The pages that hold the span."""
        held = np.concatenate([np.arange(start, start + count, dtype=np.int32) for start, count in self.held])
        return held[(self.first - self.base) // PAGE : -(-(self.end - self.base) // PAGE)]

    def tail(self, count: int) -> Runs:
        """The runs of the last `count` positions."""
        return slots_between(self.end - count, self.end, self.base, self.held)

    def settled(self, new: int) -> tuple:
        """What decides on pages, and on how far from their positions the slots of the last `new` are."""
        begin, last = (self.end - new - self.base) // PAGE, (self.end - 1 - self.base) // PAGE
        return self.base, self.held, (self.first - self.base) // PAGE, last, None if begin == last else self.end


@dataclass(frozen=True)
class Addresses:
    """The same spans for a kernel, for B `rows` of T `new` tokens: int32 numbers, one part behind the other.

        size [2]       slots of the pool, N
        position [B]   of the first new token
        bounds [B, 2]  positions of the table's first slot and of the first new token
        slots [B T]    of the new tokens
        table [N, B]   pages of each row (0 past its last): where one's first is does not depend on N

    A kernel that decodes takes `where`, which has them all: each input of a launch costs MLX time. Others take parts.
    """

    where: mx.array
    rows: int
    new: int

    @property
    def pages(self) -> int:
        """N."""
        return (self.where.size - 2) // self.rows - 3 - self.new

    @cached_property
    def size(self) -> mx.array:
        return self.where[:2]

    @cached_property
    def position(self) -> mx.array:
        return self.where[2 : 2 + self.rows]

    @cached_property
    def bounds(self) -> mx.array:
        return self.where[2 + self.rows : 2 + 3 * self.rows].reshape(-1, 2)

    @cached_property
    def slots(self) -> mx.array:
        return self.where[2 + 3 * self.rows : -self.rows * self.pages]

    @cached_property
    def table(self) -> mx.array:
        """[B, N]."""
        return self.pages_of_rows.T

    @cached_property
    def pages_of_rows(self) -> mx.array:
        """The table as it stands there, [N, B]."""
        return self.where[-self.rows * self.pages :].reshape(-1, self.rows)


@dataclass(frozen=True)
class Rows:
    """Where the B rows of a step stand: their spans, the slots a layer's pool must have, and runs to move first."""

    spans: tuple[Span, ...]
    slots: int
    moves: tuple[Move, ...] = ()
    growing: Growing = field(default_factory=Growing, compare=False)  # the addresses of the step before
    addressed: Addresses | None = None  # in a traced step, which knows no spans and finds the moves done
    known: dict[tuple[int, int], Addresses] = field(default_factory=dict, compare=False)  # what all layers share
    stood: dict[int, mx.array] = field(default_factory=dict, compare=False)  # likewise
    shared: dict[tuple, tuple] = field(default_factory=dict, compare=False)  # what kernels compute of the rows for all layers

    def position(self, new: int) -> mx.array:
        """[B] int32 of the first of the last `new` tokens."""
        if self.addressed is not None:
            return self.addressed.position
        if new not in self.stood:
            self.stood[new] = resident(mx.array([span.end - new for span in self.spans], mx.int32))
        return self.stood[new]

    def addresses(self, new: int, capacity: int) -> Addresses:
        """For `new` tokens a row, in a pool of `capacity` slots. N is a power of two, so that few shapes occur."""
        if self.addressed is not None:
            return self.addressed
        if (new, capacity) not in self.known:
            self.known[new, capacity] = self._addresses(new, capacity)
        return self.known[new, capacity]

    def _addresses(self, new: int, capacity: int) -> Addresses:
        position = [span.end - new for span in self.spans]
        settled = (capacity, [span.settled(new) for span in self.spans])
        where = self.growing(settled, position, new, lambda: self._numbers(new, capacity, position))
        return Addresses(where, len(self.spans), new)

    def _numbers(self, new: int, capacity: int, position: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of the addresses, and their growth to the next step of as many tokens in the same pages."""
        tables = [span.pages for span in self.spans]
        count = max(LEAST_TABLE, 1 << (max(map(len, tables)) - 1).bit_length())
        bounds = [n for span, at in zip(self.spans, position, strict=True) for n in (span.origin, at)]
        slots = np.concatenate([np.arange(slot, slot + n) for span in self.spans for slot, n in span.tail(new)])
        table = np.zeros((len(tables), count), np.int32)
        for row, pages in zip(table, tables, strict=True):
            row[: len(pages)] = pages
        parts = [[capacity, count], position, bounds, slots, table.T.ravel()]
        *ends, total = accumulate(map(len, parts))
        growth = np.zeros(total, np.int32)
        growth[ends[0] : ends[1]] = growth[ends[1] + 1 : ends[2] : 2] = growth[ends[2] : ends[3]] = new
        return np.concatenate(parts, dtype=np.int32), growth


class Pages:
    """One layer's pool: keys and values [kv_heads, slots, head_dim], or packed [kv_heads, slots, words] with `grids`.

    window   positions that a token sees, itself included; None: all before it
    coding   how heads are packed; None: they are not
    users    who keep the pools' arrays: before there are others, they are told to let go
    written  where the pools are written in place, a result that is there only after the last write and what was read since
    """

    def __init__(self, kv_heads: int, head_dim: int, dtype: mx.Dtype, window: int | None = None):
        self.kv_heads, self.head_dim, self.dtype, self.window = kv_heads, head_dim, dtype, window
        self.users: WeakSet = WeakSet()
        self.pack(None)

    def pack(self, coding: Coding | None) -> None:
        """Hold heads so from now on, and forget those that are held."""
        self.coding = coding
        self.clear()

    def clear(self) -> None:
        self.release()
        self.decided: bool | None = None

    @property
    def in_place(self) -> bool:
        """Whether kernels write the pools: found out once, for as long as a pool lives."""
        if self.decided is None:
            self.decided = not launch.on_cpu("pages") and launch.uses_kernel(
                "pages", pages_kernel.case(self), pages_kernel.covers(self)
            )
        return self.decided

    @property
    def layout(self) -> list[tuple[int, mx.Dtype]]:
        """Of each pool in `held`: elements that a head takes, and their type."""
        if self.coding is None:
            return 2 * [(self.head_dim, self.dtype)]
        words, grids = self.coding.widths
        return [*2 * [(words, mx.uint32)], *2 * [(grids, self.dtype)]]

    @property
    def slot_bytes(self) -> int:
        return self.kv_heads * sum(width * dtype.size for width, dtype in self.layout)

    @property
    def unpacked_bytes(self) -> int:
        """Of a slot while it is read, where its heads must be unpacked for that."""
        return 0 if self.coding is None else 2 * self.kv_heads * self.head_dim * self.dtype.size

    @property
    def arrays(self) -> list[mx.array]:
        """What a step changes: evaluating it computes the state."""
        if self.in_place:
            return [] if self.written is None else [self.written]
        return self.held

    @property
    def held(self) -> list[mx.array]:
        """What `hold` takes back: keys, values, and the grids of both."""
        return [] if self.keys is None else [self.keys, self.values, *self.grids]

    def hold(self, pools: list[mx.array], written: mx.array | None = None) -> None:
        self._let_go()
        (self.keys, self.values, *self.grids), self.written = pools, written

    def release(self) -> None:
        """Let go of the pool, so that whoever has it now can write in place."""
        self._let_go()
        self.keys = self.values = self.written = None
        self.grids: list[mx.array] = []

    def _let_go(self) -> None:
        for user in self.users:
            user.let_go()

    @property
    def nbytes(self) -> int:
        return sum(pool.nbytes for pool in self.held)

    def write(self, k: mx.array, v: mx.array, rows: Rows) -> None:
        """k, v [B, kv_heads, T, head_dim] go to the last T slots of each row."""
        if self.coding is None:
            self.store([k, v], rows)
        elif self.in_place:
            self.prepare(rows)
            self.written = packed_pages_kernel.pack(self, k, v, rows.addresses(k.shape[2], self.keys.shape[1]))
        else:
            coded = zip(self.coding.encode(k), self.coding.encode(v), strict=True)
            self.store([pool for pair in coded for pool in pair], rows)

    def store(self, heads: list[mx.array], rows: Rows) -> None:
        """The same for heads as the pools hold them: [B, kv_heads, T, width] for each of `layout`."""
        self.prepare(rows)
        if self.in_place:
            self.written = pages_kernel.append(self, heads, rows.addresses(heads[0].shape[2], self.keys.shape[1]))
        elif rows.addressed is not None:
            self.hold([put(pool, new, rows.addressed.slots) for pool, new in zip(self.held, heads, strict=True)])
        else:
            self.hold([written(pool, new, rows) for pool, new in zip(self.held, heads, strict=True)])

    def prepare(self, rows: Rows) -> None:
        """Make the pool as large as the rows need, and move the runs that must move; in a traced step that is done before."""
        if rows.moves or self.keys is None or self.keys.shape[1] < rows.slots:
            self._arrange(rows)

    def _arrange(self, rows: Rows) -> None:
        self._let_go()  # before there are two pools
        if self.in_place:  # MLX copies what it believes nobody writes
            mx.eval(self.arrays)
            mx.synchronize()
        pools = self.held or [None] * len(self.layout)
        grown = (self._grown(pool, *kind, rows.slots) for pool, kind in zip(pools, self.layout, strict=True))
        self.hold([moved(pool, rows.moves) for pool in grown], self.written)
        if self.in_place:
            mx.eval(self.held)

    def _grown(self, pool, width, dtype, slots):
        have = 0 if pool is None else pool.shape[1]
        if have >= slots:
            return pool
        more = mx.zeros((self.kv_heads, slots - have, width), dtype)
        return more if pool is None else mx.concatenate([pool, more], axis=1)

    def read(self, span: Span) -> tuple[mx.array, mx.array]:
        """Keys and values [kv_heads, S, head_dim] of the span's positions; turned, where they are packed so."""
        return self.unpacked(self.raw(span.runs))

    def copy(self, moves: list[Move], slots: int) -> None:
        """Copy runs to other slots of the pool, which is given `slots`.

        Where kernels do it, whoever reads the pool in the next step need not wait for the copy: it is done before.
        """
        self.prepare(Rows((), slots))
        if self.in_place:
            self.written = pages_kernel.copied(self, moves)
            mx.eval(self.written)
        else:
            self.hold([moved(pool, moves) for pool in self.held])

    def paged(self, addresses: Addresses) -> tuple[mx.array, mx.array]:
        """The same [B, kv_heads, N PAGE, head_dim] of all slots of the table's pages."""
        slots = addresses.table[:, :, None] * PAGE + mx.arange(PAGE)
        found = [mx.unflatten(pool, 1, (len(slots), -1)) for pool in self._slots(slots.reshape(-1))]
        return tuple(heads.swapaxes(0, 1) for heads in self.unpacked(found))

    def unpacked(self, heads: list[mx.array]) -> tuple[mx.array, mx.array]:
        """Keys and values out of parts of all pools."""
        if self.coding is None:
            return tuple(heads)
        return tuple(self.coding.decode(*pair) for pair in zip(heads[:2], heads[2:], strict=True))

    def raw(self, runs: Runs) -> list[mx.array]:
        """The heads as each pool holds them, [kv_heads, S, width]."""
        return self._slots(pages_kernel.slots_of(runs)) if self.in_place else [gathered(pool, runs) for pool in self.held]

    def _slots(self, slots: mx.array) -> list[mx.array]:
        if not self.in_place:
            return [pool[:, slots] for pool in self.held]
        heads, self.written = pages_kernel.gather(self, slots)  # a window's pages may be written again at once
        return heads


def put(pool: mx.array, new: mx.array, slots: mx.array) -> mx.array:
    """The pool [KV, slots, d] with new [B, KV, T, d] at `slots` [B T]; in place, when nothing else holds the pool."""
    flat = new.swapaxes(0, 1).reshape(pool.shape[0], -1, pool.shape[2])
    if flat.shape[1] == 1:
        return mx.slice_update(pool, flat, slots, axes=(1,))
    pool[:, slots] = flat
    return pool


def written(pool: mx.array, new: mx.array, rows: Rows) -> mx.array:
    for row, span in zip(new, rows.spans, strict=True):
        done = 0
        for slot, count in span.tail(new.shape[2]):
            pool[:, slot : slot + count] = row[:, done : done + count]
            done += count
    return pool


def moved(pool: mx.array, moves: Iterable[Move]) -> mx.array:
    for runs, slot in moves:
        old = gathered(pool, runs)
        pool[:, slot : slot + old.shape[1]] = old
    return pool


def gathered(pool: mx.array, runs: Runs) -> mx.array:
    """The slots of `runs`, in order: a view where there is one run."""
    parts = [pool[:, slot : slot + count] for slot, count in runs]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
