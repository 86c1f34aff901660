"""Which experts a token goes to, and with what weight.

    s_e    = softmax_e(logits) or sigmoid(logits_e)
    chosen = the K largest of s_e + bias_e, in the best groups only where experts come in groups
    w_e    = s_e / (sum over the chosen + eps)  with `normalise`,  then times scale (one number, or one for each expert)

logits [..., E], bias [E] -> indices [..., K] uint32 and weights [..., K] float32, as `Routed`; everything is computed in
float32.
A group's worth is the sum of its two best s_e + bias_e. The order of the K is free: the kernel's is best first.

Shazeer et al. 2017; bias for choosing without touching the weight: Wang et al. 2024; groups: DeepSeek-V3 report 2024.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx

from . import launch, router_kernel
from .columns import Wide


@dataclass(frozen=True)
class Routing:
    """top_k experts of a token; score is "softmax" or "sigmoid"; groups = (all of them, those that may be chosen)."""

    top_k: int
    score: str = "softmax"
    normalise: bool = True
    eps: float = 0.0
    scale: float = 1.0
    groups: tuple[int, int] | None = None


@dataclass(frozen=True)
class Routed:
    """Where tokens go: `indices, weights = routed` are [..., K] uint32 and [..., K] float32.

    arrays  these two; or, as the kernel makes them, one: words [2, ..., K] uint32, the indices and then the weights' bits

    Kernels take the words: each array more costs the host time at every launch. What is made of the other form is made when
    it is asked for, and of the words it is a view.
    """

    arrays: tuple[mx.array, ...]

    def __iter__(self) -> Iterator[mx.array]:
        return iter((self.indices, self.weights))

    @property
    def whole(self) -> bool:
        return len(self.arrays) == 1

    @property
    def indices(self) -> mx.array:
        return self.arrays[0][:1].squeeze(0) if self.whole else self.arrays[0]

    @property
    def weights(self) -> mx.array:
        return self.arrays[0][1:].squeeze(0).view(mx.float32) if self.whole else self.arrays[1]

    @property
    def words(self) -> mx.array:
        return self.arrays[0] if self.whole else mx.stack([self.arrays[0], self.arrays[1].view(mx.uint32)])

    def joined(self) -> "Routed":
        """The same in one array."""
        return Routed((self.words,))

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., K]"""
        return self.arrays[0].shape[1:] if self.whole else self.arrays[0].shape

    @property
    def types(self) -> tuple[mx.Dtype, mx.Dtype]:
        """Of indices and weights."""
        return (mx.uint32, mx.float32) if self.whole else tuple(array.dtype for array in self.arrays)


def route(logits: Wide, routing: Routing, bias: mx.array | None = None, scale: mx.array | None = None) -> Routed:
    """bias [E] is added for choosing only; scale [E] multiplies the weights of the chosen, beside routing.scale."""
    if launch.on_cpu("router"):
        return Routed(reference(logits, routing, bias, scale))
    refusal = router_kernel.covers(logits, routing, bias, scale)
    if launch.uses_kernel("router", router_kernel.case(logits, routing), refusal):
        return Routed((router_kernel.fused(logits, routing, bias, scale),))
    return Routed(reference(logits, routing, bias, scale))


def reference(logits, routing, bias=None, scale=None) -> tuple[mx.array, mx.array]:
    scores = SCORES[routing.score](logits.astype(mx.float32))
    worth = scores if bias is None else scores + bias.astype(mx.float32)
    if routing.groups is not None and routing.groups[0] > 1:
        worth = in_best_groups(worth, *routing.groups)
    indices = mx.argpartition(-worth, routing.top_k - 1, axis=-1)[..., : routing.top_k]
    weights = mx.take_along_axis(scores, indices, axis=-1)
    if routing.normalise:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + routing.eps)
    if scale is not None:
        weights = weights * scale.astype(mx.float32)[indices]
    return indices, weights if routing.scale == 1.0 else weights * routing.scale


SCORES = {"softmax": lambda x: mx.softmax(x, axis=-1), "sigmoid": mx.sigmoid}


def in_best_groups(worth: mx.array, groups: int, allowed: int) -> mx.array:
    """-inf outside of the `allowed` best groups of neighbouring experts."""
    split = mx.unflatten(worth, -1, (groups, -1))
    best = mx.topk(split, min(2, split.shape[-1]), axis=-1).sum(axis=-1)
    refused = mx.argpartition(-best, allowed - 1, axis=-1)[..., allowed:]
    mask = mx.put_along_axis(mx.zeros_like(best), refused, mx.array(-mx.inf), axis=-1)
    return (split + mask[..., None]).flatten(-2)
