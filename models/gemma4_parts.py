"""What only Gemma 4 is made of: layers that read another's keys, inputs for each layer, a dense MLP beside experts.

Axes: B rows, T new tokens, D model width, L layers, P width of an input for each layer. Gemma 4 2026; the inputs for
each layer and the shared keys are those of Gemma 3n, 2025.
"""

import math
from dataclasses import dataclass

import mlx.core as mx

from ..kernels.activations import GLU, compiled
from ..kernels.attention import attention
from ..kernels.embed import embed
from ..kernels.linear import Weight, linear
from ..kernels.norm import Norm, add_norm, rms_norm
from ..kernels.pages import Pages
from ..kernels.qk_norm_rope import Rope, qk_norm_rope
from .moe import Experts, Router
from .parts import Mlp, SandwichBlock, tail
from .state import Step


@dataclass(frozen=True)
class SharedAttention:
    """Queries of its own over the keys and values that an earlier layer of the same step wrote to `pages`."""

    q: Weight
    o: Weight
    heads: int
    head_dim: int
    scale: float
    rope: Rope
    pages: Pages
    q_norm: Norm | None = None

    norms = {"q": None}

    def __call__(self, x, step, norm, residual=None, last=False):
        x = tail(x, last)
        skipped = step.new - x.shape[1]  # the blocks after the last that writes are only given what is asked for
        q, _, _ = qk_norm_rope(
            linear(x, self.q, norm=norm), step.position + skipped if skipped else step.position, self.rope,
            heads=self.heads, kv_heads=0, head_dim=self.head_dim, q_norm=self.q_norm,
        )  # fmt: skip
        o = attention(q, None, None, self.pages, step.rows[self.pages.window], scale=self.scale)
        return linear(o, self.o, residual=residual)

    @property
    def states(self) -> list[Pages]:
        return [self.pages]


@dataclass(frozen=True)
class PerLayerInputs:
    """A vector for each token and layer, out of a table of its own and out of the token's embedding x:

        (rms_norm(W x / sqrt(D)) + sqrt(P) table[token]) / sqrt(2)

    table [V, L P]; projection W [L P, D]; norm over P. The norm makes the sqrt(D) a matter of its eps: eps D.
    """

    table: Weight
    projection: Weight
    norm: Norm
    layers: int

    def __call__(self, tokens: mx.array, x: mx.array) -> mx.array:
        """tokens [B, T], x [B, T, D] -> [B, T, L, P]"""
        projected = rms_norm(self._split(linear(x, self.projection)), self.norm)
        found = self._split(embed(tokens, self.table)).astype(x.dtype)
        scales = (math.sqrt(found.shape[-1]), math.sqrt(0.5))
        return _scaled_sum(projected, found, *(mx.array(scale, x.dtype) for scale in scales))

    def _split(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (self.layers, -1))


_scaled_sum = compiled(lambda projected, found, scale, share: (projected + found * scale) * share)


@dataclass(frozen=True)
class PerLayer:
    """x + rms_norm(projection(gelu(gate x) * y)), times a scale; y is the layer's own input in `Step.per_layer`."""

    layer: int
    gate: Weight
    projection: Weight
    norm: Norm

    def __call__(self, x: mx.array, step: Step, scale: mx.array) -> mx.array:
        given = step.per_layer[:, -x.shape[1] :, self.layer]
        y = linear(GLU["gelu_tanh"](linear(x, self.gate), given), self.projection)
        return add_norm(x, y, self.norm, scale)


@dataclass(frozen=True)
class DenseBesideExperts:
    """rms_norm(mlp(norm(x))) + rms_norm(experts(rms_norm(x))), the experts chosen from a norm of x of their own."""

    mlp: Mlp
    mlp_post_norm: Norm
    router: Router
    router_norm: Norm
    experts: Experts
    experts_norm: Norm
    experts_post_norm: Norm

    norms = {"mlp": None, "router": "router_norm", "experts": "experts_norm"}

    def __call__(self, x: mx.array, norm: Norm) -> mx.array:
        dense = rms_norm(self.mlp(x, norm=norm), self.mlp_post_norm)
        routed = self.experts(x, self.router(x, self.router_norm), norm=self.experts_norm)
        return add_norm(dense, routed, self.experts_post_norm)


@dataclass(frozen=True)
class Block(SandwichBlock):
    """A sandwich whose result is multiplied by the layer's scalar [1], after the layer's own input if it has one."""

    scalar: mx.array
    per_layer: PerLayer | None = None

    def __call__(self, x, step, last=False):
        x = add_norm(tail(x, last), self.mixer(x, step, norm=self.mixer_norm, last=last), self.mixer_post_norm)
        y = self.mlp(x, norm=self.mlp_norm)
        if self.per_layer is None:
            return add_norm(x, y, self.mlp_post_norm, self.scalar)
        return self.per_layer(add_norm(x, y, self.mlp_post_norm), step, self.scalar)
