"""The feed-forward of the experts that each token was sent to, and their weighted sum.

    experts(x, (i, w), U, V, glu="silu")  = sum_k w_k V_{i_k} (silu(g) * u),    [g, u] = U_{i_k} x + c_{i_k}
    experts(x, (i, w), U, V, act="relu2") = sum_k w_k V_{i_k} relu(U_{i_k} x + c_{i_k})^2
    ... with norm=n                       : x is rms_norm(x) first
    ... with residual=r                   : r + the sum
    ... with beside=(s, g)                : + s sigmoid(g), what a shared expert gave and its gate

x [..., D]; (i, w) each [..., K], as `router.route` gives them; U [E, 2F, D] (or [E, F, D] with `act`), V [E, D, F]: stacks
of all E experts, plain or packed as mx.quantize packs them; s [..., D], g [..., 1]; result [..., D] in x's dtype. The sum over k
is taken in float32.
Shazeer et al. 2017.
"""

from dataclasses import replace

import mlx.core as mx

from . import experts_kernel, launch
from .activations import ACT, GLU, sigmoid_gated
from .columns import Wide, array
from .linear import Weight, Weights, after, as_float32, join, rows_of, unpack
from .norm import Norm, rms_norm
from .router import Routed

# From this many (token, expert) pairs on, they are sorted by expert, so that each expert's matrix is read once.
# mlx-lm's threshold; not tuned on a GPU yet.
SORT = 64

# On CUDA: with this many pairs an expert, unpacking all matrices costs less than MLX's packed product, which takes each pair by
# itself. NVIDIA H200, bfloat16, 4 bits, a layer of 128 experts 768 wide for tokens 2048 wide: 2048 pairs 4.1 ms packed and 3.3
# unpacked, 16384 pairs 31.7 and 3.7; of 8 experts 14336 wide for 4096: 128 pairs 10.0 and 7.2, 4096 pairs 302 and 15.4.
UNPACK_PAIRS = 12
UNPACKED_SHARE = 16  # of the device's memory at most so much: one in so many bytes


def experts(
    x: mx.array,
    routed: Routed,
    up: Weights,
    down: Weight,
    *,
    glu: str | None = None,
    act: str | None = None,
    norm: Norm | None = None,
    residual: mx.array | None = None,
    beside: tuple[mx.array, Wide] | None = None,
) -> mx.array:
    extras = {"glu": glu, "act": act, "norm": norm, "residual": residual, "beside": beside}
    if launch.on_cpu("experts"):
        return reference(x, routed, up, down, **extras)
    refusal = experts_kernel.covers(x, routed, up, down, **extras)
    if launch.uses_kernel("experts", experts_kernel.case(x, routed, up, down, glu, act), refusal):
        return experts_kernel.fused(x, routed, up, down, **extras)
    return reference(x, routed, up, down, **extras)


def reference(x, routed, up, down, *, glu=None, act=None, norm=None, residual=None, beside=None) -> mx.array:
    if beside is not None:
        own = sigmoid_gated(beside[0], array(beside[1]))
        residual = own if residual is None else residual + own
    if norm is not None:
        x = rms_norm(x, norm)
    (indices, weights), rows = routed, x.reshape(-1, x.shape[-1])
    forward = sorted_pairs if indices.size >= SORT else pairs
    y = forward(rows, indices.reshape(len(rows), -1), up, down, glu, act)
    y = (y * weights.reshape(len(rows), -1, 1)).sum(axis=1).astype(x.dtype).reshape(*x.shape[:-1], -1)
    return y if residual is None else residual + y


def pairs(rows, indices, up, down, glu, act):
    """rows [N, D], indices [N, K] -> [N, K, D]"""
    h = hidden(rows[:, None, None], indices, up, glu, act)
    return gathered_matmul(h, down, indices).squeeze(-2)


def sorted_pairs(rows, indices, up, down, glu, act):
    """The same, expert by expert."""
    flat = indices.flatten()
    order = mx.argsort(flat)
    x, flat = rows[:, None][order // indices.shape[1]], flat[order]  # MLX reads an axis put in later with a wrong stride
    y = gathered_matmul(hidden(x, flat, up, glu, act, ordered=True), down, flat, ordered=True)
    return y.squeeze(-2)[mx.argsort(order)].reshape(*indices.shape, -1)


def hidden(x, indices, up, glu, act, ordered=False):
    parts = up if isinstance(up, tuple) else (up,)
    h = join([gathered_matmul(x, part, indices, ordered) for part in parts])
    return GLU[glu](*mx.split(h, 2, axis=-1)) if glu is not None else ACT[act](h)


def gathered_matmul(x: mx.array, weight: Weight, indices: mx.array, ordered: bool = False) -> mx.array:
    """x [..., 1, D] with the matrix of expert indices [...] -> [..., 1, O]. ordered: the indices ascend."""
    if mx.default_device().type == mx.DeviceType.gpu:
        y = product(x, weight, indices, ordered)
    else:
        y = cpu_product(x, weight, indices, ordered)
    return y if weight.bias is None else y + weight.bias[indices][..., None, :]


def product(x, weight, indices, ordered):
    if ordered and unpacking_pays(weight, indices.size):
        weight = Weight(unpack(after(weight, x)).astype(x.dtype))
    if not weight.packed:
        return mx.gather_mm(x, weight.weight.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=ordered)
    return mx.gather_qmm(
        x, weight.weight, weight.scales, weight.biases, rhs_indices=indices, transpose=True,
        group_size=weight.group_size, bits=weight.bits, mode=weight.mode, sorted_indices=ordered,
    )  # fmt: skip


def unpacking_pays(weight: Weight, pairs: int) -> bool:
    if not weight.packed or launch.machine() != "cuda" or pairs < UNPACK_PAIRS * len(weight.weight):
        return False
    elements = weight.weight.size * 32 // weight.bits
    return elements * weight.scaling.dtype.size * UNPACKED_SHARE <= mx.device_info()["total_memory"]


def cpu_product(x, weight, indices, ordered):
    """In float32: MLX's CPU has no other plain gathered product, and its packed one is inexact in 16 bits.

    Where fewer experts are asked for than there are, only those are converted.
    """
    if indices.size < len(weight.weight):
        weight, indices = rows_of(weight, indices.flatten()), mx.arange(indices.size).reshape(indices.shape)
    weight = after(weight, x)
    weight = as_float32(weight) if weight.packed else replace(weight, weight=weight.weight.astype(mx.float32))
    return product(x.astype(mx.float32), weight, indices.astype(mx.uint32), ordered).astype(x.dtype)
