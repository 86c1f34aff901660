"""What the states of all loaded models may take together: the memory that their weights leave, shared as it is used.

A model's scheduler asks its `Share` how much is left for it. What another model holds is what its rows may need, or
what its pools have taken, if that is more: pools do not shrink by themselves. A model that has nothing to do gives its
pools back when another one waits for them.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models.state import Memory
    from .scheduler import Scheduler

PORTION = 0.8  # of the memory left after the weights; the rest is for activations and other programs


class Share:
    """One model's part.

    pooled      bytes that its pools have; `held`: or that its rows may come to need, if these are more
    streaming   it has rows that are being read or generated
    context     tokens of its window when it was loaded; `window` what still fits, other models having come since
    promised    the window was asked for (--ctx-size): no other model may make it smaller
    give_back   has its engine drop the pools, should it be idle
    """

    def __init__(self, budget: "Budget"):
        self.budget = budget
        self.held, self.pooled, self.streaming = 0, 0, False
        self.memory: Memory | None = None
        self.context = self.window = 0
        self.promised = False
        self.give_back: Callable[[], None] = lambda: None

    @property
    def others(self) -> "list[Share]":
        return [share for share in self.budget.shares if share is not self]

    @property
    def alone(self) -> bool:
        return len(self.budget.shares) == 1

    @property
    def elsewhere(self) -> int:
        """Bytes that other models hold."""
        return sum(share.held for share in self.others)

    @property
    def beside(self) -> bool:
        """Are other models' answers on their way?"""
        return any(share.streaming for share in self.others)

    def left(self, alone: int) -> int:
        """Bytes for this model's rows; `alone` is what a model without a measured budget has."""
        total = self.budget.total
        return alone if total is None else total - self.elsewhere

    def note(self, scheduler: "Scheduler") -> None:
        """What it holds after a tick."""
        self.pooled = scheduler.memory.nbytes
        self.held = max(self.pooled, scheduler.state_bytes(scheduler.filling))
        self.streaming = bool(scheduler.running or scheduler.filling)

    def press(self) -> None:
        """Ask the others for what they hold and do not use."""
        for share in self.others:
            share.give_back()

    def leave(self) -> None:
        self.budget.remove(self)
        self.memory = None


class Budget:
    """total: bytes that all states may take; None until it was measured."""

    def __init__(self):
        self.lock = threading.Lock()
        self.shares: list[Share] = []  # replaced, never changed: others read it at any time
        self.total: int | None = None

    def share(self) -> Share:
        made = Share(self)
        with self.lock:
            self.shares = [*self.shares, made]
        return made

    def remove(self, share: Share) -> None:
        with self.lock:
            self.shares = [each for each in self.shares if each is not share]

    def measure(self, free: int) -> int:
        """`free` bytes are left now. On a thread that may touch MLX: what fits is computed anew for every model."""
        with self.lock:
            self.total = int((free + sum(share.pooled for share in self.shares)) * PORTION)
            for share in self.shares:
                if share.memory is not None:
                    share.window = longest(share.memory, self.total, share.context)
            return self.total


def longest(memory: "Memory", budget: int, most: int) -> int:
    """The longest sequence, up to `most` tokens, whose state fits `budget` bytes."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if memory.row_bytes(middle) <= budget else (low, middle - 1)
    return low
