"""The models that a server knows: which are loaded, which make way for others, and who is using them.

A model is "unloaded", "loading", "ready", "evicting" or "error". A request for one takes a `Lease`: it is loaded if
need be, and stays as long as the lease does. Where there is no room, the models that nobody uses make way, the one
not used for longest first; one with running requests never does, and the load waits for it. Only what is on this
machine's disk is loaded: no request makes the server download.

Every model is a `Service` with an engine of its own (engine/turns.py); they share one budget of memory for states.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .awaited import Awaited
from .budget import Budget
from .errors import BadRequest, ModelNotFound, NotReady, RequestError
from .options import Options, Residency
from .resident import Abandoned, Attempt, Busy, Lease, Resident, mib, told
from .room import Room
from .service import served_name

if TYPE_CHECKING:
    from ..models.source import Found

log = logging.getLogger(__name__)
STALE_S = 2.0  # a name that is not known is looked for on the disk again after so long


class Registry:
    """All models of a server.

    make       options and keywords -> a service: engine.service.Service, or a test's
    catalogue  what is installed
    capacity   bytes of weights that this machine can hold at most; `free`: that could be taken now
    """

    def __init__(
        self,
        options: Options,
        residency: Residency,
        make: Callable[..., Any],
        *,
        progress: Callable[[str, int, int], None] | None = None,
        catalogue: "Callable[[], list[Found]] | None" = None,
        capacity: Callable[[], int] | None = None,
        free: Callable[[], int] | None = None,
    ):
        self.options, self.residency, self.make, self.progress = options, residency, make, progress
        self.catalogue = catalogue or (lambda: installed(options))
        self.budget = Budget()
        self.default = Resident(served_name(options.model), options, asked=True)
        self.models = {self.default.name: self.default}
        self.aliases: dict[str, Resident] = {}
        self.refused: dict[str, str] = {}  # installed, and why they cannot be run
        self.looked, self.looking = None, threading.Lock()
        self.changed = threading.Condition()
        self.room = Room(self, residency, capacity or machine_bytes, free or free_bytes)
        self.closed = threading.Event()
        self.up = False  # the first model has been ready once

    @classmethod
    def around(cls, service: Any) -> "Registry":
        """Of the one model that this service is; others are not known. It is started and closed elsewhere."""
        made = cls(service.options, Residency(max_models=1), lambda *args, **kw: service, catalogue=list)
        made.default.name, made.models = service.name, {service.name: made.default}
        made.default.service, made.default.phase, made.default.given = service, "ready", True
        made.default.attempt.done.set()
        made.up = made.default.admitted = True
        return made

    # Life

    @property
    def name(self) -> str:
        return self.default.name

    @property
    def state(self) -> str:
        """As `Service.state`. A model that was unloaded counts as ready: the next request loads it."""
        service = self.default.service
        if self.closed.is_set():
            return "closed"
        if self.default.phase == "ready" and service is not None:
            return service.state
        return "failed" if self.default.phase == "error" else "ready" if self.up else "loading"

    @property
    def error(self) -> Exception | str | None:
        return self.default.error

    @property
    def process(self) -> Any:
        """A service, of whatever model, to be asked what is true of the whole process."""
        loaded = self.loaded()
        return loaded[0].service if loaded else self.make(self.options, budget=Budget())

    def start(self) -> None:
        """Load the first model."""
        with self.changed:
            self.begin(self.default)
        if self.residency.idle_s:
            threading.Thread(target=self.watch, name="idle models", daemon=True).start()

    def wait_ready(self, timeout_s: float | None = None) -> None:
        attempt = self.default.attempt
        if not attempt.done.wait(timeout_s):
            raise TimeoutError(f"the model is not ready after {timeout_s} s")
        if attempt.cause is not None:
            raise attempt.cause

    def close(self) -> None:
        """Refuse new work, and cancel what runs or loads."""
        self.closed.set()
        with self.changed:
            services = [resident.service for resident in self.models.values() if resident.service is not None]
            self.changed.notify_all()
        for service in services:
            service.close()

    # What there is

    def known(self) -> list[Resident]:
        """All models, the default one first, then those that are loaded."""
        self.look(0.0)
        rest = [resident for resident in self.models.values() if resident is not self.default]
        return [self.default, *sorted(rest, key=lambda r: (r.state == "unloaded", r.name.lower()))]

    def loaded(self) -> list[Resident]:
        return [resident for resident in list(self.models.values()) if resident.service is not None]

    def find(self, name: str | None, strict: bool = False) -> Resident:
        """The model of exactly this name; else the default one, or with `strict` ModelNotFound."""
        if name is None:
            return self.default
        if name not in self.models and name not in self.aliases:
            self.look(0 if strict else STALE_S)
        if found := self.models.get(name) or self.aliases.get(name):
            return found
        if name in self.refused:
            raise BadRequest(f"{name} is installed, but cannot be run: {self.refused[name]}", "model")
        if strict:
            names = ", ".join(resident.name for resident in self.known())
            raise ModelNotFound(f"there is no model {name!r} here; this server has {names}", "model")
        return self.default

    def look(self, every_s: float) -> None:
        """See what is installed, unless that was done in the last `every_s` seconds. Who comes meanwhile waits."""
        with self.looking:
            if self.looked is not None and time.monotonic() - self.looked < every_s:
                return
            found = self.catalogue()
            with self.changed:
                self.take(found)
            self.looked = time.monotonic()

    def take(self, found: "list[Found]") -> None:
        usable = {model.name: model for model in reversed(found) if model.supported}
        self.refused = {model.name: model.reason for model in found if model.name not in usable}
        mine = self.default.service.folder if self.default.service else self.default.folder
        self.aliases = {name: self.default for name, model in usable.items() if same(model.path, mine)}
        kept = {n: r for n, r in self.models.items() if r.asked or r.service or r.users or r.found == usable.get(n)}
        new = {
            name: Resident(name, replace(self.options, model=str(model.path), download=False, drafter=None), found=model)
            for name, model in usable.items()
            if name not in kept
        }
        self.models = {name: r for name, r in (kept | new).items() if name not in self.aliases or r.asked or r.service}

    # Using them

    def lease(self, name: str | None = None, strict: bool = False) -> Lease:
        """Hold a model, loading it if need be. Until the first one has been ready, NotReady: the server is not up."""
        self.check()
        if not self.up:
            raise self.not_up()
        while True:
            resident = self.find(name, strict)
            with self.changed:
                if self.models.get(resident.name) is resident:  # it may have gone from the disk just now
                    return self.hold_on_to(resident)

    def hold_on_to(self, resident: Resident) -> Lease:
        """`changed` is held."""
        if resident.phase in ("unloaded", "error") or (resident.broken and not resident.given):
            self.begin(resident)
        elif resident.phase == "evicting" and resident.attempt.done.is_set():
            resident.attempt = Attempt()  # whoever evicts it sees that it is wanted again
        resident.users += 1
        return Lease(self, resident, resident.attempt)

    def not_up(self) -> RequestError:
        cause = self.default.attempt.cause
        return told(self.name, cause) if cause else NotReady("the model is still loading; try again in a moment")

    def leave(self, resident: Resident) -> None:
        with self.changed:
            resident.users -= 1
            resident.used_at = time.monotonic()
            self.changed.notify_all()

    def stream(self, name: str | None, submit: Callable[[Any], Any]) -> Awaited:
        """What `submit` makes of the model's service, as soon as that is loaded."""
        limit_s = self.options.timeout_s
        awaited = Awaited(self.lease(name), submit, time.monotonic() + limit_s if limit_s else None)
        awaited.begin()
        return awaited

    # Loading

    def begin(self, resident: Resident) -> None:
        """Load it on a thread of its own; `changed` is held."""
        resident.attempt = Attempt() if resident.attempt.done.is_set() else resident.attempt
        resident.phase, resident.failure = "loading", None
        threading.Thread(target=self.load, args=(resident,), name=f"load {resident.name}", daemon=True).start()

    def load(self, resident: Resident) -> None:
        attempt, began = resident.attempt, time.monotonic()
        try:
            if broken := resident.service:
                broken.close()
            self.room.make_for(resident)
            service = self.loaded_service(resident)
            resident.info = service.info
            self.room.check(resident)
            self.check()
        except Exception as error:
            self.failed(resident, attempt, error)
            return
        with self.changed:
            resident.phase, resident.info, resident.folder = "ready", service.info, service.folder
            resident.used_at, self.up = time.monotonic(), True
            attempt.done.set()
            self.changed.notify_all()
        took = time.monotonic() - began
        log.info("loaded %s: %s of weights in %.1f s", resident.name, mib(resident.weight_bytes), took)

    def loaded_service(self, resident: Resident) -> Any:
        """Where the memory does not suffice in the end, the next model makes way."""
        while True:
            service = self.make(
                resident.options,
                progress=self.progress if resident.asked and not self.up else None,
                name=resident.name,
                budget=self.budget,
            )
            self.hold(resident, service)
            try:
                service.start()
                service.wait_ready()
                return service
            except MemoryError:
                if not self.room.evict_one():
                    raise
                service.close()

    def hold(self, resident: Resident, service: Any) -> None:
        with self.changed:
            resident.service = service  # whatever comes now, it will be closed
            self.check()

    def check(self) -> None:
        if self.closed.is_set():
            raise NotReady("the server is shutting down")

    def failed(self, resident: Resident, attempt: Attempt, error: Exception) -> None:
        """The next request tries again."""
        if resident.service is not None:
            resident.service.close()
        with self.changed:
            resident.service, resident.admitted = None, False
            resident.phase, resident.failure = "error", str(error) or type(error).__name__
            if isinstance(error, Abandoned):
                resident.phase, resident.failure = "unloaded", None
                if resident.users:  # someone came at the last moment
                    self.begin(resident)
                    return
            attempt.cause = error
            attempt.done.set()
            self.changed.notify_all()
        if not (self.closed.is_set() or isinstance(error, Abandoned)):
            log.warning("%s could not be loaded: %s", resident.name, error)

    # Unloading

    def unload(self, name: str) -> Resident:
        """Free a model's memory. Raises ModelNotFound, and Busy where requests use it or it is being loaded."""
        resident = self.find(name, strict=True)
        with self.changed:
            if resident.users or resident.phase in ("loading", "evicting"):
                raise Busy(busy(resident), "model")
            if resident.service is None:
                resident.phase, resident.failure = "unloaded", None
                return resident
            resident.phase = "evicting"
        self.evict(resident)
        return resident

    def evict(self, resident: Resident) -> None:
        """Its phase is "evicting" already, so nobody else does. Should a request have come meanwhile, load it again."""
        resident.service.close()
        with self.changed:
            resident.service, resident.phase, resident.admitted = None, "unloaded", False
            if not resident.attempt.done.is_set() and not self.closed.is_set():
                self.begin(resident)
            self.changed.notify_all()
        log.info("unloaded %s: %s of weights", resident.name, mib(resident.weight_bytes))

    def watch(self) -> None:
        """Unload what nobody has used for long."""
        idle_s = self.residency.idle_s
        while not self.closed.wait(min(1.0, idle_s / 4)):
            with self.changed:
                idle = [r for r in self.models.values() if r.evictable and time.monotonic() - r.used_at >= idle_s]
                for resident in idle:
                    resident.phase = "evicting"
            for resident in idle:
                self.evict(resident)


def same(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve() == folder.resolve()


def busy(resident: Resident) -> str:
    if resident.users:
        return f"{resident.name} is in use by {resident.users} requests: wait for them, or end them"
    return f"{resident.name} is {resident.phase}: try again in a moment"


def machine_bytes() -> int:
    from .limits import capacity

    return capacity()


def free_bytes() -> int:
    from . import limits

    return limits.free_bytes()


def installed(options: Options) -> "list[Found]":
    from ..models import source

    return source.installed(options.model_dirs)
