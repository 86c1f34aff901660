"""`qk_norm_rope` for 1 to 8 tokens a row on a GPU, and what it does not cover.

Keys and values go straight to their pages (pages_kernel.py), so a layer has no other call for them.
"""

import mlx.core as mx

from . import launch, pages_kernel
from .linear_kernel import FLOATS, float_bits
from .norm import weights_of
from .resident import constant

MAX_TOKENS = 8
KERNEL = launch.Kernel(
    "qk_norm_rope", ("qkv", "position", "periods", "gains", "slots", "keys", "values", "size", "after"), ("q",),
    written=("keys", "values"), optional=("periods", "gains", "slots", "keys", "values", "size", "after"),
)  # fmt: skip


def case(qkv, rope, heads, kv_heads, head_dim) -> tuple:
    turned = "no rope" if rope is None else f"{rope.dims} of {head_dim} turned"
    return (str(qkv.dtype).split(".")[-1], f"{heads}+{kv_heads} heads", turned)


def covers(qkv, position, rope, kv_heads, head_dim, norms, pages) -> str | None:
    """Why there is no kernel for this call, or None."""
    if not isinstance(position, mx.array) or position.dtype != mx.int32:
        return "positions that are no int32 array"
    return covers_heads(qkv, rope, kv_heads, head_dim, norms, pages)


def covers_heads(qkv, rope, kv_heads, head_dim, norms, pages) -> str | None:
    """The same, whatever the positions are."""
    if qkv.shape[1] > MAX_TOKENS:
        return f"more than {MAX_TOKENS} tokens a row"
    if qkv.dtype not in FLOATS:
        return f"qkv is {qkv.dtype}"
    if head_dim % 32:
        return f"heads of {head_dim}, which is no multiple of 32"
    if rope is not None and rope.periods is not None and rope.periods.ndim > 1:
        return "a rotation of its own for every row"
    if len({norm.eps for norm in norms if norm is not None}) > 1:
        return "norms that differ in eps"
    if any(norm.weight.dtype != qkv.dtype for norm in norms if norm is not None and norm.weight is not None):
        return "a norm and qkv differ in type"
    if kv_heads and (pages is None or pages.dtype != qkv.dtype or not pages.in_place):
        return "keys and values that are not written in place"
    return None


def fused(qkv, position, rope, pages, rows, *, heads, kv_heads, head_dim, q_norm, k_norm, v_norm) -> mx.array:
    """-> q [B, heads, T, head_dim]; keys and values are in `pages`."""
    batch, new, width = qkv.shape
    norms = (q_norm, k_norm, v_norm)
    simds = launch.knobs("qk_norm_rope", "*", {"simds": 4})["simds"]
    template = {
        "T": qkv.dtype, "B": batch, "NEW": new, "HEADS": heads, "KV_HEADS": kv_heads, "D": head_dim,
        "SAME": kv_heads > 0 and width == (heads + kv_heads) * head_dim,
        "SCALE": float_bits(1.0 if rope is None else rope.scale), **turning(rope, norms), "SIMDS": simds,
    }  # fmt: skip
    home = [position, qkv, qkv, position, position]  # stand for what a row of queries alone does not have
    if kv_heads:
        pages.prepare(rows)
        addresses = rows.addresses(new, pages.keys.shape[1])
        home = [addresses.slots, *pages.held, addresses.size, pages_kernel.waited_for(pages, position)]
    units = batch * new * (heads + 2 * kv_heads)
    (q,) = KERNEL(
        [qkv, position, position if rope is None else periods_of(rope), gains_of(norms, qkv), *home],
        [((batch, heads, new, head_dim), qkv.dtype)],
        template=template,
        groups=(-(-units // simds), 1, 1),
        threads=32 * simds,
    )
    if kv_heads:
        pages.written = q
    return q


def turning(rope, norms) -> dict:
    """What rotary.metal's callers are told of the rotation and of the norms of q, k and v."""
    return {
        "DIMS": 0 if rope is None else rope.dims, "INTERLEAVED": rope is not None and rope.interleaved,
        "MAGNITUDE": float_bits(1.0 if rope is None else rope.magnitude),
        **{f"{name}_NORM": norm is not None for name, norm in zip("QKV", norms, strict=True)},
        **{f"{name}_GAIN": norm is not None and norm.weight is not None for name, norm in zip("QKV", norms, strict=True)},
        "EPS": float_bits(next((norm.eps for norm in norms if norm is not None), 0.0)),
    }  # fmt: skip


def gains_of(norms, instead: mx.array) -> mx.array:
    weights = weights_of(norms)
    return instead if weights is None else weights


def periods_of(rope) -> mx.array:
    """[dims / 2] float32."""
    return rope.periods if rope.periods is not None else powers(rope.base, rope.dims)


def powers(base: float, dims: int) -> mx.array:
    """base^(2 i / dims)"""
    return constant(tuple(base ** (i / dims) for i in range(0, dims, 2)), mx.float32)
