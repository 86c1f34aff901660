"""A short causal convolution over time, each channel by itself.

    short_conv(x)        y_t = act(sum_j weight_j x_{t - K + 1 + j} + bias),     j = 0 .. K-1
    gated_short_conv     y = c * short_conv(b * h),     [b | c | h] = x          LFM2 report 2025

x [B, T, C], or [B, T, 3 C] where gated; weight [C, K], the last tap on the token itself; bias [C]; `tail` [B, K-1, C] are
the K-1 inputs (of a gated one: products b h) before x. y [B, T, C] in x's dtype. act is a name of `activations.ACT` or None.
"""

import mlx.core as mx

from . import launch, short_conv_kernel
from .activations import ACT
from .columns import Wide, array

Convolved = tuple[mx.array, mx.array, mx.array | None]


def short_conv(
    x: Wide,
    tail: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    activation: str | None = None,
    keep: bool = False,
) -> Convolved:
    """-> y [B, T, C], the new tail [B, K-1, C], and with `keep` the tails after every token [B, T, K-1, C]."""
    if _fuses(x, tail, weight, bias, activation, gated=False):
        return short_conv_kernel.fused(x, tail, weight, bias, activation, keep, gated=False)
    return reference(array(x), tail, weight, bias, activation, keep)


def gated_short_conv(
    x: mx.array, tail: mx.array, weight: mx.array, bias: mx.array | None = None, keep: bool = False
) -> Convolved:
    """The same of a row [b | c | h]."""
    if _fuses(x, tail, weight, bias, None, gated=True):
        return short_conv_kernel.fused(x, tail, weight, bias, None, keep, gated=True)
    return gated_reference(x, tail, weight, bias, keep)


def _fuses(x, tail, weight, bias, activation, gated) -> bool:
    if launch.on_cpu("short_conv"):
        return False
    refusal = short_conv_kernel.covers(x, tail, weight, bias, activation)
    return launch.uses_kernel("short_conv", short_conv_kernel.case(weight, activation, gated), refusal)


def reference(x, tail, weight, bias=None, activation=None, keep=False) -> Convolved:
    inputs = mx.concatenate([tail.astype(x.dtype), x], axis=1)
    y = mx.conv1d(inputs, weight[..., None], groups=weight.shape[0])
    y = y if bias is None else y + bias
    trail = tails(inputs, x.shape[1]) if keep else None
    return y if activation is None else ACT[activation](y), inputs[:, x.shape[1] :], trail


def gated_reference(x, tail, weight, bias=None, keep=False) -> Convolved:
    b, c, h = mx.split(x, 3, axis=-1)
    y, after, trail = reference(b * h, tail, weight, bias, None, keep)
    return c * y, after, trail


def tails(inputs: mx.array, new: int) -> mx.array:
    """Inputs [B, K-1 + new, C] -> the last K-1 after each of the new ones, [B, new, K-1, C]."""
    size = inputs.shape[1] - new
    return mx.stack([inputs[:, t + 1 : t + 1 + size] for t in range(new)], axis=1)
