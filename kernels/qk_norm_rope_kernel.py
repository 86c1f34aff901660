"""`qk_norm_rope` for 1 to 8 tokens a row on a GPU, and what it does not cover.

Keys and values come out as one array [2, kv_heads, B, T, head_dim], which is how a pool wants them.
"""

import mlx.core as mx

from . import launch
from .linear_kernel import FLOATS, float_bits

MAX_TOKENS = 8
KERNEL = launch.Kernel("qk_norm_rope", ("qkv", "position", "periods", "gains"), ("q", "kv"))


def case(qkv, rope, heads, kv_heads, head_dim) -> tuple:
    turned = "no rope" if rope is None else f"{rope.dims} of {head_dim} turned"
    return (str(qkv.dtype).split(".")[-1], f"{heads}+{kv_heads} heads", turned)


def covers(qkv, position, rope, kv_heads, head_dim, norms) -> str | None:
    """Why there is no kernel for this call, or None."""
    if qkv.shape[1] > MAX_TOKENS:
        return f"more than {MAX_TOKENS} tokens a row"
    if qkv.dtype not in FLOATS:
        return f"qkv is {qkv.dtype}"
    if head_dim % 32:
        return f"heads of {head_dim}, which is no multiple of 32"
    if not isinstance(position, mx.array) or position.dtype != mx.int32:
        return "positions that are no int32 array"
    if rope is not None and rope.periods is not None and rope.periods.ndim > 1:
        return "a rotation of its own for every row"
    if len({norm.eps for norm in norms if norm is not None}) > 1:
        return "norms that differ in eps"
    return None


def fused(qkv, position, rope, *, heads, kv_heads, head_dim, q_norm, k_norm, v_norm):
    batch, new, width = qkv.shape
    norms = (q_norm, k_norm, v_norm)
    knobs = launch.knobs("qk_norm_rope", "*", {"simds": 4})
    same = kv_heads > 0 and width == (heads + kv_heads) * head_dim
    template = {
        "T": qkv.dtype, "B": batch, "NEW": new, "HEADS": heads, "KV_HEADS": kv_heads, "D": head_dim, "SAME": same,
        "DIMS": 0 if rope is None else rope.dims, "INTERLEAVED": rope is not None and rope.interleaved,
        "SCALE": float_bits(1.0 if rope is None else rope.scale),
        "MAGNITUDE": float_bits(1.0 if rope is None else rope.magnitude),
        **{f"{name}_NORM": norm is not None for name, norm in zip("QKV", norms, strict=True)},
        "EPS": float_bits(next((norm.eps for norm in norms if norm is not None), 0.0)), "SIMDS": knobs["simds"],
    }  # fmt: skip
    units = batch * new * (heads + 2 * kv_heads)
    kv_shape = (2, kv_heads, batch, new, head_dim) if kv_heads else (1,)
    q, kv = KERNEL(
        [qkv, position, periods_of(rope), gains_of(norms, head_dim, qkv.dtype)],
        [((batch, heads, new, head_dim), qkv.dtype), (kv_shape, qkv.dtype)],
        template=template,
        groups=(-(-units // knobs["simds"]), 1, 1),
        threads=32 * knobs["simds"],
    )
    if not kv_heads:
        return q, None, None
    return q, kv[0].swapaxes(0, 1), kv[1].swapaxes(0, 1)


def periods_of(rope) -> mx.array:
    """[dims / 2] float32; one number where nothing turns."""
    if rope is None:
        return mx.ones((1,))
    if rope.periods is not None:
        return rope.periods
    return rope.base ** (mx.arange(0, rope.dims, 2, dtype=mx.float32) / rope.dims)


def gains_of(norms, head_dim: int, dtype: mx.Dtype) -> mx.array:
    """[3, head_dim]: the weights of the three norms, ones where there is none."""
    ones = mx.ones((head_dim,), dtype)
    return mx.stack([ones if norm is None or norm.weight is None else norm.weight.astype(dtype) for norm in norms])
