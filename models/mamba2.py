"""Mamba-2 as a layer's mixer: a short convolution, a recurrence with a matrix for each head, a gated norm.

    [gate | h, b, c | dt] = W_in x;   h, b, c = silu(conv(h, b, c));   out = W_out norm(mamba2(h, dt, b, c) * silu(gate))

Dao & Gu 2024. It remembers the convolution's last inputs and the float32 states of its heads.
"""

from dataclasses import dataclass

import mlx.core as mx

from ..kernels import columns
from ..kernels.columns import split
from ..kernels.gated_group_norm import gated_group_norm
from ..kernels.linear import Weight, linear
from ..kernels.mamba2 import mamba2
from ..kernels.norm import Norm
from ..kernels.short_conv import short_conv
from .parts import tail
from .short_conv import conv_state
from .state import Recurrent


@dataclass(frozen=True)
class Shape:
    heads: int
    head_dim: int
    groups: int
    state_size: int

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def conv_width(self) -> int:
        return self.width + 2 * self.groups * self.state_size


@dataclass(frozen=True)
class Mamba2:
    """taps [conv_width, K]; a (negative), d, dt_bias [heads] float32; limit clips dt after its softplus."""

    shape: Shape
    into: Weight
    out: Weight
    taps: mx.array
    bias: mx.array | None
    a: mx.array
    d: mx.array
    dt_bias: mx.array
    limit: tuple[float, float]
    norm: Norm
    state: Recurrent

    norms = {"into": None}

    def __call__(self, x, step, norm, residual=None, last=False):
        s = self.shape
        gate, mixed, dt = split(linear(x, self.into, norm=norm), [s.width, s.conv_width, s.heads])
        before = self.state.read(step)
        xbc, conv, conv_trail = short_conv(mixed, before["conv"], self.taps, self.bias, "silu", step.keep)
        y, heads, trail = mamba2(
            xbc, dt, before["heads"], a=self.a, d=self.d, dt_bias=self.dt_bias, limit=self.limit, keep=step.keep
        )  # fmt: skip
        self.state.write(
            step, {"conv": conv, "heads": heads}, {"conv": conv_trail, "heads": trail} if step.keep else None
        )  # fmt: skip
        y = gated_group_norm(tail(y.flatten(-2), last), columns.tail(gate, last), self.norm, s.groups)
        return linear(y, self.out, residual=residual)

    @property
    def states(self) -> list[Recurrent]:
        return [self.state]


def state_of(shape: Shape, taps: mx.array, dtype: mx.Dtype) -> Recurrent:
    heads = (shape.heads, shape.head_dim, shape.state_size)
    return Recurrent({"conv": conv_state(taps, dtype), "heads": (heads, mx.float32)})
