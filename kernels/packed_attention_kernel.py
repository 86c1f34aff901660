"""`attention` for 1 to 8 tokens a row on a GPU, over pages whose heads are packed (coding.py) and stay so: attention_kernel.py
says how the work is split and joined. Longer pieces of a prompt read unpacked copies instead ("dense").

Knobs: span, simds, batch, tile, resident as there; chunk (neighbours of a head that a lane has: 8 or 16).
"""

import mlx.core as mx

from . import attention_kernel, launch
from .attention_kernel import SHARED, merged, parted
from .linear_kernel import float_bits
from .packed_pages_kernel import HOME, template
from .pages_kernel import waited_for

INPUTS = ("q", *HOME, "table", "bounds", "size", "after")
PARTIAL = launch.Kernel("packed_attention", INPUTS, ("partial",), optional=("after",))
MERGED = ("T", "GROUP", "NEW", "KV", "D", "PAGE", "SPAN", "WINDOW")  # what the merge is told of the shape
DEFAULT = {"span": 2, "simds": 8, "batch": 4, "chunk": 8, "tile": 4, "resident": 2}
ELEMENTS = 32  # of queries, and of sums, that a lane holds at most


def case(q, pages) -> tuple:
    return (*attention_kernel.case(q, pages.kv_heads, pages.window), pages.coding.title)


def covers(q, pages) -> str | None:
    """Why there is no kernel for this call, or None."""
    if pages.coding.reading == "dense":
        return "dense reading is asked for"
    return attention_kernel.covers(q, pages)


def unfit(pages) -> str | None:
    """Why decode steps cannot read these pages as they lie, or None."""
    q = mx.zeros((1, pages.kv_heads, 1, pages.head_dim), pages.dtype)
    return launch.unavailable("packed_attention") or covers(q, pages)


def fused(q, pages, addresses, *, scale, cap) -> mx.array:
    """q [B, H, T, d] over pools that hold the keys and values of its own positions already -> [B, T, H d]."""
    from .pages import PAGE

    batch, heads, new, head_dim = q.shape
    kv_heads, group = pages.kv_heads, heads // pages.kv_heads
    knobs = chosen_knobs(pages.coding, group * new)
    parts, rows = addresses.pages // knobs["span"], group * new
    shape = {"T": q.dtype, "GROUP": group, "NEW": new, "KV": kv_heads, **template(pages), "PAGE": PAGE,
             "SPAN": knobs["span"], "WINDOW": pages.window or 0}  # fmt: skip
    whole, result = parts == 1, ((batch, new, heads * head_dim), q.dtype)
    (partial,) = PARTIAL(
        [q, *pages.held, addresses.pages_of_rows, addresses.bounds, addresses.size, waited_for(pages, q)],
        [result if whole else parted(batch * kv_heads * parts * rows, head_dim)],
        template={
            **shape, "P": q.dtype if whole else mx.float32, "WHOLE": whole, "SCALE": float_bits(scale),
            "CAPPED": cap is not None, "CAP": float_bits(cap or 1.0), "LANES": lanes_of(head_dim, knobs["chunk"]),
            **{name.upper(): knobs[name] for name in ("tile", "simds", "batch", "chunk", "resident")},
        },
        groups=(kv_heads * -(-rows // knobs["tile"]), batch, parts),
        threads=32 * knobs["simds"],
    )  # fmt: skip
    return partial if whole else merged(partial, addresses, {name: shape[name] for name in MERGED}, parts, result)


def lanes_of(head_dim: int, chunk: int) -> int:
    """Lanes that share one key: a power of two that divides its chunks."""
    chunks = head_dim // chunk
    return min(32, chunks & -chunks)


def chosen_knobs(coding, rows: int) -> dict:
    """From the tables where they know these heads on this chip. What decides the order of sums does not depend on `rows`."""
    from .pages import PAGE as page

    knobs = launch.knobs("packed_attention", f"{coding.head_dim} {coding.title}", DEFAULT)
    chunk = max(knobs["chunk"], 32 // coding.bits)  # a word at least
    lanes = lanes_of(coding.head_dim, chunk)
    together, elements, share = 32 // lanes, coding.head_dim // lanes, knobs["span"] * page
    tile, simds, batch = (knobs[name] for name in ("tile", "simds", "batch"))
    while tile > 1 and tile * elements > ELEMENTS:
        tile //= 2
    while simds > 1 and (4 * simds * tile * coding.head_dim > SHARED or share // simds < together):
        simds //= 2
    while batch > 1 and (page % (together * batch) or share // simds % (together * batch)):
        batch //= 2
    return {**knobs, "chunk": chunk, "simds": simds, "batch": batch, "tile": min(rows, tile)}
