"""The gated delta net as a layer's mixer: a short convolution, a state for each head, a gated norm.

    [q, k, v | z | b | a] = W_in x;   q, k, v = silu(conv(q, k, v));   out = W_out (norm(gated_delta(q, k, v, a, b)) silu(z))

Yang, Kautz & Hatamizadeh 2024. It remembers the convolution's last inputs and the float32 states of its heads.
"""

from dataclasses import dataclass

import mlx.core as mx

from ..kernels.columns import split
from ..kernels.gated_delta import gated_delta
from ..kernels.linear import Weight, Weights, linear
from ..kernels.norm import Norm
from ..kernels.short_conv import short_conv
from .parts import tail
from .state import Recurrent


@dataclass(frozen=True)
class Shape:
    """k_heads of keys and queries, each for v_heads / k_heads neighbouring heads of values."""

    k_heads: int
    v_heads: int
    k_dim: int
    v_dim: int

    @property
    def k_width(self) -> int:
        return self.k_heads * self.k_dim

    @property
    def v_width(self) -> int:
        return self.v_heads * self.v_dim

    @property
    def conv_width(self) -> int:
        return 2 * self.k_width + self.v_width


@dataclass(frozen=True)
class DeltaNet:
    """into [conv_width + v_width + 2 v_heads, D]; taps [conv_width, K]; rate, dt_bias [v_heads] float32."""

    shape: Shape
    into: Weights
    out: Weight
    taps: mx.array
    rate: mx.array
    dt_bias: mx.array
    norm: Norm
    state: Recurrent

    norms = {"into": None}

    def __call__(self, x, step, norm, residual=None, last=False):
        s = self.shape
        row = linear(x, self.into, norm=norm)
        mixed, z, b, a = split(row, [s.conv_width, s.v_width, s.v_heads, s.v_heads])
        before = self.state.read(step)
        qkv, conv, conv_trail = short_conv(mixed, before["conv"], self.taps, activation="silu", keep=step.keep)
        y, heads, trail = gated_delta(
            qkv, a, b, before["heads"], rate=self.rate, dt_bias=self.dt_bias, keep=step.keep, gate=z, norm=self.norm
        )  # fmt: skip
        self.state.write(
            step, {"conv": conv, "heads": heads}, {"conv": conv_trail, "heads": trail} if step.keep else None
        )  # fmt: skip
        return linear(tail(y, last).flatten(-2), self.out, residual=residual)

    @property
    def states(self) -> list[Recurrent]:
        return [self.state]


def state_of(shape: Shape, taps: int, dtype: mx.Dtype) -> Recurrent:
    heads = (shape.v_heads, shape.v_dim, shape.k_dim)
    return Recurrent({"conv": ((taps - 1, shape.conv_width), dtype), "heads": (heads, mx.float32)})
