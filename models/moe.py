"""A mixture of experts in place of a layer's feed-forward. Shazeer et al. 2017.

Axes: E experts of which K work for a token, F their inner width.
"""

from dataclasses import dataclass

import mlx.core as mx

from ..kernels.columns import split
from ..kernels.experts import experts
from ..kernels.linear import Weight, Weights, linear
from ..kernels.norm import Norm
from ..kernels.router import Routed, Routing, route
from .parts import Mlp


@dataclass(frozen=True)
class Router:
    """weight [E, D]; bias [E] is added for choosing only, scale [E] multiplies the weights of the chosen.

    more   rows of the weight behind those of the experts: what else is asked of the same x
    """

    weight: Weight
    routing: Routing
    bias: mx.array | None = None
    scale: mx.array | None = None
    more: int = 0

    norms = {"weight": None}

    def __call__(self, x, norm=None) -> Routed:
        """x [..., D] -> indices and weights [..., K]"""
        return self.chosen(linear(x, self.weight, norm=norm))[0]

    def chosen(self, logits):
        """logits [..., E + more] -> indices and weights [..., K], and the columns [..., more]."""
        experts, rest = split(logits, [self.weight.rows - self.more, self.more])
        return route(experts, self.routing, self.bias, self.scale), rest


@dataclass(frozen=True)
class Experts:
    """Stacks up [E, 2F, D] (gate over up; or [E, F, D] with `act`) and down [E, D, F]."""

    up: Weights
    down: Weight
    glu: str | None = "silu"
    act: str | None = None

    norms = {"up": None}

    def __call__(self, x, routed, norm=None, residual=None, beside=None):
        return experts(
            x, routed, self.up, self.down, glu=self.glu, act=self.act, norm=norm, residual=residual, beside=beside
        )  # fmt: skip


@dataclass(frozen=True)
class Moe:
    """The experts' sum, and beside it a shared expert for every token, which may have a gate [1, D]:

    y = sum_k w_k expert_k(x) + sigmoid(gate x) shared(x)

    The gate is a matrix of its own, or the router has it as its one row more.
    """

    router: Router
    experts: Experts
    shared: Mlp | None = None
    shared_gate: Weight | None = None

    norms = {"router": None, "experts": None, "shared": None, "shared_gate": None}

    def __call__(self, x, norm: Norm | None, residual=None):
        routed, rest = self.router.chosen(linear(x, self.router.weight, norm=norm))
        gate = rest if self.shared_gate is None else linear(x, self.shared_gate, norm=norm)
        beside = None
        if self.shared is not None and gate.shape[-1]:
            beside = self.shared(x, norm), gate
        elif self.shared is not None:
            residual = self.shared(x, norm, residual)
        return self.experts(x, routed, norm, residual, beside)
