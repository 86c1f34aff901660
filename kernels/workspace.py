"""Device memory that the launches of a pass over a model use one after another, so that none of them makes its own.

    space = Workspace(tokens)
    for block in blocks:
        with within(space):
            ...                  # launches, in a block's order

Memory that a launch makes for itself is an output, and costs MLX up to as much as the launch: on hosts of an NVIDIA H200 2.2 to
2.7 us a launch, 0.4 to 0.5 each further input, 1.3 to 2.7 each further output (bench/launches.py). A workspace is an input that launches write to.
There are two areas, which each launch leaves as it found them, in their first words:

    letters  EMPTY: places through which the threadgroups of a launch send each other floats (msl/mail.metal)
    sums     zeros to count in, and any numbers: what the threadgroups of a launch leave for the one that ends last

That is sound as long as (1) nobody else holds the memory, and (2) never do two launches with the same area run at the same
time: one would take what the other left.

(1) Each workspace has its areas from launches of their own. mx.full would not do: mx.compile makes one of equal operations of
MLX, but leaves kernels apart; and such a launch takes an array that enters the trace, so a traced pass has new memory with
each run. (2) A workspace belongs to one pass, and no other one knows it. A block of a model begins with the result of the one
before, which comes of all that was launched there: so within a block the first launch that uses an area need not wait, and
each further one has the result of the one before among its inputs, which no body reads. On CUDA that is an edge of the graph,
where otherwise nothing may order branches of a block. A launch outside of any pass makes a workspace for itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

from . import launch

EMPTY = 0xFFFFFFFF  # as mail.metal has it
FILL = launch.Kernel("workspace", ("near",), ("area",), scratch=("area",))
THREADS = 256


class Area:
    """Words, of which the first are `value` before and after each launch.

    near   an array that is there when the pass begins
    kept   how many are `value`: a multiple of THREADS
    after  the result of the block's last launch that used the area; None: there was none
    """

    def __init__(self, near: mx.array, value: int):
        self.near, self.value = near, value
        self.kept = self.more = 0
        self.array: mx.array | None = None
        self.after: mx.array | None = None

    def room(self, kept: int, more: int = 0) -> tuple[mx.array, mx.array | None]:
        """[at least `kept` words that are `value`, and `more` behind `self.kept`] uint32, and what has to be waited for."""
        if self.array is None or self.kept < kept or self.more < more:
            self.kept, self.more = max(self.kept, -(-kept // THREADS) * THREADS), max(self.more, more)
            self.array, self.after = self.made(), None
        return self.array, self.after

    def made(self) -> mx.array:
        shape, groups = (self.kept + self.more,), self.kept // THREADS
        template = {"VALUE": self.value - (self.value >> 31 << 32)}  # as an int
        return FILL([self.near], [(shape, mx.uint32)], template=template, groups=(groups, 1, 1), threads=THREADS)[0]


class Lasting(Area):
    """Words that are there before anything is launched: for launches that are caught, and repeated one after another."""

    def made(self):
        return mx.full((self.kept + self.more,), self.value, mx.uint32)


class Workspace:
    """near: an array that is there when the pass begins."""

    def __init__(self, near: mx.array, area: type[Area] = Area):
        self.letters, self.sums = area(near, EMPTY), area(near, 0)


_current: ContextVar[Workspace | None] = ContextVar("workspace", default=None)


@contextmanager
def within(space: Workspace) -> Iterator[None]:
    """A block of a pass: inside, in this thread, launches use the areas of `space`."""
    before = _current.set(space)
    space.letters.after = space.sums.after = None
    try:
        yield
    finally:
        _current.reset(before)


def current(near: mx.array) -> Workspace:
    """The pass's, or outside of any pass a new one."""
    return _current.get() or Workspace(near)


def lasting() -> Workspace:
    return Workspace(mx.zeros((1,)), Lasting)
