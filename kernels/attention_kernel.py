"""`attention` for 1 to 8 tokens a row on a GPU, over the pages of a pool: one pass over pages, one that joins them.

Keys are split by pages, wherever these lie: a row's result does not depend on other rows, on the pool's size, or on
how many pages are in the table.
"""

import mlx.core as mx

from . import launch
from .linear_kernel import FLOATS, float_bits

MAX_TOKENS = 8
PARTIAL = launch.Kernel("attention", ("q", "keys", "values", "table", "bounds", "size"), ("partial", "stats"))
MERGE = launch.Kernel("attention_merge", ("partial", "stats", "bounds", "size"), ("o",))


def case(q, keys_heads, window) -> tuple:
    heads, head_dim = q.shape[1], q.shape[3]
    seen = "all" if window is None else f"window {window}"
    return (str(q.dtype).split(".")[-1], f"{heads}/{keys_heads} heads of {head_dim}", seen)


def covers(q, pages) -> str | None:
    """Why there is no kernel for this call, or None."""
    if q.shape[2] > MAX_TOKENS:
        return f"more than {MAX_TOKENS} tokens a row"
    if q.dtype not in FLOATS or pages.dtype != q.dtype:
        return f"q is {q.dtype}, the pool {pages.dtype}"
    if q.shape[3] % 32 or q.shape[3] > 512:
        return f"heads of {q.shape[3]}; a multiple of 32 up to 512 is covered"
    return None


def fused(q, keys, values, addresses, *, page, scale, window, cap) -> mx.array:
    """q [B, H, T, d], keys and values [KV, slots, d], already extended -> [B, T, H d]."""
    batch, heads, new, head_dim = q.shape
    kv_heads, rows = keys.shape[0], heads // keys.shape[0] * new
    knobs = launch.knobs("attention", f"{head_dim}", {"simds": 4, "batch": 8})
    tile = min(rows, max(1, 1024 // head_dim), 8)
    shape = {"T": q.dtype, "GROUP": heads // kv_heads, "NEW": new, "KV": kv_heads, "D": head_dim, "PAGE": page,
             "WINDOW": window or 0}  # fmt: skip
    count = addresses.table.shape[1]
    partial, stats = PARTIAL(
        [q, keys, values, addresses.table, addresses.bounds, addresses.size],
        [((batch, kv_heads, count, rows, head_dim), mx.float32), ((batch, kv_heads, count, rows, 2), mx.float32)],
        template={**shape, "SCALE": float_bits(scale), "CAPPED": cap is not None, "CAP": float_bits(cap or 1.0),
                  "TILE": tile, "SIMDS": knobs["simds"], "BATCH": min(knobs["batch"], page // knobs["simds"])},
        groups=(count, kv_heads * -(-rows // tile), batch),
        threads=32 * knobs["simds"],
    )  # fmt: skip
    (o,) = MERGE(
        [partial, stats, addresses.bounds, addresses.size],
        [((batch, new, heads * head_dim), q.dtype)],
        template=shape,
        groups=(rows, kv_heads, batch),
        threads=head_dim,
    )
    return o
