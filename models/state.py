"""What sequences remember: keys and values in pages, and the constant-size states of recurrent mixers.

Every state extends by T tokens for B rows at their own positions, goes back by a few, and gives and takes snapshots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ..kernels.pages import Pages, Rows, Span
from ..kernels.resident import resident
from .paging import REWIND, Extent, Paging


@dataclass(eq=False)
class Row:
    """One sequence: how many tokens its state holds, the pages of each geometry, and its slot in recurrent states."""

    length: int = 0
    extents: dict[int | None, Extent] = field(default_factory=dict)
    slot: int = 0


@dataclass(frozen=True)
class Step:
    """One forward pass: `new` tokens for each of the rows that stood at `position` [B] before it.

    rows    where each geometry's keys and values of these rows are
    slots   of the rows in recurrent states; `fresh` says which rows have no state yet
    keep    recurrent mixers keep the state after every token, so that some of them can be taken back
    per_layer   [B, T, layers, P] what each layer is given besides its input, in models that have such
    """

    position: mx.array
    new: int
    rows: dict[int | None, Rows]
    slots: tuple[int, ...]
    fresh: tuple[bool, ...]
    keep: bool = False
    per_layer: mx.array | None = None


def places(slots: tuple[int, ...]) -> slice | mx.array:
    """Some slots of a pool, as one slice where they follow one another."""
    neighbours = slots == tuple(range(slots[0], slots[0] + len(slots)))
    return slice(slots[0], slots[0] + len(slots)) if neighbours else mx.array(slots)


class Recurrent:
    """One layer's constant-size states: a pool [slots, *shape] for each name.

    shapes   name -> (shape of one row's state, dtype)
    """

    in_place = False  # see Pages

    def __init__(self, shapes: dict[str, tuple[tuple[int, ...], mx.Dtype]]):
        self.shapes = shapes
        self.clear()

    def clear(self) -> None:
        self.pools: dict[str, mx.array] = {}
        self.trail: dict[str, mx.array] = {}
        self.trail_slots: tuple[int, ...] = ()

    def read(self, step: Step) -> dict[str, mx.array]:
        """The rows' states [B, *shape]; zeros for rows that have none yet."""
        self._grow(max(step.slots) + 1)
        return {name: self._rows(pool, step) for name, pool in self.pools.items()}

    def _rows(self, pool: mx.array, step: Step) -> mx.array:
        if not any(step.fresh):
            return pool[places(step.slots)]
        rows = [
            mx.zeros((1, *pool.shape[1:]), pool.dtype) if fresh else pool[slot : slot + 1]
            for slot, fresh in zip(step.slots, step.fresh, strict=True)
        ]
        return rows[0] if len(rows) == 1 else mx.concatenate(rows)

    def write(self, step: Step, states: dict[str, mx.array], trail: dict[str, mx.array] | None = None) -> None:
        """states [B, *shape] after the step; with step.keep also `trail` [B, T, *shape], the states after each token."""
        assert (trail is not None) == step.keep, "a step that keeps its states needs all of them"
        if trail or not set(self.trail_slots).isdisjoint(step.slots):
            self.trail, self.trail_slots = (trail or {}), (step.slots if trail else ())
        for name, state in states.items():
            pool = self.pools[name]
            state = state.astype(pool.dtype)
            if step.slots == tuple(range(len(pool))):
                self.pools[name] = mx.contiguous(state)  # all of them: nothing to write into; no view of a longer array
            else:
                pool[places(step.slots)] = state

    def rewind(self, slot: int, count: int) -> None:
        """Back to the state before the last `count` tokens of the row's last step, which must have kept them."""
        assert slot in self.trail_slots, "the row's last step did not keep its states: it cannot go back"
        i = self.trail_slots.index(slot)
        for name, trail in self.trail.items():
            self.pools[name][slot] = trail[i, trail.shape[1] - 1 - count].astype(self.pools[name].dtype)

    def take(self, slot: int) -> dict[str, mx.array]:
        return {name: mx.contiguous(pool[slot : slot + 1]) for name, pool in self.pools.items()}

    def put(self, slot: int, states: dict[str, mx.array]) -> None:
        self._grow(slot + 1)
        for name, state in states.items():
            self.pools[name][slot : slot + 1] = state

    def _grow(self, slots: int) -> None:
        for name, (shape, dtype) in self.shapes.items():
            pool = self.pools.get(name)
            have = 0 if pool is None else len(pool)
            if have < slots:
                more = mx.zeros((slots - have, *shape), dtype)
                self.pools[name] = more if pool is None else mx.concatenate([pool, more])

    @property
    def arrays(self) -> list[mx.array]:
        """What a step changes: evaluating it computes the state."""
        return list(self.pools.values())

    @property
    def held(self) -> list[mx.array]:
        """What `hold` takes back; the states that a step kept are the later half."""
        return [*self.arrays, *self.trail.values()]

    def hold(self, arrays: list[mx.array], kept: tuple[int, ...] = ()) -> None:
        """kept  slots of the rows whose states are among the arrays"""
        pools, trail = arrays[: len(self.shapes)], arrays[len(self.shapes) :]
        self.pools = dict(zip(self.shapes, pools, strict=True))
        self.trail, self.trail_slots = dict(zip(self.shapes, trail, strict=False)), kept

    def release(self) -> None:
        """Let go of the pools, so that whoever has them now can write in place; what a draft kept is over."""
        self.pools, self.trail, self.trail_slots = {}, {}, ()

    @property
    def row_bytes(self) -> int:
        return sum(mx.zeros(shape, dtype).nbytes for shape, dtype in self.shapes.values())

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in [*self.arrays, *self.trail.values()])


