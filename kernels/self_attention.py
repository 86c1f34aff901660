"""Attention of tokens over their own sequence, from a row of qkv on: qk_norm_rope and attention, in one kernel for 1 to 8
tokens a row on a GPU.

    self_attention(qkv, ...) = attention(qk_norm_rope(qkv, position of the rows, rope), pages)

qkv [B, T, (heads + 2 kv_heads) head_dim], or (heads + kv_heads) head_dim where K = V -> [B, T, heads head_dim]; extends
`pages`. See qk_norm_rope.py and attention.py for formulas and sources.
"""

import mlx.core as mx

from . import attention_kernel, launch, pages_kernel, qk_norm_rope_kernel, rotation_kernel
from .attention import attention
from .norm import Norm
from .pages import Pages, Rows
from .qk_norm_rope import Rope, qk_norm_rope

INPUTS = ("qkv", "where", "turns", "gains", "keys", "values", "after", *attention_kernel.ROOM)
KERNEL = attention_kernel.kernels_of(
    {"lanes": "self_attention", "tiles": "self_attention_tiles"}, INPUTS, written=("keys", "values"), optional=("turns", "gains")
)
SHARED = 31 << 10  # bytes of threadgroup memory, of the 32 KiB that Metal has


def self_attention(
    qkv: mx.array,
    rope: Rope | None,
    pages: Pages,
    rows: Rows,
    *,
    heads: int,
    scale: float,
    cap: float | None = None,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    v_norm: Norm | None = None,
    last: bool = False,
) -> mx.array:
    """With `last` only the last token's output, [B, 1, heads head_dim]; the pages take all T."""
    norms = {"q_norm": q_norm, "k_norm": k_norm, "v_norm": v_norm}
    if not launch.on_cpu("self_attention") and (qkv.shape[1] == 1 or not last):
        refusal = covers(qkv, rope, pages, heads, norms.values())
        if launch.uses_kernel("self_attention", case(qkv, rope, heads, pages), refusal):
            return fused(qkv, rope, pages, rows, heads, scale, cap, tuple(norms.values()))
    q, k, v = qk_norm_rope(
        qkv, rows.position(qkv.shape[1]), rope, heads=heads, kv_heads=pages.kv_heads, head_dim=pages.head_dim, pages=pages,
        rows=rows, **norms,
    )  # fmt: skip
    return attention(q[:, :, -1:] if last else q, k, v, pages, rows, scale=scale, cap=cap)


def case(qkv, rope, heads, pages) -> tuple:
    seen = "all" if pages.window is None else f"window {pages.window}"
    turned = "no rope" if rope is None else f"{rope.dims} of {pages.head_dim} turned"
    return (str(qkv.dtype).split(".")[-1], f"{heads}/{pages.kv_heads} heads", turned, seen)


def covers(qkv, rope, pages, heads, norms) -> str | None:
    """Why there is no kernel for this call, or None."""
    if pages.coding is not None:
        return "the pages hold packed heads, for which there are kernels of their own"
    for op in ("qk_norm_rope", "attention"):
        if why := launch.unavailable(op):
            return f"{op} has no kernel: {why}"
    if why := qk_norm_rope_kernel.covers_heads(qkv, rope, pages.kv_heads, pages.head_dim, norms, pages):
        return why
    new, head_dim, size = qkv.shape[1], pages.head_dim, qkv.dtype.size
    tile = attention_kernel.chosen_knobs(head_dim, qkv.dtype, heads // pages.kv_heads * new)["tile"]
    if attention_kernel.SHARED + head_dim * size * (2 * new + tile) > SHARED:
        return f"{new} tokens of {head_dim} do not fit in threadgroup memory"
    return None


def fused(qkv, rope, pages, rows, heads, scale, cap, norms) -> mx.array:
    batch, new, width = qkv.shape
    pages.prepare(rows)
    addresses = rows.addresses(new, pages.keys.shape[1])
    plan = attention_kernel.Plan(batch, heads, new, pages, addresses, scale, cap, qkv.dtype)
    turns = addresses.where if rope is None else rotation_kernel.turns(rope, rows, rows.position(new), new)
    o = plan.launched(
        KERNEL,
        [qkv, addresses.where, turns, qk_norm_rope_kernel.gains_of(norms, qkv), *pages.held,
         pages_kernel.waited_for(pages, addresses.where)],
        **qk_norm_rope_kernel.turning(rope, norms), SAME=width == (heads + pages.kv_heads) * pages.head_dim,
    )  # fmt: skip
    pages.written = o
    return o
