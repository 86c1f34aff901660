"""Queries, keys and values out of one row of qkv: split, per-head norm, rotary position.

    [q | k | v] = qkv
    q, k  = rope(norm_q(q), position), rope(norm_k(k), position)
    v     = norm_v(v)

A row [q | k] without values has the keys for values, as they are before norm and rope (Gemma 4, `attention_k_eq_v`).
A row [q] is for a layer that reads the keys and values of another.

RoPE (Su et al. 2021) turns the pair (x_i, x_j) by the angle position * scale / period_i, where j = i + dims/2, or
i + 1 when interleaved ("traditional"). Only the first `dims` of a head turn; the rest passes (partial rotary).
Before turning, the first `dims` are multiplied by `magnitude` (YaRN, Peng et al. 2023; LongRoPE, Ding et al. 2024).
"""

from dataclasses import dataclass

import mlx.core as mx

from . import launch, packed_qk_norm_rope_kernel, qk_norm_rope_kernel
from .norm import Norm, rms_norm
from .pages import Pages, Rows


@dataclass(frozen=True)
class Rope:
    """dims rotated, and the period of each pair: base^(2i/dims), or `periods` [dims/2] float32 (infinite: stays).

    `periods` [B, dims/2] gives each row its own. scale multiplies positions (linear interpolation: 1/factor).
    """

    dims: int
    base: float | None = 10000.0
    periods: mx.array | None = None
    scale: float = 1.0
    magnitude: float = 1.0
    interleaved: bool = False

    def __call__(self, x: mx.array, position: mx.array | int) -> mx.array:
        """x [B, heads, T, head_dim]; position of the first of the T tokens: [B] int32, or one for all rows."""
        if self.magnitude != 1.0:
            x = x.at[..., : self.dims].multiply(self.magnitude)
        if self.periods is None or self.periods.ndim == 1:
            return self._turn(x, position, self.periods)
        each = zip(mx.split(x, len(x)), mx.split(position, len(x)), self.periods, strict=True)
        return mx.concatenate([self._turn(*row) for row in each])

    def _turn(self, x, position, periods):
        base = None if periods is not None else self.base
        return mx.fast.rope(
            x, self.dims, traditional=self.interleaved, base=base, scale=self.scale, offset=position, freqs=periods
        )


def qk_norm_rope(
    qkv: mx.array,
    position: mx.array | int,
    rope: Rope | None,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    v_norm: Norm | None = None,
    pages: Pages | None = None,
    rows: Rows | None = None,
) -> tuple[mx.array, mx.array | None, mx.array | None]:
    """qkv [B, T, (heads + 2 kv_heads) head_dim] -> q [B, heads, T, head_dim], k and v [B, kv_heads, T, head_dim].

    Its width may be (heads + kv_heads) head_dim: K = V; or, with kv_heads 0, heads head_dim: k and v are None. They are
    None, too, where the kernel has already written them to the `rows` of `pages`.
    """
    norms = {"q_norm": q_norm, "k_norm": k_norm, "v_norm": v_norm}
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    op, kernel = "qk_norm_rope", qk_norm_rope_kernel
    if pages is not None and pages.coding is not None:
        op, kernel = "packed_qk_norm_rope", packed_qk_norm_rope_kernel
    if launch.on_cpu(op):
        return reference(qkv, position, rope, **shape, **norms)
    refusal = kernel.covers(qkv, position, rope, kv_heads, head_dim, norms.values(), pages)
    if launch.uses_kernel(op, kernel.case(qkv, rope, **shape), refusal):
        return kernel.fused(qkv, position, rope, pages, rows, **shape, **norms), None, None
    return reference(qkv, position, rope, **shape, **norms)


def reference(qkv, position, rope, *, heads, kv_heads, head_dim, q_norm=None, k_norm=None, v_norm=None):
    split = qkv.reshape(*qkv.shape[:2], -1, head_dim)
    assert split.shape[2] in (heads + kv_heads, heads + 2 * kv_heads), f"{split.shape[2]} heads in a row"
    q = turn(per_head(split[:, :, :heads], q_norm), position, rope)
    if not kv_heads:
        return q, None, None
    k, v = split[:, :, heads : heads + kv_heads], split[:, :, -kv_heads:]  # the same heads where K = V
    return q, turn(per_head(k, k_norm), position, rope), per_head(v, v_norm)


def per_head(x: mx.array, norm: Norm | None) -> mx.array:
    return (x if norm is None else rms_norm(x, norm)).swapaxes(1, 2)


def turn(x: mx.array, position, rope: Rope | None) -> mx.array:
    return x if rope is None else rope(x, position)
