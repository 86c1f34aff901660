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
    packed = () if pages.coding is None else (pages.coding.title,)
    return (str(pages.dtype).split(".")[-1], f"{pages.kv_heads} heads of {pages.head_dim}", *packed)


def covers(pages) -> str | None:
    """Why these pools are not written in place, or None: all that reads them must be a kernel, too."""
    if pages.coding is None and (why := launch.unavailable("attention")):
        return f"attention has no kernel: {why}"  # packed heads are gathered by a kernel of the pages' own
    if pages.dtype not in FLOATS:
        return f"the pool is {pages.dtype}"
    if pages.head_dim % 32 or pages.head_dim > 512:
        return f"heads of {pages.head_dim}; a multiple of 32 up to 512 is covered"
    return None


def waited_for(pages, instead: mx.array) -> mx.array:
    """What was there after the last write, or any array where there was none."""
    return instead if pages.written is None else pages.written


def append(pages, heads: list[mx.array], addresses) -> mx.array:
    """heads [B, KV, T, d], of each pool, to `addresses.slots` [B T] -> a result to wait for."""
    return put(pages, heads, addresses.slots, addresses.size, waited_for(pages, addresses.slots))


def put(pages, heads: list[mx.array], slots, size, done) -> mx.array:
    for i in range(0, len(heads), 2):
        k, v = heads[i : i + 2]
        batch, kv_heads, new, width = k.shape
        threads = min(THREADS, -(-width // 32) * 32)
        (done,) = APPEND(
            [k, v, slots, *pages.held[i : i + 2], size, done],
            [((1,), mx.uint8)],
            template={"T": k.dtype, "KV": kv_heads, "D": width, "THREADS": threads},
            groups=(new, batch * kv_heads, 1),
            threads=threads,
        )
    return done


def slots_of(runs) -> mx.array:
    """[S] int32"""
    return mx.concatenate([mx.arange(slot, slot + count, dtype=mx.int32) for slot, count in runs])


def gather(pages, slots: mx.array) -> tuple[list[mx.array], mx.array]:
    """Some slots, one after another: of each pool [KV, S, d], and a result to wait for."""
    found, done = [], waited_for(pages, slots)
    for i in range(0, len(pages.held), 2):
        keys, values = pages.held[i : i + 2]
        heads, capacity, width = keys.shape
        result = ((heads, slots.size, width), keys.dtype)
        k, v, done = GATHER(
            [keys, values, slots, constant((capacity, slots.size), mx.int32), done],
            [result, result, ((1,), mx.uint8)],
            template={"KV": heads, "D": width, "THREADS": THREADS},
            groups=(-(-heads * slots.size * width // THREADS), 1, 1),
            threads=THREADS,
        )
        found += [k, v]
    return found, done


def copied(pages, moves) -> mx.array:
    """The slots of each (runs, slot) copied to those from `slot` on -> a result to wait for."""
    heads, done = gather(pages, slots_of([run for runs, _ in moves for run in runs]))
    slots = slots_of([(slot, sum(count for _, count in runs)) for runs, slot in moves])
    size = constant((pages.keys.shape[1], slots.size), mx.int32)
    return put(pages, [x[None] for x in heads], slots, size, done)
