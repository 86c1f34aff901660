"""Root mean square norm, and the sandwich that Gemma puts around a block.

    rms_norm(x)           = x / sqrt(mean(x^2) + eps) * weight              Zhang & Sennrich 2019
    add_norm(x, y, norm)  = x + rms_norm(y)

x, y [..., D]; weight [D]. The mean is taken in float32, the result has x's dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from . import add_norm_kernel, launch


@dataclass(frozen=True)
class Norm:
    """weight [D], or None for a norm without one. Families that store the weight minus one (Gemma) add it at load.

    rows, row   [N, D], the weights of norms that a kernel takes as one array, of which this one's is row `row`: see `together`
    """

    weight: mx.array | None
    eps: float
    rows: mx.array | None = None
    row: int = 0


def together(norms: Sequence[Norm | None]) -> list[Norm | None]:
    """The same norms, told that the weights of those which have one are, in this order, the rows of one array."""
    weights = [norm.weight for norm in norms if norm is not None and norm.weight is not None]
    if len(weights) < 2 or len({(weight.shape, weight.dtype) for weight in weights}) > 1:
        return list(norms)
    rows, numbers = mx.stack(weights), iter(range(len(weights)))
    bare = lambda norm: norm is None or norm.weight is None  # noqa: E731
    return [norm if bare(norm) else replace(norm, rows=rows, row=next(numbers)) for norm in norms]


def weights_of(norms: Sequence[Norm | None]) -> mx.array | None:
    """[N, D], or [D] of one, or None: the weights of those which have one, in this order; of norms that are `together` no new
    array."""
    found = [norm for norm in norms if norm is not None and norm.weight is not None]
    if len(found) < 2:
        return found[0].weight if found else None
    rows = found[0].rows
    if rows is not None and all(norm.rows is rows and norm.row == i for i, norm in enumerate(found)):
        return rows
    return mx.stack([norm.weight for norm in found])


def rms_norm(x: mx.array, norm: Norm) -> mx.array:
    return mx.fast.rms_norm(x, norm.weight, norm.eps)


def add_norm(x: mx.array, y: mx.array, norm: Norm, scale: mx.array | None = None) -> mx.array:
    """x + rms_norm(y), times `scale` (a layer's scalar) where one is given.

    In float16 the sum is taken in float32 and clipped to the finite range: Gemma's residual stream exceeds it.
    """
    if launch.on_cpu("add_norm"):
        return reference(x, y, norm, scale)
    refusal = add_norm_kernel.covers(x, y, norm, scale)
    if launch.uses_kernel("add_norm", add_norm_kernel.case(x, scale), refusal):
        return add_norm_kernel.fused(x, y, norm, scale)
    return reference(x, y, norm, scale)


def reference(x, y, norm, scale=None) -> mx.array:
    total = _finite_sum(x, rms_norm(y, norm)) if x.dtype == mx.float16 else x + rms_norm(y, norm)
    return total if scale is None else total * scale


def _finite_sum(x: mx.array, y: mx.array) -> mx.array:
    bound = mx.finfo(mx.float16).max
    return mx.clip(x.astype(mx.float32) + y.astype(mx.float32), -bound, bound).astype(mx.float16)
