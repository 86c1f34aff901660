"""What sequences remember: keys and values in pages, and the constant-size states of recurrent mixers.

Every state extends by T tokens for B rows at their own positions, goes back by a few, and gives and takes snapshots.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..kernels.pages import PAGE, Pages, Rows
from ..kernels.resident import resident
from .paging import REWIND, Extent, Paging, numbers


@dataclass(eq=False)
class Row:
    """One sequence: how many tokens its state holds, the pages of each geometry, and its slot in recurrent states."""

    length: int = 0
    extents: dict[int | None, Extent] = field(default_factory=dict)
    slot: int = 0


@dataclass(frozen=True)
class Step:
    """One forward pass: `new` tokens for each of the rows that stood at `position` [B] before it.

    at      the same numbers, or `position` itself
    rows    where each geometry's keys and values of these rows are
    slots   of the rows in recurrent states; `fresh` says which rows have no state yet
    keep    recurrent mixers keep the state after every token, so that some of them can be taken back
    per_layer   [B, T, layers, P] what each layer is given besides its input, in models that have such
    """

    at: tuple[int, ...] | mx.array
    new: int
    rows: dict[int | None, Rows]
    slots: tuple[int, ...]
    fresh: tuple[bool, ...]
    keep: bool = False
    per_layer: mx.array | None = None

    @functools.cached_property
    def position(self) -> mx.array:
        """Made where it is asked for: a traced step on a GPU has it from elsewhere."""
        return self.at if isinstance(self.at, mx.array) else resident(mx.array(self.at, mx.int32))


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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of one sequence at some length: its row can go on, and close, without it. `Memory.drop` ends it.

    extents   the pages of each geometry, held together with rows and other snapshots
    states    the arrays of each recurrent state
    """

    length: int
    extents: dict[int | None, Extent]
    states: tuple[dict[str, mx.array], ...]

    @property
    def arrays(self) -> list[mx.array]:
        return [array for state in self.states for array in state.values()]


@dataclass(frozen=True)
class Pools:
    """The states of all layers, as long as no pool is replaced.

    fixed     those that kernels write in place; `arrays` are theirs
    anew      those that each step makes anew
    capacity  slots of each geometry's pools
    """

    fixed: list[Pages]
    arrays: list[list[mx.array]]
    anew: list[Pages | Recurrent]
    capacity: dict[int | None, int]

    @classmethod
    def of(cls, states: Sequence[Pages | Recurrent]) -> "Pools":
        fixed, anew = parted(states)
        pages = [state for state in states if isinstance(state, Pages)]
        return cls(fixed, [each.held for each in fixed], anew, {each.window: each.keys.shape[1] for each in pages})


def parted(states: Sequence[Pages | Recurrent]) -> tuple[list[Pages], list[Pages | Recurrent]]:
    """Those that kernels write in place, and those that a step makes anew, where it can in their own memory."""
    return [state for state in states if state.in_place], [state for state in states if not state.in_place]


