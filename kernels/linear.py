"""A matrix times rows, with what stands before and after it in a layer.

    linear(x, W)                       = x W^T + b
    linear(x, W, norm=n)               = rms_norm(x) W^T + b
    linear(x, W, residual=r)           = x W^T + b + r
    linear(x, W, glu="silu")           = silu(g) * u,   [g, u] = x W^T + b
    linear(x, W, act="relu2")          = relu(x W^T + b)^2

x [..., D]; W [O, D]; result [..., O], or [..., O/2] with `glu`, in x's dtype. W is plain, or packed as mx.quantize
packs it (affine of 2, 3, 4, 5, 6 or 8 bits, mxfp4, mxfp8, nvfp4).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx

from . import launch, linear_kernel
from .activations import ACT, GLU
from .norm import Norm, rms_norm

# On the CPU backend: from this many rows on, unpacking the matrix once costs less than the packed product.
# AMD EPYC, 1 thread, 3072x1024 4-bit, bfloat16: 8 rows 21.7 ms packed, 20.5 ms unpacked; 64 rows 177 and 81 ms.
CPU_UNPACK_ROWS = 8

# It is unpacked a block of so many elements at a time, to bound memory: one or two blocks wait for MLX's thread.
# AMD EPYC, 2048x384 4-bit, bfloat16, 64 rows: 15.3 ms and 1.6 MiB; by blocks of 2^18 15.2 and 2.8, of 2^16 15.7 and 1.1.
CPU_UNPACK_ELEMENTS = 3 << 15


@dataclass(frozen=True)
class Weight:
    """One matrix [O, D], or several of equal quantisation joined along O.

    weight       [O, D] plain, or [O, D * bits / 32] uint32 when packed
    scaling      [2, O, D / group_size], scales and then biases, for mode "affine"; [1, O, D / group_size] for other
                 modes, which have no biases; None when plain
    bias         [O], added to the product; else None
    gain         [D], the weight of the norm that x always comes from; scaling is flat then, and ends in a copy of it:
                 see `with_gain`

    What goes together is one array because every array costs the host time at every launch.
    """

    weight: mx.array
    scaling: mx.array | None = None
    bias: mx.array | None = None
    group_size: int = 0
    bits: int = 0
    mode: str = "affine"
    gain: mx.array | None = None

    @classmethod
    def quantized(cls, weight, scales, biases=None, *, group_size, bits, mode="affine", bias=None) -> "Weight":
        """Of the arrays that mx.quantize gives."""
        scaling = scales[None] if biases is None else mx.stack([scales, biases])
        return cls(weight, scaling, bias, group_size, bits, mode)

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def packed(self) -> bool:
        return self.scaling is not None

    @property
    def scales(self) -> mx.array | None:
        """[O, D / group_size]"""
        return self._table(0) if self.packed else None

    @property
    def biases(self) -> mx.array | None:
        """Like scales, for mode "affine"; else None."""
        return self._table(1) if self.packed and self.mode == "affine" else None

    def _table(self, i: int) -> mx.array:
        """A view, which scaling[i] would not be."""
        if self.gain is None:
            return self.scaling[i : i + 1].squeeze(0)
        size = math.prod(self.table_shape)
        return self.scaling[i * size : (i + 1) * size].reshape(self.table_shape)

    @property
    def table_shape(self) -> tuple[int, ...]:
        return (*self.weight.shape[:-1], self.weight.shape[-1] * 32 // (self.bits * self.group_size))

    def ends_in(self, norm: Norm | None) -> bool:
        """Whether scaling ends in this norm's weight."""
        return norm is not None and self.gain is not None and norm.weight is self.gain

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.weight, self.scaling, self.bias) if a is not None]


Weights = Weight | tuple[Weight, ...]  # a tuple: parts whose quantisation differs, which cannot be joined


