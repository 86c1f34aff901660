"""Kernels that write keys and values to their pages in place, and that read them out again.

MLX takes a custom kernel's inputs for constants, and gives its outputs new memory. These kernels write to an input all
the same: the pool. That is sound as long as (1) nobody else holds the pool's memory, (2) each reader has a result of the
write among its inputs, which makes MLX order the two, on Metal by a barrier or a fence, on CUDA by an edge of the graph,
and (3) a write comes after all earlier reads of its slots, as a decode step's data do, which depend on the step before;
`after`, which no body reads, is the last write or gathering before this one.
"""

import mlx.core as mx

from . import launch
from .linear_kernel import FLOATS
from .resident import constant

APPEND = launch.Kernel(
    "pages_append", ("k", "v", "slots", "keys", "values", "size", "after"), ("done",), written=("keys", "values")
)
GATHER = launch.Kernel("pages_gather", ("keys", "values", "slots", "size", "after"), ("k", "v", "done"))
THREADS = 256


def case(pages) -> tuple:
    return (str(pages.dtype).split(".")[-1], f"{pages.kv_heads} heads of {pages.head_dim}")


def covers(pages) -> str | None:
    """Why these pools are not written in place, or None: all that reads them must be a kernel, too."""
    if why := launch.unavailable("attention"):
        return f"attention has no kernel: {why}"
    if pages.dtype not in FLOATS:
        return f"the pool is {pages.dtype}"
    if pages.head_dim % 32 or pages.head_dim > 512:
        return f"heads of {pages.head_dim}; a multiple of 32 up to 512 is covered"
    return None


def waited_for(pages, instead: mx.array) -> mx.array:
    """What was there after the last write, or any array where there was none."""
    return instead if pages.written is None else pages.written


def append(pages, k, v, addresses) -> mx.array:
    """k, v [B, KV, T, d] to `addresses.slots` [B T] of the pools -> a result to wait for."""
    return put(pages, k, v, addresses.slots, addresses.size, waited_for(pages, addresses.slots))


def put(pages, k, v, slots, size, after) -> mx.array:
    batch, heads, new, head_dim = k.shape
    threads = min(THREADS, head_dim)
    (done,) = APPEND(
        [k, v, slots, *pages.held, size, after],
        [((1,), mx.uint8)],
        template={"T": k.dtype, "KV": heads, "D": head_dim, "THREADS": threads},
        groups=(new, batch * heads, 1),
        threads=threads,
    )
    return done


def gather(pages, runs) -> tuple[mx.array, mx.array, mx.array]:
    """The slots of `runs`, in order: keys and values [KV, S, d], and a result to wait for."""
    slots = mx.concatenate([mx.arange(slot, slot + count, dtype=mx.int32) for slot, count in runs])
    heads, capacity, head_dim = pages.keys.shape
    shape = (heads, slots.size, head_dim)
    groups = -(-heads * slots.size * head_dim // THREADS)
    k, v, done = GATHER(
        [pages.keys, pages.values, slots, constant((capacity, slots.size), mx.int32), waited_for(pages, slots)],
        [(shape, pages.dtype), (shape, pages.dtype), ((1,), mx.uint8)],
        template={"KV": heads, "D": head_dim, "THREADS": THREADS},
        groups=(groups, 1, 1),
        threads=THREADS,
    )
    return k, v, done


def copied(pages, moves) -> mx.array:
    """The slots of each (runs, slot) copied to those from `slot` on -> a result to wait for."""
    k, v, done = gather(pages, [run for runs, _ in moves for run in runs])
    sizes = [(slot, sum(count for _, count in runs)) for runs, slot in moves]
    slots = mx.concatenate([mx.arange(slot, slot + count, dtype=mx.int32) for slot, count in sizes])
    size = constant((pages.keys.shape[1], slots.size), mx.int32)
    return put(pages, k[None], v[None], slots, size, done)
