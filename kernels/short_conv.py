"""A short causal convolution over time, each channel by itself.

    y_t = act(sum_j weight_j x_{t - K + 1 + j} + bias),     j = 0 .. K-1

x [B, T, C]; weight [C, K], the last tap on the token itself; bias [C]; `tail` [B, K-1, C] are the K-1 inputs before x.
y [B, T, C] in x's dtype. act is a name of `activations.ACT` or None.
"""

import mlx.core as mx

from .activations import ACT


def short_conv(
    x: mx.array,
    tail: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    activation: str | None = None,
) -> tuple[mx.array, mx.array]:
    """-> y [B, T, C] and the new tail [B, K-1, C]."""
    return reference(x, tail, weight, bias, activation)


def reference(x, tail, weight, bias=None, activation=None):
    inputs = mx.concatenate([tail.astype(x.dtype), x], axis=1)
    y = mx.conv1d(inputs, weight[..., None], groups=weight.shape[0])
    y = y if bias is None else y + bias
    return y if activation is None else ACT[activation](y), inputs[:, x.shape[1] :]


def tails(x: mx.array, tail: mx.array) -> mx.array:
    """The tail after every token: x [B, T, C], tail [B, K-1, C] -> [B, T, K-1, C]."""
    inputs, size = mx.concatenate([tail.astype(x.dtype), x], axis=1), tail.shape[1]
    return mx.stack([inputs[:, t + 1 : t + 1 + size] for t in range(x.shape[1])], axis=1)
