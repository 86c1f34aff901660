"""A mixture of experts in place of a layer's feed-forward. Shazeer et al. 2017.

Axes: E experts of which K work for a token, F their inner width.
"""

from dataclasses import dataclass

import mlx.core as mx

from ..kernels.experts import experts
from ..kernels.linear import Weight, Weights, linear
from ..kernels.norm import Norm
from ..kernels.router import Routing, route
from .parts import Mlp


@dataclass(frozen=True)
class Router:
    """weight [E, D]; bias [E] is added for choosing only, scale [E] multiplies the weights of the chosen."""

    weight: Weight
    routing: Routing
    bias: mx.array | None = None
    scale: mx.array | None = None

    def __call__(self, x, norm=None):
        """x [..., D] -> indices and weights [..., K]"""
        return route(linear(x, self.weight, norm=norm), self.routing, self.bias, self.scale)


@dataclass(frozen=True)
class Experts:
    """Stacks up [E, 2F, D] (gate over up; or [E, F, D] with `act`) and down [E, D, F]."""

    up: Weights
    down: Weight
    glu: str | None = "silu"
    act: str | None = None

    def __call__(self, x, indices, weights, norm=None, residual=None, beside=None):
        return experts(
            x, indices, weights, self.up, self.down, glu=self.glu, act=self.act, norm=norm, residual=residual, beside=beside
        )  # fmt: skip


@dataclass(frozen=True)
class Moe:
    """The experts' sum, and beside it a shared expert for every token, which may have a gate [1, D]:

    y = sum_k w_k expert_k(x) + sigmoid(gate x) shared(x)
    """

    router: Router
    experts: Experts
    shared: Mlp | None = None
    shared_gate: Weight | None = None

    def __call__(self, x, norm: Norm | None, residual=None):
        beside = None
        if self.shared_gate is not None:
            beside = self.shared(x, norm), linear(x, self.shared_gate, norm=norm)
        elif self.shared is not None:
            residual = self.shared(x, norm, residual)
        indices, weights = self.router(x, norm)
        return self.experts(x, indices, weights, norm, residual, beside)