def linear(
    x: mx.array,
    weight: Weights,
    *,
    norm: Norm | None = None,
    residual: mx.array | None = None,
    glu: str | None = None,
    act: str | None = None,
) -> mx.array:
    if launch.on_cpu("linear"):
        return reference(x, weight, norm=norm, residual=residual, glu=glu, act=act)
    refusal = linear_kernel.covers(x, weight, norm, residual, glu, act)
    if launch.uses_kernel("linear", linear_kernel.case(x, weight, glu, act), refusal):
        return linear_kernel.fused(x, weight, norm, residual, glu, act)
    return reference(x, weight, norm=norm, residual=residual, glu=glu, act=act)


def reference(x, weight, *, norm=None, residual=None, glu=None, act=None) -> mx.array:
    """The same in plain ops: prefill on every backend, and all of it on the CPU."""
    if norm is not None:
        x = rms_norm(x, norm)
    parts = weight if isinstance(weight, tuple) else (weight,)
    y = join([matmul(x, part) for part in parts])
    if glu is not None:
        y = GLU[glu](*mx.split(y, 2, axis=-1))
    if act is not None:
        y = ACT[act](y)
    return y if residual is None else residual + y


def join(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def matmul(x: mx.array, weight: Weight) -> mx.array:
    """x W^T + b."""
    if not weight.packed:
        y = x @ weight.weight.T
    elif mx.default_device().type == mx.DeviceType.gpu:
        y = packed_matmul(x, weight)
    else:
        y = cpu_matmul(x, weight)
    return y if weight.bias is None else y + weight.bias


def packed_matmul(x: mx.array, weight: Weight) -> mx.array:
    return mx.quantized_matmul(
        x, weight.weight, weight.scales, weight.biases, transpose=True,
        group_size=weight.group_size, bits=weight.bits, mode=weight.mode,
    )  # fmt: skip


def cpu_matmul(x: mx.array, weight: Weight) -> mx.array:
    """MLX's CPU product of packed matrices accumulates in x's type: in 16 bits that is inexact (10% in bfloat16) and
    7 (bfloat16) to 40 times (float16) slower than in float32, so few rows go through float32 and many through the
    unpacked matrix.
    """
    if x.dtype == mx.float32:
        return packed_matmul(x, as_float32(weight))
    if x.size // x.shape[-1] < CPU_UNPACK_ROWS:
        return packed_matmul(x.astype(mx.float32), as_float32(weight)).astype(x.dtype)
    whole = weight if x.dtype == mx.bfloat16 else as_float32(weight)
    step = max(64, CPU_UNPACK_ELEMENTS // x.shape[-1])
    products = []
    for i in range(0, weight.rows, step):
        block = after(rows_of(whole, slice(i, i + step)), products[-1] if products else x)
        products.append(x @ cpu_unpack(block).astype(x.dtype).T)
    return join(products)


def after(weight: Weight, x: mx.array) -> Weight:
    """The same matrix, not to be touched before `x` is there: MLX would unpack the matrices of many layers at once."""
    return replace(weight, weight=mx.depends(weight.weight, x))


def as_float32(weight: Weight) -> Weight:
    """The same matrix with float32 scales, which the CPU's float32 product needs. Floating scales only are affine's."""
    if weight.mode != "affine":
        return weight
    weight = without_gain(weight)
    return replace(weight, scaling=weight.scaling.astype(mx.float32))


def unpack(weight: Weight) -> mx.array:
    """The plain matrix [O, D], in the dtype of affine scales, else in bfloat16."""
    if not weight.packed:
        return weight.weight
    return mx.dequantize(
        weight.weight, weight.scales, weight.biases,
        group_size=weight.group_size, bits=weight.bits, mode=weight.mode,
    )  # fmt: skip


def cpu_unpack(weight: Weight) -> mx.array:
    """`unpack` a byte at a time: mx.dequantize on the CPU holds every element three times in four bytes meanwhile."""
    if weight.mode != "affine" or weight.bits not in (2, 4, 8):
        return unpack(weight)
    codes = weight.weight.view(mx.uint8)
    if weight.bits < 8:
        shifts, mask = mx.arange(0, 8, weight.bits, dtype=mx.uint8), mx.array((1 << weight.bits) - 1, mx.uint8)
        codes = (codes[..., None] >> shifts) & mask
    scales, biases = weight.scales, weight.biases
    codes = codes.reshape(*scales.shape, weight.group_size).astype(scales.dtype)
    return (codes * scales[..., None] + biases[..., None]).flatten(-2)


def rows_of(weight: Weight, rows: slice | mx.array) -> Weight:
    """Some of the matrix's rows, or the matrices of some experts; the additive bias stays behind."""
    weight = without_gain(weight)
    scaling = weight.scaling[:, rows] if weight.packed else None
    return replace(weight, weight=weight.weight[rows], scaling=scaling, bias=None)


def pack(matrix: mx.array, group_size: int = 64, bits: int = 4, mode: str = "affine") -> Weight:
    """Quantise a plain [O, D] as mx.quantize does."""
    spec = {"group_size": group_size, "bits": bits, "mode": mode}
    return Weight.quantized(*mx.quantize(matrix, **spec), **spec)


ALIGNED = 8  # values: so many, of any float type, are 16 bytes or more, the longest load


def with_gain(weight: Weights, norm: Norm) -> Weights:
    """The same with a copy of the norm's weight behind the biases, from the next multiple of ALIGNED on: linear(x, W, norm=norm)
    launches with an array less. Where the types differ, or there are no biases, it is the same.
    """
    if isinstance(weight, tuple) or not can_end_in(weight, norm):
        return weight
    gap = mx.zeros((-weight.scaling.size % ALIGNED,), norm.weight.dtype)
    return replace(weight, scaling=mx.concatenate([weight.scaling.flatten(), gap, norm.weight]), gain=norm.weight)


def can_end_in(weight: Weight, norm: Norm) -> bool:
    affine = weight.packed and weight.mode == "affine" and weight.gain is None
    return affine and norm.weight is not None and norm.weight.dtype == weight.scaling.dtype


def without_gain(weight: Weight) -> Weight:
    """The same with scales and biases alone: a view of them."""
    if weight.gain is None:
        return weight
    shape = (2, *weight.table_shape)
    return replace(weight, scaling=weight.scaling[: math.prod(shape)].reshape(shape), gain=None)


def can_join(weights: list[Weight]) -> bool:
    """Whether these can be one matrix: equal width, type, quantisation, and all or none with a bias."""
    kinds = {
        (w.weight.shape[1:], w.weight.dtype, w.group_size, w.bits, w.mode, w.bias is None, w.packed and w.scaling.dtype)
        for w in weights
    }
    return len(kinds) == 1


def joined(weights: list[Weight], axis: int = 0) -> Weights:
    """One matrix of all rows, where the parts allow it, else as few as they allow. axis=1: stacks [E, O, D] along O."""
    groups = [[weights[0]]]
    for weight in weights[1:]:
        if can_join([groups[-1][0], weight]):
            groups[-1].append(weight)
        else:
            groups.append([weight])
    parts = tuple(combined(g, mx.concatenate, axis) if g[1:] else g[0] for g in groups)
    return parts[0] if len(parts) == 1 else parts


def stacked(weights: list[Weight]) -> Weight:
    """[O, D] of every expert as one [E, O, D]; matrices of unequal quantisation are unpacked for it."""
    if not can_join(weights):
        weights = [Weight(unpack(w), bias=w.bias) for w in weights]
    return combined(weights, mx.stack, 0)


def combined(weights: list[Weight], combine: Callable[[list[mx.array], int], mx.array], axis: int) -> Weight:
    """Each kind of array combined along `axis` of the matrices, before which scaling has one more."""
    weights = [without_gain(weight) for weight in weights]
    first = weights[0]
    fields = {
        name: combine([getattr(w, name) for w in weights], at)
        for name, at in (("weight", axis), ("scaling", axis + 1), ("bias", axis))
        if getattr(first, name) is not None
    }
    return replace(first, **fields)
