"""What a decoder is made of. Constructors take numbers and weights, never a config.

Axes: B rows, T new tokens, D model width, H heads, d head_dim, V vocabulary.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import mlx.core as mx

from ..kernels import workspace
from ..kernels.activations import sigmoid_gated, soft_cap
from ..kernels.coding import coding
from ..kernels.embed import embed
from ..kernels.linear import Weight, Weights, linear
from ..kernels.norm import Norm, add_norm, rms_norm
from ..kernels.pages import Pages
from ..kernels.qk_norm_rope import Rope
from ..kernels.self_attention import self_attention
from .rope import DynamicRope
from .state import Memory, Recurrent, Step


class Mixer(Protocol):
    """x [B, T, D] -> [B, T, D], or with `last` [B, 1, D]: the state takes all T tokens, only the last is asked for.

    `states` are the pools that it reads and extends.
    """

    states: list[Pages | Recurrent]

    def __call__(self, x: mx.array, step: Step, norm: Norm, residual: mx.array | None, last: bool) -> mx.array: ...


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention over the pages of one layer.

    gated   the rows [q | k | v] go on with a gate as wide as q, whose sigmoid multiplies what attention gives
    """

    qkv: Weights
    o: Weight
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | DynamicRope | None
    pages: Pages
    cap: float | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    v_norm: Norm | None = None
    gated: bool = False

    norms = {"qkv": None}  # see gains.py
    together = ("q_norm", "k_norm", "v_norm")

    def __call__(self, x, step, norm, residual=None, last=False):
        qkv = linear(x, self.qkv, norm=norm)
        if self.gated:
            qkv, gate = mx.split(qkv, [(self.heads + 2 * self.kv_heads) * self.head_dim], axis=-1)
        rows = step.rows[self.pages.window]
        rope = self.rope.at(tuple(s.end for s in rows.spans)) if isinstance(self.rope, DynamicRope) else self.rope
        o = self_attention(
            qkv, rope, self.pages, rows, heads=self.heads, scale=self.scale, cap=self.cap,
            q_norm=self.q_norm, k_norm=self.k_norm, v_norm=self.v_norm, last=last,
        )  # fmt: skip
        o = sigmoid_gated(o, tail(gate, last)) if self.gated else o
        return linear(o, self.o, residual=residual)

    @property
    def states(self) -> list[Pages]:
        return [self.pages]


@dataclass(frozen=True)
class Mlp:
    """A feed-forward: down(glu(gate(x)) * up(x)), Shazeer 2020; or with `act`, which has no gate, down(act(up(x)))."""

    gate_up: Weights
    down: Weight
    glu: str | None = None
    act: str | None = None

    norms = {"gate_up": None}

    def __call__(self, x, norm, residual=None):
        return linear(linear(x, self.gate_up, norm=norm, glu=self.glu, act=self.act), self.down, residual=residual)


@dataclass(frozen=True)
class PreNormBlock:
    """x + mixer(norm(x)), then x + mlp(norm(x)). Xiong et al. 2020."""

    mixer: Mixer
    mlp: Mlp
    mixer_norm: Norm
    mlp_norm: Norm

    norms = {"mixer": "mixer_norm", "mlp": "mlp_norm"}

    def __call__(self, x, step, last=False):
        x = self.mixer(x, step, norm=self.mixer_norm, residual=tail(x, last), last=last)
        return self.mlp(x, norm=self.mlp_norm, residual=x)

    @property
    def states(self):
        return self.mixer.states


@dataclass(frozen=True)
class SandwichBlock:
    """x + norm(mixer(norm(x))), then the same with the mlp. Gemma 2 and later."""

    mixer: Mixer
    mlp: Mlp
    mixer_norm: Norm
    mixer_post_norm: Norm
    mlp_norm: Norm
    mlp_post_norm: Norm

    norms = {"mixer": "mixer_norm", "mlp": "mlp_norm"}

    def __call__(self, x, step, last=False):
        x = add_norm(tail(x, last), self.mixer(x, step, norm=self.mixer_norm, last=last), self.mixer_post_norm)
        return add_norm(x, self.mlp(x, norm=self.mlp_norm), self.mlp_post_norm)

    @property
    def states(self):
        return self.mixer.states


