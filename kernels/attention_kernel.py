"""`attention` for 1 to 8 tokens a row on a GPU, over the pages of a pool: one pass over the pages in parts of SPAN, and
where there are several parts, one that joins them.

Keys are split by position alone: a row's result does not depend on other rows, on the pool's size, on where its pages
lie, or on how many are in the table.

Knobs: span (pages of a part: 1 or 2), simds (simdgroups of a threadgroup, which share its keys), batch (keys that a lane loads
ahead), tile (rows of q a threadgroup at most).
"""

import mlx.core as mx

from . import launch, pages_kernel
from .linear_kernel import FLOATS, float_bits

MAX_TOKENS = 8
INPUTS = ("q", "keys", "values", "table", "bounds", "size", "after")
PARTIAL = launch.Kernel("attention", INPUTS, ("partial", "stats"))
MERGE = launch.Kernel("attention_merge", ("partial", "stats", "bounds"), ("o",))
SHARED = 16 << 10  # bytes of threadgroup memory for the simdgroups' sums


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


def fused(q, pages, addresses, *, scale, cap) -> mx.array:
    """q [B, H, T, d] over pools that hold the keys and values of its own positions already -> [B, T, H d]."""
    from .pages import PAGE

    batch, heads, new, head_dim = q.shape
    kv_heads, rows, count = pages.kv_heads, heads // pages.kv_heads * new, addresses.table.shape[1]
    knobs = chosen_knobs(head_dim, rows, PAGE)
    tile, span = knobs["tile"], knobs["span"]
    parts = count // span
    whole = parts == 1
    o_shape = (batch, new, heads * head_dim)
    split = (batch, kv_heads, parts, rows)
    shape = {"T": q.dtype, "GROUP": heads // kv_heads, "NEW": new, "KV": kv_heads, "D": head_dim, "PAGE": PAGE,
             "SPAN": span, "WINDOW": pages.window or 0}  # fmt: skip
    partial, stats = PARTIAL(
        [q, *pages.held, addresses.table, addresses.bounds, addresses.size, pages_kernel.waited_for(pages, q)],
        [(o_shape, q.dtype), ((1,), mx.float32)] if whole
        else [((*split, head_dim), mx.float32), ((*split, 2), mx.float32)],
        template={**shape, "P": q.dtype if whole else mx.float32, "WHOLE": whole, "SCALE": float_bits(scale),
                  "CAPPED": cap is not None, "CAP": float_bits(cap or 1.0), "TILE": tile, "SIMDS": knobs["simds"],
                  "BATCH": knobs["batch"], "LANES": lanes_of(head_dim), "RESIDENT": 2},
        groups=(parts, kv_heads * -(-rows // tile), batch),
        threads=32 * knobs["simds"],
    )  # fmt: skip
    if whole:
        return partial
    (o,) = MERGE(
        [partial, stats, addresses.bounds],
        [(o_shape, q.dtype)],
        template={**shape, "PARTS": parts},
        groups=(rows, kv_heads, batch),
        threads=-(-head_dim // 32) * 32,
    )
    return o


def lanes_of(head_dim: int) -> int:
    """Lanes that share one key: as many as leave each 8 elements or a few more."""
    return min(32, 1 << (head_dim // 8).bit_length() - 1)


def chosen_knobs(head_dim: int, rows: int, page: int) -> dict:
    """From the tables where they know this head size on this chip, fitted to this many rows."""
    knobs = launch.knobs("attention", f"{head_dim}", {"span": 2, "simds": 8, "batch": 4, "tile": 4})
    tile = min(rows, knobs["tile"])
    together = 32 // lanes_of(head_dim)
    simds = knobs["simds"]
    while simds > 1 and (4 * simds * tile * head_dim > SHARED or knobs["span"] * page // simds < together):
        simds //= 2
    batch = knobs["batch"]
    while batch > 1 and (page % (together * batch) or knobs["span"] * page // simds % (together * batch)):
        batch //= 2
    return {"span": knobs["span"], "simds": simds, "batch": batch, "tile": tile}
