"""What the resources of an application share, and the gate that their generations pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..engine.errors import NotReady, Overloaded
from ..engine.registry import Registry
from .metrics import Metrics
from .settings import Settings


class Gate:
    """Lets at most `size` generations in at once, and none while the server drains.

    Each holds a thread of the server until its answer is written, so there must be fewer of them than threads.
    """

    def __init__(self, size: int):
        self.size, self.inside, self.draining = size, 0, False
        self.lock = threading.Lock()

    def enter(self) -> None:
        with self.lock:
            if self.draining:
                raise NotReady("the server is shutting down")
            if self.inside >= self.size:
                raise Overloaded(
                    f"{self.size} requests are running or waiting, which is all this server takes: try again soon"
                )
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1

    @contextmanager
    def place(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()


@dataclass(frozen=True, slots=True)
class House:
    """What the resources of an application share."""

    models: Registry
    settings: Settings
    gate: Gate
    metrics: Metrics
