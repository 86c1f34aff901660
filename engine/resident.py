"""One model that a server knows, and a request's hold on it."""

import functools
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .describe import abilities
from .errors import NotReady, RequestError
from .options import ModelInfo, Options

if TYPE_CHECKING:
    from ..models.source import Found
    from .registry import Registry

STATES = {"ready": "ready", "loading": "loading", "failed": "error", "closed": "unloaded"}  # by those of `Service`


class LoadFailed(RequestError):
    status, code = 500, "model_load_failed"


class OutOfMemory(RequestError):
    """The model does not fit; the message has the numbers."""

    status, code = 503, "out_of_memory"


class Busy(RequestError):
    """The model cannot be unloaded now."""

    status, code = 409, "model_busy"


class Abandoned(Exception):
    """Nobody waits any more for a model that waited for room."""


class Attempt:
    """One loading of a model: `done` when it is over, `cause` is what it failed of."""

    def __init__(self):
        self.done = threading.Event()
        self.cause: Exception | None = None


class Resident:
    """phase      "unloaded", "loading", "ready", "evicting" or "error"; written with the registry's lock held
    asked      the user named it: it is the default one
    users      leases that are held; `used_at` is when the last one ended
    admitted   it has a place among the models that are loaded, perhaps not filled yet
    given      its service was made, and is started and closed, by someone else
    info       what was known when it was loaded last
    """

    def __init__(self, name: str, options: Options, *, asked: bool = False, found: "Found | None" = None):
        self.name, self.options, self.asked, self.found = name, options, asked, found
        self.phase, self.attempt = "unloaded", Attempt()
        self.service: Any = None
        self.failure: str | None = None
        self.info: ModelInfo | None = None
        self.folder: Path | None = found and found.path
        self.users, self.used_at = 0, time.monotonic()
        self.admitted = self.given = False

    @property
    def state(self) -> str:
        service = self.service
        return STATES[service.state] if self.phase == "ready" and service else self.phase

    @property
    def error(self) -> Exception | str | None:
        """Why its state is "error"."""
        service = self.service
        return service.error if self.phase == "ready" and service else self.failure

    @property
    def broken(self) -> bool:
        """It was loaded, and its engine gave up since."""
        return self.state == "error"

    @property
    def evictable(self) -> bool:
        return self.phase == "ready" and not self.users

    @property
    def described(self) -> ModelInfo | None:
        """What is known of it, now or from the last time."""
        service = self.service
        return (service.info if self.phase == "ready" and service else None) or self.info

    @functools.cached_property
    def abilities(self) -> tuple[bool, bool]:
        """Tools and thinking, as its files on the disk say."""
        return abilities(self.folder) if self.folder else (False, False)

    @property
    def disk_bytes(self) -> int:
        info = self.described
        return info.disk_bytes if info else self.found.bytes if self.found else 0

    @property
    def weight_bytes(self) -> int:
        """Of its weights in memory; before they were ever read, what the files say."""
        info = self.described
        return info.weight_bytes if info else self.disk_bytes

    @property
    def resident_bytes(self) -> int:
        return self.weight_bytes if self.phase in ("ready", "evicting") and self.state != "unloaded" else 0


class Lease:
    """A hold on a model: while it lasts, the model is not unloaded. To be released once; more does not matter."""

    def __init__(self, registry: "Registry", resident: Resident, attempt: Attempt):
        self.registry, self.resident, self.attempt = registry, resident, attempt
        self.lock, self.held = threading.Lock(), True

    def ready(self, timeout_s: float | None = 0) -> Any:
        """The model's service; None when it is not loaded within the timeout. Raises what loading failed of."""
        if not self.attempt.done.wait(timeout_s):
            return None
        if self.attempt.cause is not None:
            raise told(self.resident.name, self.attempt.cause)
        return self.resident.service

    def wait(self, timeout_s: float | None) -> Any:
        """The same; NotReady when it takes too long."""
        service = self.ready(timeout_s)
        if service is None:
            raise self.late()
        return service

    def late(self) -> NotReady:
        return NotReady(f"{self.resident.name} could not be loaded in time: {self.registry.room.why(self.resident)}")

    def release(self) -> None:
        with self.lock:
            held, self.held = self.held, False
        if held:
            self.registry.leave(self.resident)


def told(name: str, cause: Exception) -> RequestError:
    """A new error for each that waited: one that is raised twice would grow its traceback."""
    if isinstance(cause, RequestError):
        return type(cause)(str(cause))
    kind = OutOfMemory if isinstance(cause, MemoryError) else LoadFailed
    return kind(f"{name} could not be loaded: {cause or type(cause).__name__}")


def mib(count: int) -> str:
    return f"{count / (1 << 20):.{0 if count >= 10 << 20 else 2}f} MiB"
