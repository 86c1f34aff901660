"""Knobs for one model on this chip: what its decode steps ask for, the search, and the table that keeps the result."""

import time
from collections.abc import Collection
from pathlib import Path

import mlx.core as mx

from ..kernels import launch, search, table
from ..kernels.device_timing import tuning_timer
from ..kernels.timing import ROUNDS, Timer
from ..kernels.tuning import Call, recording
from ..kernels.tuning_spaces import SPACES
from ..models import load, source
from .request import Sampling
from .scheduler import Limits, Scheduler
from .sequence import Sequence

ROWS = (1, 8)  # of the steps that are recorded: knobs serve all, and results may not depend on them
CONTEXT = 1000  # tokens before them
NAMES = tuple(space.op for space in SPACES)


class NoGpu(Exception):
    """There is nothing that could run a kernel; the message says what is missing."""


def has_gpu() -> bool:
    return launch.unavailable("any kernel") != launch.ON_CPU


def require_gpu() -> None:
    if not has_gpu():
        raise NoGpu(
            f"MLX computes on the CPU here (MLX {mx.__version__} has no GPU to use), where no kernel runs: there is nothing"
            " to tune. It takes a Mac with Apple silicon, or Linux with an NVIDIA GPU and smelt[cuda]"
        )


def recorded(model, ops: Collection[str] = NAMES) -> dict[str, list[Call]]:
    """The calls of these ops' kernels in decode steps of ROWS streams, greedy and drawn; no other kernel runs."""
    found: dict[str, list[Call]] = {}
    for count in ROWS:
        with launch.only(*ops, *(need for space in SPACES if space.op in ops for need in space.needs)):
            scheduler = decoding(model, count)
            with recording(SPACES, found):
                scheduler.tick()
            mx.synchronize()
    model.forget()
    return found


def decoding(model, count: int) -> Scheduler:
    """All streams decode. Steps are built, not traced: a trace has no values that a call could be repeated with."""
    scheduler = Scheduler(model, Limits(rows=count))
    scheduler.traced.asked = False
    for i in range(count):
        prompt = [(31 * j + 7 * i) % model.vocab for j in range(min(CONTEXT, model.context // 2))]
        sampling = Sampling(temperature=0.8 if i % 2 else 0.0, top_p=0.9, seed=i)
        scheduler.add(Sequence(prompt, sampling, i, model.context // 2, frozenset(), lambda item: None))
    while scheduler.waiting or scheduler.filling:
        scheduler.tick()
    return scheduler


def tune(
    model, timer: Timer, seconds: float, ops: Collection[str] = (), progress: search.Progress | None = None
) -> list[search.Found]:
    """Search the knobs of these ops, or of all, against what is in force without the user's own table."""
    launch.use_table(None)
    cases = search.cases_of(SPACES, recorded(model))
    return search.Tuner(timer, seconds, progress).tune([case for case in cases if not ops or case.op in ops])


def search_for(
    name: str | None, model_dirs: Collection[str], ops: Collection[str], seconds: float,
    rounds: int = ROUNDS, clock=time.perf_counter, progress: search.Progress | None = None, kv_quant: str = "off",
) -> list[search.Found]:  # fmt: skip
    """`tune` for a model by its name, after the checks that serving it begins with."""
    from . import selfcheck

    model = loaded(name, model_dirs, download=True, kv_quant=kv_quant)
    selfcheck.prepare(model)
    selfcheck.check(model)
    return tune(model, tuning_timer(rounds, clock), seconds, ops, progress)


def loaded(name: str | None, model_dirs: Collection[str], download: bool = False, kv_quant: str = "off"):
    from . import kv_cache
    from .warming import prepare_kernels

    prepare_kernels(source.home())
    model = load(source.locate(name, model_dirs, download=download))
    kv_cache.prepare(model, kv_quant)
    return model


def own_path() -> Path:
    """Where the user's table of this chip is."""
    return table.path_in(source.home(), launch.chip()[1])


def in_force() -> dict:
    """The knobs of this chip, and where they come from."""
    own, pinned = launch.own_table(), launch.pinned()
    return {
        "chip": launch.chip()[1], "table": str(own.path) if own.ops else None, "ignored": own.ignored,
        "pinned": pinned or None, "ops": {} if pinned == "off" else launch.chip_table(own=not pinned),
    }  # fmt: skip


def keep_found(found: Collection[search.Found]) -> Path:
    """In place of what the table said of these ops; its path."""
    keep(own_path(), search.entries(found), {result.op for result in found})
    return own_path()


def keep_off(off: dict[str, str]) -> Path:
    """Which kernels are switched off on this chip and why, in place of what the table said; its path."""
    if off or table.read(own_path(), launch.chip()).ops.get("off"):
        keep(own_path(), {}, off=off)
    return own_path()


def keep(path: Path, ops: dict, searched: Collection[str] = (), off: dict[str, str] | None = None) -> table.Own:
    """Write what was found to the user's table of this chip, and use it.

    Entries of the `searched` ops are replaced. `off`, where given, says why which kernels are switched off, of all.
    """
    kept = {op: dict(entries) for op, entries in table.read(path, launch.chip()).ops.items() if op not in searched}
    if off is not None:
        kept["off"] = off
    table.merge(kept, ops)
    table.write(path, table.stamp(launch.chip()), {op: entries for op, entries in kept.items() if entries})
    return launch.use_table(path)