class Memory:
    """The state of all sequences of a model. `states` are its layers' pools; layers may share one."""

    def __init__(self, states: Sequence[Pages | Recurrent]):
        self.states = list({id(state): state for state in states}.values())
        self.pages = [state for state in self.states if isinstance(state, Pages)]
        self.recurrent = [state for state in self.states if isinstance(state, Recurrent)]
        self.paging = {pages.window: Paging(pages.window) for pages in self.pages}
        self.free_slots: list[int] = []
        self.slots = 0
        self.pools: Pools | None = None
        self.slots_of_pools: list[int] = []  # that steps asked for
        for pages in self.pages:
            pages.users.add(self)

    def open(self, expected: int = 0) -> Row:
        """A new sequence, with room for `expected` tokens from the start."""
        return self._row(0, {window: paging.open(expected) for window, paging in self.paging.items()})

    def _row(self, length: int, extents: dict[int | None, Extent]) -> Row:
        if not self.free_slots:
            self.free_slots, self.slots = [self.slots], self.slots + 1
        return Row(length, extents, self.free_slots.pop())

    def close(self, row: Row) -> None:
        for window, extent in row.extents.items():
            self.paging[window].close(extent)
        self.free_slots.append(row.slot)
        row.extents, row.length = {}, 0

    def step(self, rows: Sequence[Row], new: int, keep: bool = False) -> Step:
        """Make room for `new` tokens a row and move the rows' lengths past them. keep: see `Step`."""
        assert not keep or new <= REWIND + 1, f"{new} states cannot be kept, {REWIND + 1} can"
        step = Step(
            at=tuple(row.length for row in rows),
            new=new,
            rows={w: self._place(w, rows, new) for w in self.paging},
            slots=tuple(row.slot for row in rows),
            fresh=tuple(row.length == 0 for row in rows),
            keep=keep,
        )
        for row in rows:
            row.length += new
        return step

    def _place(self, window: int | None, rows: Sequence[Row], new: int) -> Rows:
        """Kernels that write in place read pages wherever they are; plain operations would have to join them."""
        in_place = next(pages for pages in self.pages if pages.window == window).in_place
        return self.paging[window].place([(row.extents[window], row.length) for row in rows], new, in_place)

    def behind(self, rows: Sequence[Row]) -> Step:
        """For a drafter, which reads and does not write: the place of each row's next token, and what the last one saw."""
        return Step(
            at=tuple(row.length for row in rows),
            new=1,
            rows={w: p.seen([(row.extents[w], row.length) for row in rows]) for w, p in self.paging.items()},
            slots=tuple(row.slot for row in rows),
            fresh=(False,) * len(rows),
        )

    def prepared(self, rows: dict[int | None, Rows]) -> Pools:
        """Every layer's pool as large as a step needs it, and what is in them moved where it must be.

        With every step there is nothing to do but to see that: layers are not asked one by one.
        """
        slots = [each.slots for each in rows.values()]
        if self.pools is None or self.slots_of_pools != slots or any(each.moves for each in rows.values()):
            for pages in self.pages:
                pages.prepare(rows[pages.window])
            self.pools, self.slots_of_pools = Pools.of(self.states), slots
        return self.pools

    def let_go(self) -> None:
        """Of the pools' arrays, which are about to be others."""
        self.pools = None

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

    def snapshot(self, row: Row, length: int | None = None) -> Snapshot:
        """At the row's length, or, where no layer is recurrent, at a smaller one up to which it was computed."""
        length = row.length if length is None else length
        assert length == row.length or not self.recurrent, "a recurrent state is known where it stands"
        extents = {window: paging.keep(row.extents[window], length) for window, paging in self.paging.items()}
        return Snapshot(length, extents, tuple(state.take(row.slot) for state in self.recurrent))

    def shortened(self, snapshot: Snapshot, length: int) -> Snapshot:
        """In its place one of the first `length` tokens, from which it `resumes`."""
        short = {window: paging.shorten(snapshot.extents[window], length) for window, paging in self.paging.items()}
        return Snapshot(length, short, ())

    def drop(self, snapshot: Snapshot) -> None:
        for window, kept in snapshot.extents.items():
            self.paging[window].drop(kept)

    def alone(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot has pages that no row has."""
        return any(p.shares.unused(numbers(snapshot.extents[w].runs)) for w, p in self.paging.items())

    def exact(self, length: int) -> bool:
        """Whether a sequence of `length` tokens is known at its snapshots only: it is recurrent, or a window moved on."""
        return bool(self.recurrent) or any(paging.base(length) > 0 for paging in self.paging.values())

    def resumes(self, snapshot: Snapshot, length: int) -> bool:
        """Whether `restore` can give the first `length` tokens of what the snapshot holds."""
        if length == snapshot.length:
            return True
        reaches = all(p.base(length) >= snapshot.extents[w].base for w, p in self.paging.items())
        return 0 < length < snapshot.length and not self.recurrent and reaches

    def restore(self, snapshot: Snapshot, length: int | None = None, expected: int = 0) -> Row:
        """A new sequence that stands where the snapshot was taken, or at `length`, with room for `expected` tokens.

        It shares the snapshot's pages; of the last one, if another row has gone on in it, it gets a copy.
        """
        length = snapshot.length if length is None else length
        assert self.resumes(snapshot, length), f"{length} tokens cannot be taken from a snapshot of {snapshot.length}"
        made = {w: p.resume(snapshot.extents[w], length, expected) for w, p in self.paging.items()}
        row = self._row(length, {window: extent for window, (extent, _) in made.items()})
        for pages in self.pages:
            if made[pages.window][1]:
                pages.copy(made[pages.window][1], self.paging[pages.window].slots)
        for state, taken in zip(self.recurrent, snapshot.states, strict=True):
            state.put(row.slot, taken)
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
        return tokens * self._constant

    def row_bytes(self, tokens: int) -> int:
        """What one sequence of `tokens` tokens needs; a sliding layer holds its window, and as much to move into.

        Where heads are packed, also what it takes to unpack those of one layer, the largest.
        """
        held = read = 0
        for window, (size, unpacked) in self._sizes.items():
            slots = self._slots(window, tokens)
            held, read = held + slots * size, max(read, slots * unpacked)
        return self._constant + held + read

    # Asked with every step, of every row; how heads are packed is decided before a model has a memory.

    @functools.cached_property
    def _sizes(self) -> dict[int | None, tuple[int, int]]:
        """Bytes of a slot of each geometry: in all its layers, and unpacked in the largest of them."""
        found = {}
        for window in self.paging:
            layers = [pages for pages in self.pages if pages.window == window]
            found[window] = sum(p.slot_bytes for p in layers), max(p.unpacked_bytes for p in layers)
        return found

    @functools.cached_property
    def _constant(self) -> int:
        return sum(state.row_bytes for state in self.recurrent)

    def _slots(self, window: int | None, tokens: int) -> int:
        return tokens if window is None else min(tokens, 2 * self.paging[window].kept(tokens))

    @property
    def snapshot_bytes(self) -> int:
        """Of pages that only snapshots hold; their recurrent states come besides."""
        return sum(paging.shares.kept * self._page_bytes(window) for window, paging in self.paging.items())

    @property
    def repeated_bytes(self) -> int:
        """What rows have together, counted once for each row but the first: `row_bytes` of all of them has it all."""
        return sum(paging.shares.repeated * self._page_bytes(window) for window, paging in self.paging.items())

    def shared_bytes(self, snapshot: Snapshot, length: int) -> tuple[int, int]:
        """Of the whole pages that `restore` would share, and of those among them that rows have."""
        shared = held = 0
        for window, paging in self.paging.items():
            pages = paging.whole(snapshot.extents[window], length)
            shared += len(pages) * self._page_bytes(window)
            held += sum(paging.shares.pages[page].rows > 0 for page in pages) * self._page_bytes(window)
        return shared, held

    def _page_bytes(self, window: int | None) -> int:
        return PAGE * self._sizes[window][0]
