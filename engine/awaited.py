"""The stream of a request whose model may have to be loaded first."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .events import Event, Failed

if TYPE_CHECKING:
    from .resident import Lease


class Awaited:
    """As `Stream`. Silent until the model is there; then what `submit(service)` gives. Holds the lease until `cancel`.

    deadline   monotonic time after which the model is not waited for
    """

    def __init__(self, lease: "Lease", submit: Callable[[Any], Any], deadline: float | None):
        self.lease, self.submit, self.deadline = lease, submit, deadline
        self.stream: Any = None
        self.over = False

    def begin(self) -> None:
        """Submit at once if the model is loaded: what is wrong with the request is raised here then."""
        try:
            if service := self.lease.ready():
                self.stream = self.submit(service)
        except BaseException:
            self.cancel()
            raise

    def next(self, timeout_s: float | None = None) -> Event | None:
        if self.stream is not None:
            return self.stream.next(timeout_s)
        if self.over:
            return None
        try:
            return self.wait(timeout_s)
        except Exception as error:
            self.over = True
            return Failed(error)

    def wait(self, timeout_s: float | None) -> Event | None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        service = self.lease.ready(sooner(timeout_s, self.deadline))
        if service is None:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise self.lease.late()
            return None
        if self.over:  # cancelled meanwhile
            return None
        self.stream = self.submit(service)
        if self.over:
            self.stream.cancel()
        return self.stream.next(None if until is None else max(0.0, until - time.monotonic()))

    def cancel(self) -> None:
        """Idempotent, callable from any thread."""
        self.over = True
        if self.stream is not None:
            self.stream.cancel()
        self.lease.release()


def sooner(timeout_s: float | None, deadline: float | None) -> float | None:
    if deadline is None:
        return timeout_s
    left = max(0.0, deadline - time.monotonic())
    return left if timeout_s is None else min(timeout_s, left)
