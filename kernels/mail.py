"""Places in device memory through which the threadgroups of a launch send each other floats (msl/mail.metal).

    with within(Mail(tokens)):
        ...                      # launches, one after another, through the same places

A launch writes to its places, which MLX takes for an input's constant values, and leaves them as it found them: EMPTY.
That is sound as long as (1) nobody else holds their memory, and (2) never do two launches with the same places run at the
same time: one would take what the other sent, and wait for ever for what was taken from it.

(1) Each Mail has its places from a launch of its own. mx.full would not do: mx.compile makes one of equal operations of
MLX, but leaves kernels apart; and that launch takes an array that enters the trace, so a traced pass has new places with
each run. (2) A Mail belongs to one pass over a model, and no other one knows it. Within it each launch has the result of
the one before among its inputs, as `after`, which no body reads: on CUDA that is an edge of the graph, where otherwise
nothing may order branches of a model. A launch outside of any pass makes places for itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

from . import launch

EMPTY = 0xFFFFFFFF  # as mail.metal has it
FILL = launch.Kernel("mail_places", ("near",), ("places", "ready"))
THREADS = 256


class Mail:
    """The places of one pass, made where a launch first needs some, or more than there are.

    near   an array that is there when the pass begins
    after  the result of the last launch that used the places
    """

    def __init__(self, near: mx.array):
        self.near = near
        self.places: mx.array | None = None
        self.after: mx.array | None = None

    def room(self, count: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """At least `count` places, and what has to be waited for, of `dtype` if these places are new."""
        if self.places is None or self.places.size < count:
            self.places, self.after = self.made(-(-count // THREADS), dtype)
        return self.places, self.after

    def made(self, groups: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """THREADS places for each of `groups`, and an array that is there when they are."""
        made = [((groups * THREADS,), mx.uint32), ((1,), dtype)]
        return tuple(FILL([self.near], made, template={"T": dtype}, groups=(groups, 1, 1), threads=THREADS))


class Lasting(Mail):
    """Places that are there before anything is launched: for launches that are caught, and repeated one after another."""

    def __init__(self):
        super().__init__(mx.zeros((1,)))

    def made(self, groups, dtype):
        return mx.full((groups * THREADS,), EMPTY, mx.uint32), mx.zeros((1,), dtype)


_current: ContextVar[Mail | None] = ContextVar("mail", default=None)


@contextmanager
def within(mail: Mail) -> Iterator[None]:
    """Inside, in this thread, launches that need places use those of `mail`."""
    before = _current.set(mail)
    try:
        yield
    finally:
        _current.reset(before)


def current(near: mx.array) -> Mail:
    """The pass's, or outside of any pass a new one."""
    return _current.get() or Mail(near)