@dataclass(frozen=True)
class Snapshot:
    """The state of one sequence at some length, by itself: its rows can go on, and close, without it."""

    length: int
    states: tuple[Any, ...]  # one a layer state: (first position, *pools' heads), or a recurrent state's arrays

    @property
    def arrays(self) -> list[mx.array]:
        parts = [s.values() if isinstance(s, dict) else s[1:] for s in self.states]
        return [array for part in parts for array in part]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


class Memory:
    """The state of all sequences of a model. `states` are its layers' pools; layers may share one."""

    def __init__(self, states: Sequence[Pages | Recurrent]):
        self.states = list({id(state): state for state in states}.values())
        self.pages = [state for state in self.states if isinstance(state, Pages)]
        self.recurrent = [state for state in self.states if isinstance(state, Recurrent)]
        self.paging = {pages.window: Paging(pages.window) for pages in self.pages}
        self.free_slots: list[int] = []
        self.slots = 0

    def open(self, expected: int = 0) -> Row:
        """A new sequence, with room for `expected` tokens from the start."""
        return self._row(0, lambda paging: paging.open(expected))

    def _row(self, length: int, extent: Callable[[Paging], Extent]) -> Row:
        if not self.free_slots:
            self.free_slots, self.slots = [self.slots], self.slots + 1
        slot = self.free_slots.pop()
        return Row(length, {window: extent(paging) for window, paging in self.paging.items()}, slot)

    def close(self, row: Row) -> None:
        for window, extent in row.extents.items():
            self.paging[window].close(extent)
        self.free_slots.append(row.slot)
        row.extents, row.length = {}, 0

    def step(self, rows: Sequence[Row], new: int, keep: bool = False) -> Step:
        """Make room for `new` tokens a row and move the rows' lengths past them. keep: see `Step`."""
        assert not keep or new <= REWIND + 1, f"{new} states cannot be kept, {REWIND + 1} can"
        step = Step(
            position=resident(mx.array([row.length for row in rows], mx.int32)),
            new=new,
            rows={w: p.place([(row.extents[w], row.length) for row in rows], new) for w, p in self.paging.items()},
            slots=tuple(row.slot for row in rows),
            fresh=tuple(row.length == 0 for row in rows),
            keep=keep,
        )
        for row in rows:
            row.length += new
        return step

    def behind(self, rows: Sequence[Row]) -> Step:
        """For a drafter, which reads and does not write: the place of each row's next token, and what the last one saw."""
        return Step(
            position=resident(mx.array([row.length for row in rows], mx.int32)),
            new=1,
            rows={w: p.seen([(row.extents[w], row.length) for row in rows]) for w, p in self.paging.items()},
            slots=tuple(row.slot for row in rows),
            fresh=(False,) * len(rows),
        )

    def rewind(self, row: Row, count: int) -> None:
        """Forget the last `count` tokens: the next step writes over them.

        A model with recurrent layers can only go back within the row's last step, which must have been made with `keep`.
        """
        assert 0 <= count <= min(REWIND, row.length), f"cannot go back {count} of {row.length}, at most {REWIND}"
        if count:
            for state in self.recurrent:
                state.rewind(row.slot, count)
        row.length -= count

    def forget_kept(self) -> None:
        """No row will go back within the last step any more."""
        for state in self.recurrent:
            state.trail, state.trail_slots = {}, ()

    def snapshot(self, row: Row) -> Snapshot:
        return Snapshot(row.length, tuple(self._taken(state, row) for state in self.states))

    def _taken(self, state: Pages | Recurrent, row: Row):
        if isinstance(state, Recurrent):
            return state.take(row.slot)
        span = self._span(state, row.extents[state.window], row.length)
        return span.first, *state.take(span)

    def _span(self, pages: Pages, extent: Extent, length: int) -> Span:
        return self.paging[pages.window].span(extent, max(0, length - REWIND), length)

    def restore(self, snapshot: Snapshot) -> Row:
        """A new sequence that stands where the snapshot was taken."""
        row = self._row(snapshot.length, lambda paging: paging.resume(snapshot.length))
        for state, taken in zip(self.states, snapshot.states, strict=True):
            if isinstance(state, Recurrent):
                state.put(row.slot, taken)
                continue
            first, *heads = taken
            extent = row.extents[state.window]
            where = Rows((Span(first, ((extent.slot(first), snapshot.length - first),)),), self.paging[state.window].slots)
            state.store([x[None] for x in heads], where)
        return row

    @property
    def arrays(self) -> list[mx.array]:
        """All pools: evaluating them computes the state, and nothing that only a logit needs."""
        return [array for state in self.states for array in state.arrays]

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states)

    def kept_bytes(self, tokens: int) -> int:
        """What a step keeps of so many tokens until it is known which of them count."""
        return tokens * sum(state.row_bytes for state in self.recurrent)

    def row_bytes(self, tokens: int) -> int:
        """What one sequence of `tokens` tokens needs; a sliding layer holds its window, and as much to move into.

        Where heads are packed, also what it takes to unpack those of one layer, the largest.
        """
        held = {window: self._slots(window, tokens) for window in self.paging}
        read = max((pages.unpacked_bytes * held[pages.window] for pages in self.pages), default=0)
        constant = sum(state.row_bytes for state in self.recurrent)
        return constant + read + sum(pages.slot_bytes * held[pages.window] for pages in self.pages)

    def _slots(self, window: int | None, tokens: int) -> int:
        return tokens if window is None else min(tokens, 2 * self.paging[window].kept(tokens))