@dataclass(frozen=True)
class Decoder:
    """tokens -> hidden states -> logits. `embed_scale` multiplies embeddings, `cap` soft-caps logits (both Gemma).

    per_layer   tokens [B, T], their embeddings [B, T, D] -> what each block is given besides, in `Step.per_layer`
    drafter     a model that drafts for this one (gemma4_assistant.py)
    lookup      [V] the token whose rows are looked up for a token: another one for placeholders of images and sound
    """

    embedding: Weight
    blocks: list
    norm: Norm
    head: Weight
    vocab: int
    context: int
    dtype: mx.Dtype
    embed_scale: float | None = None
    cap: float | None = None
    per_layer: Callable[[mx.array, mx.array], mx.array] | None = None
    lookup: mx.array | None = None
    drafter: Any = None

    norms = {"blocks": None, "head": "norm"}

    def __call__(
        self, tokens: mx.array, step: Step, last: bool = False, embeddings: mx.array | None = None
    ) -> mx.array:
        """tokens [B, T] -> hidden [B, T, D] before the last norm; with `last` only the last position's, [B, 1, D].

        embeddings [B, T, D] are taken in place of `embed(tokens)`: images and sound stand there for their placeholders.
        """
        for x in self.stages(tokens, step, last, embeddings):
            pass
        return x

    def stages(
        self, tokens: mx.array, step: Step, last: bool = False, embeddings: mx.array | None = None
    ) -> Iterator[mx.array]:
        """What `__call__` computes, after each block: a caller can look around in between."""
        x = self.embed(tokens) if embeddings is None else embeddings.astype(self.dtype)
        if self.per_layer is not None:
            step = replace(step, per_layer=self.per_layer(self._looked_up(tokens), x))
        space = workspace.Workspace(tokens)
        for i, block in enumerate(self.blocks, 1):
            with workspace.within(space):  # not while the caller looks around, who may run another pass
                x = block(x, step, last=last and i >= self.writers)
            yield x

    def embed(self, tokens: mx.array) -> mx.array:
        """tokens [B, T] -> what the first block reads, [B, T, D]."""
        return embed(self._looked_up(tokens), self.embedding, self.embed_scale, self.dtype)

    def _looked_up(self, tokens):
        return tokens if self.lookup is None else self.lookup[tokens]

    @functools.cached_property
    def writers(self) -> int:
        """Blocks after so many only read states that others wrote: of a prompt they need but its last token."""
        owned = [{id(state) for state in block.states} for block in self.blocks]
        new = [i for i, own in enumerate(owned, 1) if own - set().union(*owned[: i - 1])]
        return max(new, default=0)

    def normed(self, hidden: mx.array) -> mx.array:
        """hidden [..., D] after the last norm: what embeddings are made of."""
        return rms_norm(hidden, self.norm)

    def logits(self, hidden: mx.array) -> mx.array:
        """hidden [..., D] -> [..., V], in the model's dtype."""
        logits = linear(hidden, self.head, norm=self.norm)
        return logits if self.cap is None else soft_cap(logits, self.cap)

    def memory(self) -> Memory:
        return Memory(self.states())

    def pack_kv(self, mode: str, reading: str = "auto") -> None:
        """Hold the keys and values of all layers as `coding` says. Raises ValueError where their heads do not suit it."""
        for pages in self.pages():
            pages.pack(coding(mode, pages.head_dim, reading))

    def pages(self) -> list[Pages]:
        return [state for state in self.states() if isinstance(state, Pages)]

    @functools.cached_property
    def traceable(self) -> bool:
        """A rotation that follows each row's length is computed on the host, so its steps cannot be traced. Asked with
        every step."""
        mixers = [getattr(block, "mixer", None) for block in self.blocks]
        return not any(isinstance(getattr(mixer, "rope", None), DynamicRope) for mixer in mixers)

    def forget(self) -> None:
        """Drop the contents of every layer's state."""
        for state in self.states():
            state.clear()

    def states(self) -> list[Pages | Recurrent]:
        """Of all layers, in order; a block without a mixer has none."""
        return [state for block in self.blocks for state in block.states]

    def weights(self) -> Iterator[list[mx.array]]:
        """All arrays, a group at a time: each block, the embedding, the head. Read one by one they keep the peak low.

        A block's joined matrices are held twice meanwhile, so what is large and never joined comes last.
        """
        for block in self.blocks:
            yield arrays_of(block)
        yield [*self.embedding.arrays, *arrays_of(self.per_layer), *arrays_of(self.lookup)]
        yield [*arrays_of(self.norm), *(self.head.arrays if self.head is not self.embedding else [])]
        yield self.drafter.arrays if self.drafter else []


def tail(x: mx.array, last: bool) -> mx.array:
    return x[:, -1:] if last else x


def arrays_of(part) -> list[mx.array]:
    """Every array inside a (nested) dataclass of parts."""
    if isinstance(part, mx.array):
        return [part]
    if isinstance(part, Weight):
        return part.arrays
    if isinstance(part, (tuple, list)):
        return [array for item in part for array in arrays_of(item)]
    if hasattr(part, "__dataclass_fields__"):
        return [array for name in part.__dataclass_fields__ for array in arrays_of(getattr(part, name))]
    return []
