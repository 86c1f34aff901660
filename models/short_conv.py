"""A gated short convolution as a layer's mixer: no keys and values, only the last few inputs.

    [b | c | h] = W_in x;   out = W_out (c * conv(b * h))

LFM2 report 2025.
"""

from dataclasses import dataclass

import mlx.core as mx

from ..kernels.linear import Weight, linear
from ..kernels.short_conv import gated_short_conv
from .parts import tail
from .state import Recurrent


@dataclass(frozen=True)
class ShortConv:
    """taps [D, K], bias [D] or None."""

    into: Weight
    out: Weight
    taps: mx.array
    bias: mx.array | None
    state: Recurrent

    norms = {"into": None}

    def __call__(self, x, step, norm, residual=None, last=False):
        before = self.state.read(step)["conv"]
        y, after, trail = gated_short_conv(linear(x, self.into, norm=norm), before, self.taps, self.bias, step.keep)
        self.state.write(step, {"conv": after}, {"conv": trail} if step.keep else None)
        return linear(tail(y, last), self.out, residual=residual)

    @property
    def states(self) -> list[Recurrent]:
        return [self.state]


def conv_state(taps: mx.array, dtype: mx.Dtype) -> tuple[tuple[int, ...], mx.Dtype]:
    """Shape and type of what a convolution with `taps` [C, K] remembers."""
    return (taps.shape[1] - 1, taps.shape[0]), dtype
