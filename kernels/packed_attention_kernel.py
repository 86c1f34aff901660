"""`attention` for 1 to 8 tokens a row on a GPU, over pages whose heads are packed (coding.py) and stay so: attention_kernel.py
says how the work is split and joined. Longer pieces of a prompt read unpacked copies instead ("dense").

Knobs: span, simds, batch, tile, resident, join as there; chunk (neighbours of a head that a lane has: 8 or 16).
"""

import mlx.core as mx

from . import attention_kernel, launch
from .attention_kernel import ROOM, SHARED, Plan, default_join
from .packed_pages_kernel import HOME, template
from .pages_kernel import waited_for

INPUTS = ("q", *HOME, "where", "after", *ROOM)
KERNEL = attention_kernel.kernels_of({"packed": "packed_attention"}, INPUTS)
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
    plan = PackedPlan(q.shape[0], q.shape[1], q.shape[2], pages, addresses, scale, cap, q.dtype)
    return plan.launched(KERNEL, [q, *pages.held, addresses.where, waited_for(pages, q)])


class PackedPlan(Plan):
    """No threadgroup loads a part's keys while it computes another's, so none has several."""

    apart = True

    def chosen_knobs(self) -> dict:
        return {"walk": "packed", **chosen_knobs(self.pages.coding, self.rows)}

    def of_walk(self, knobs: dict) -> dict:
        chunk = knobs["chunk"]
        return {**template(self.pages), "BATCH": knobs["batch"], "CHUNK": chunk, "LANES": lanes_of(self.pages.head_dim, chunk)}


def lanes_of(head_dim: int, chunk: int) -> int:
    """Lanes that share one key: a power of two that divides its chunks."""
    chunks = head_dim // chunk
    return min(32, chunks & -chunks)


def chosen_knobs(coding, rows: int) -> dict:
    """From the tables where they know these heads on this chip. What decides the order of sums does not depend on `rows`."""
    from .pages import PAGE as page

    knobs = launch.knobs("packed_attention", f"{coding.head_dim} {coding.title}", DEFAULT | {"join": default_join()})
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
