"""Room for one more model: how many may be loaded and how large together, and which one makes way."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from .options import Residency
from .resident import Abandoned, OutOfMemory, Resident, mib

if TYPE_CHECKING:
    from .registry import Registry

PORTION = 0.8  # of what the machine can hold that weights may take, where no limit was given
LOOK_S = 0.5  # how often a load that waits looks whether anyone still wants it


class Room:
    """capacity: bytes that this machine can hold at most; free: bytes that could be taken now."""

    def __init__(
        self, registry: "Registry", residency: Residency, capacity: Callable[[], int], free: Callable[[], int]
    ):
        self.registry, self.residency, self.capacity, self.free = registry, residency, capacity, free

    @functools.cached_property
    def limit(self) -> int | None:
        """Bytes of weights that may be loaded together; None: any number."""
        given = self.residency.max_bytes
        return int(self.capacity() * PORTION) if given is None else given or None

    def make_for(self, resident: Resident) -> None:
        """Give it a place. Unloads models that nobody uses, and waits for those that are in use."""
        self.check(resident)
        while (victim := self.place(resident)) is not None:
            self.registry.evict(victim)
        if not resident.asked and self.limit is not None:
            self.make_free(resident)

    def make_free(self, resident: Resident) -> None:
        """Other programs take memory, too: further models make way for these weights, if that is enough."""
        while (short := resident.weight_bytes - self.free()) > 0:
            idle = sum(each.weight_bytes for each in self.registry.models.values() if each.evictable)
            if short > idle or not self.evict_one():
                raise OutOfMemory(
                    f"{resident.name} has {mib(resident.weight_bytes)} of weights, {mib(self.free())} are free now:"
                    " close other programs, use a smaller model, or try with --max-resident-mem 0 all the same"
                )

    def check(self, resident: Resident) -> None:
        """Raise OutOfMemory if it can never fit. The user's own model may take more than our estimate allows."""
        if resident.asked and self.residency.max_bytes is None:
            return
        if self.limit is not None and resident.weight_bytes > self.limit:
            raise OutOfMemory(
                f"{resident.name} has {mib(resident.weight_bytes)} of weights, {mib(self.limit)} are allowed"
                f" ({self.told}): use a smaller model or raise --max-resident-mem"
            )

    @property
    def told(self) -> str:
        if self.residency.max_bytes is not None:
            return "--max-resident-mem"
        return f"{PORTION:.0%} of the {mib(self.capacity())} that this machine holds"

    def place(self, resident: Resident) -> Resident | None:
        """None when it has a place now; else the model that has to be unloaded first, marked as such."""
        registry = self.registry
        with registry.changed:
            while not self.fits(resident):
                if victim := self.take_victim():
                    return victim
                registry.check()
                if not resident.users:
                    raise Abandoned
                registry.changed.wait(LOOK_S)
            resident.admitted = True
        return None

    def others(self, resident: Resident) -> list[Resident]:
        return [each for each in self.registry.models.values() if each is not resident and each.admitted]

    def fits(self, resident: Resident) -> bool:
        others = self.others(resident)
        together = resident.weight_bytes + sum(each.weight_bytes for each in others)
        few = len(others) < self.residency.max_models
        return few and (not others or self.limit is None or together <= self.limit)

    def take_victim(self) -> Resident | None:
        """The model that nobody has used for longest, from now on "evicting"; the registry's lock is held."""
        idle = [each for each in self.registry.models.values() if each.evictable]
        victim = min(idle, key=lambda each: each.used_at, default=None)
        if victim is not None:
            victim.phase = "evicting"
        return victim

    def evict_one(self) -> bool:
        with self.registry.changed:
            victim = self.take_victim()
        if victim is not None:
            self.registry.evict(victim)
        return victim is not None

    def why(self, resident: Resident) -> str:
        """What a model that is not there yet waits for."""
        if resident.admitted:
            return "its weights are being read; try again in a moment"
        busy = ", ".join(f"{each.name} ({mib(each.weight_bytes)})" for each in self.others(resident))
        limit = "any number of bytes" if self.limit is None else mib(self.limit)
        return (
            f"it needs {mib(resident.weight_bytes)}, and {busy} answer requests; --max-resident-models"
            f" {self.residency.max_models} and {limit} are allowed"
        )
