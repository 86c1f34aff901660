"""How much fits: the context window and the bytes of state, computed from the architecture and the machine's memory."""

import os
from pathlib import Path

import mlx.core as mx

from ..kernels import launch
from .budget import Share, longest
from .options import Options
from .scheduler import Limits

HEADROOM = 2 << 30  # bytes beyond weights and states that may be wired on a Mac
LEAST_CONTEXT = 512
# Prompt tokens read together: as many as a layer takes about 0.1 s for, which is what streams wait for at least.
# NVIDIA H100: 14,000 to 16,000 tokens a second of a 4B model, with chunks as large as that.
CHUNKS = {"cuda": 2048, "metal": 512, "cpu": 64}
PREFIXES = 64  # sequences that the prefix cache keeps, or more for more rows: bytes run out before, but for short ones


def free_bytes() -> int:
    """Memory that the model's states could take now, after the weights have been read."""
    info = mx.device_info()
    if "max_recommended_working_set_size" in info:
        return max(0, info["max_recommended_working_set_size"] - mx.get_active_memory())
    if mx.default_device().type == mx.DeviceType.gpu:
        return max(0, info.get("free_memory") or info["total_memory"] - mx.get_active_memory())
    return available_ram()


def capacity() -> int:
    """Bytes that weights and states could take if nothing else were in memory."""
    info = mx.device_info()
    known = info.get("max_recommended_working_set_size") or info.get("total_memory")
    return known or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_ram() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def context_window(model, asked: int | None, budget: int) -> int:
    """`asked` (--ctx-size), or what the model was made for as far as the memory reaches.

    Raises MemoryError when even a short context does not fit, or the asked one does not.
    """
    memory = model.memory()
    fits = longest(memory, budget, asked or model.context)
    if asked and fits < asked:
        raise MemoryError(
            f"--ctx-size {asked} needs {memory.row_bytes(asked) >> 20} MiB of state, {budget >> 20} MiB are left after"
            f" the weights: at most {fits} tokens fit"
        )
    if fits < min(LEAST_CONTEXT, asked or model.context):
        raise MemoryError(
            f"{budget >> 20} MiB are left after the weights, which is too little for {LEAST_CONTEXT} tokens of state"
            f" ({memory.row_bytes(LEAST_CONTEXT) >> 20} MiB): use a smaller model or free some memory"
        )
    return fits


def default_chunk() -> int:
    return CHUNKS[launch.machine()]


def plan(model, options: Options, share: Share) -> Limits:
    """Of a scheduler, beside the other models of the share's budget; the share gets its context window.

    On a Mac also wires what the models need, never the whole machine.
    """
    budget = share.budget.measure(free_bytes())
    ctx_size, rows = options.ctx_size, options.max_concurrent
    context = context_window(model, ctx_size, budget)
    entries = max(PREFIXES, rows) if options.prefix_entries is None else options.prefix_entries
    share.memory, share.context, share.window, share.promised = model.memory(), context, context, bool(ctx_size)
    keep_promises(share)
    states = sum(each.memory.row_bytes(each.window) for each in share.budget.shares if each.memory is not None)
    kept = min(options.prefix_bytes or HEADROOM, budget) if entries else 0
    wire(mx.get_active_memory() + states + kept + HEADROOM)
    chunk = options.prefill_chunk or default_chunk()
    return Limits(rows, chunk, budget, share, prefix_entries=entries, prefix_bytes=options.prefix_bytes)


def keep_promises(share: Share) -> None:
    """The weights of this model must leave the others the context that they were started with, or some at least."""
    for other in share.others:
        least = other.context if other.promised else min(LEAST_CONTEXT, other.context)
        if other.window < least:
            raise MemoryError(
                f"beside this model, {share.budget.total >> 20} MiB are left for states: another loaded model would"
                f" have {other.window} tokens of context, it needs {least}"
            )


def left_by(share: Share) -> None:
    """A model is gone: what fits the others is computed anew."""
    share.leave()
    if share.budget.shares:
        share.budget.measure(free_bytes())


def wire(wanted: int) -> None:
    recommended = mx.device_info().get("max_recommended_working_set_size")
    if mx.metal.is_available() and recommended:
        mx.set_wired_limit(min(wanted, recommended))
