"""How much fits: the context window and the bytes of state, computed from the architecture and the machine's memory."""

import os
from pathlib import Path

import mlx.core as mx

from ..kernels import launch
from .scheduler import Limits

SHARE = 0.8  # of the memory left after the weights that states may take; the rest is for activations and other programs
HEADROOM = 2 << 30  # bytes beyond weights and states that may be wired on a Mac
LEAST_CONTEXT = 512
CHUNK = 512  # prompt tokens read together: a layer of them holds up the streams of a small chip for about 0.1 s
CHUNK_CUDA = 2048  # NVIDIA H100: 14,000 to 16,000 tokens a second, with chunks as large as that


def free_bytes() -> int:
    """Memory that the model's states could take now, after the weights have been read."""
    info = mx.device_info()
    if "max_recommended_working_set_size" in info:
        return max(0, info["max_recommended_working_set_size"] - mx.get_active_memory())
    if mx.default_device().type == mx.DeviceType.gpu:
        return max(0, info.get("free_memory") or info["total_memory"] - mx.get_active_memory())
    return available_ram()


def available_ram() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def longest(memory, budget: int, most: int) -> int:
    """The longest sequence, up to `most` tokens, whose state fits `budget` bytes."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if memory.row_bytes(middle) <= budget else (low, middle - 1)
    return low


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
    return CHUNK_CUDA if launch.machine() == "cuda" else CHUNK


def plan(model, ctx_size: int | None, rows: int, chunk: int | None) -> tuple[int, Limits]:
    """(context window, limits of the scheduler); on a Mac also wires what the model needs, never the whole machine."""
    budget = int(free_bytes() * SHARE)
    context = context_window(model, ctx_size, budget)
    wire(mx.get_active_memory() + model.memory().row_bytes(context) + HEADROOM)
    return context, Limits(rows=rows, chunk=chunk or default_chunk(), state_bytes=budget)


def wire(wanted: int) -> None:
    recommended = mx.device_info().get("max_recommended_working_set_size")
    if mx.metal.is_available() and recommended:
        mx.set_wired_limit(min(wanted, recommended))
