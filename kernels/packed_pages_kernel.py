"""A kernel that packs keys and values as coding.py says and writes them to their pages in place (see pages_kernel.py)."""

import mlx.core as mx

from . import launch
from .pages_kernel import waited_for

HOME = ("keys", "values", "key_grids", "value_grids")  # as `Pages.held` has them
PACK = launch.Kernel("packed_pages", ("k", "v", "slots", *HOME, "size", "after"), ("done",), written=HOME)


def template(pages) -> dict:
    """What coding.metal's callers are told of the pools."""
    coding = pages.coding
    return {"D": pages.head_dim, "BITS": coding.bits, "GROUPED": coding.group, "TURNED": coding.turned}


def pack(pages, k: mx.array, v: mx.array, addresses) -> mx.array:
    """k, v [B, KV, T, d] to `addresses.slots` [B T] of the pools -> a result to wait for."""
    batch, heads, new, _ = k.shape
    (done,) = PACK(
        [k.astype(pages.dtype), v.astype(pages.dtype), addresses.slots, *pages.held, addresses.size,
         waited_for(pages, addresses.slots)],
        [((1,), mx.uint8)],
        template={"T": pages.dtype, "KV": heads, **template(pages)},
        groups=(new, batch * heads, 2),
        threads=32,
    )  # fmt: skip
    return done
