"""The assistant of Gemma 4: a drafter of a few layers that has no keys of its own and reads those of its target.

    x = pre [embed(token) | h]          the target's embedding, and what the last norm of the target gave a token before
    x = layers(x)                       queries only, over the keys and values of the target's last layer of the same kind
    h' = post norm(x)                   stands for the target's hidden state when the next token is drafted
    token' = argmax head(norm(x))

All drafts of a round have the position of the token that they follow, and see what is cached. With ordered embeddings the
head looks at the tokens of a few clusters only: those whose centroids score highest. Google 2026.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..kernels.embed import embed
from ..kernels.linear import Weight, linear
from ..kernels.norm import Norm, rms_norm
from ..kernels.pages import Pages
from . import DRAFTERS, checkpoint, gemma4, rope
from .checkpoint import CheckpointError, Tensors
from .gains import with_gains
from .gemma4_parts import Block, DenseBesideExperts, SharedAttention
from .llama import mlp
from .parts import Decoder, arrays_of
from .state import Step

BLOCKS = ((56, 8), (36, 4), (0, 2))  # layers of the target, tokens of a round; measured by mlx-serve on E2B, E4B and 31B
BLOCK_OF_MIXTURE = 4


@dataclass(frozen=True)
class Clusters:
    """centroids [C, D] of the tokens' embeddings; `tokens` [C, V / C] of each; the `top` best are looked at."""

    centroids: Weight
    tokens: mx.array
    top: int

    def near(self, x: mx.array) -> mx.array:
        """x [B, D] -> [B, top V / C] tokens."""
        scores = linear(x, self.centroids)
        best = mx.argpartition(-scores, self.top - 1, axis=-1)[:, : self.top]
        return self.tokens[best].flatten(1)


@dataclass(frozen=True)
class Drafter:
    """block  tokens that a round is about: the newest one and those that are drafted
    pays   for most targets; where verifying a token costs as much as decoding one, as in a mixture, it does not
    """

    target: Decoder = field(repr=False)
    pre: Weight
    blocks: list[Block]
    norm: Norm
    post: Weight
    head: Weight
    clusters: Clusters | None
    block: int
    pays: bool

    norms = {"blocks": None}

    def __call__(self, tokens: mx.array, hidden: mx.array, step: Step, count: int) -> mx.array:
        """tokens [B], the newest; hidden [B, 1, D] of the tokens before them, before the target's last norm ->
        [B, count] uint32. step: where the rows stand, as `Memory.behind` says; it is only read.
        """
        hidden, drafts = self.target.normed(hidden), []
        for _ in range(count):
            x, hidden = self.forward(tokens, hidden, step)
            tokens = self.best(x[:, 0])
            drafts.append(tokens)
        return mx.stack(drafts, axis=1)

    def forward(self, tokens: mx.array, hidden: mx.array, step: Step) -> tuple[mx.array, mx.array]:
        """tokens [B], hidden [B, 1, D] -> what the head reads [B, 1, d], and the next hidden [B, 1, D]."""
        x = linear(mx.concatenate([self.target.embed(tokens[:, None]), hidden], axis=-1), self.pre)
        for block in self.blocks:
            x = block(x, step)
        x = rms_norm(x, self.norm)
        return x, linear(x, self.post)

    def best(self, x: mx.array) -> mx.array:
        """x [B, D] -> tokens [B] uint32."""
        if self.clusters is None:
            return mx.argmax(linear(x, self.head), axis=-1)
        near = self.clusters.near(x)
        scores = (embed(near, self.head) @ x[:, :, None])[:, :, 0]
        found = mx.argmax(scores, axis=-1, keepdims=True)
        return mx.take_along_axis(near, found, axis=1)[:, 0].astype(mx.uint32)

    @property
    def arrays(self) -> list[mx.array]:
        return arrays_of((self.pre, self.blocks, self.norm, self.post, self.head, self.clusters))


def load(folder: Path, target: Decoder, block: int | None = None) -> Drafter:
    """The drafter of a checkpoint folder, its weights read. block: tokens of a round; None: what suits the target.

    Raises CheckpointError for another architecture, and for a drafter of another target.
    """
    config = checkpoint.read_config(folder)
    if config.get("model_type") not in DRAFTERS:
        raise CheckpointError(
            f"{folder} holds a model of the type {config.get('model_type')!r}; a drafter is of the type {' or '.join(DRAFTERS)}"
        )
    tensors = checkpoint.load(folder)
    drafter = build(config, tensors, target, block or block_of(target))
    tensors.close()
    drafter = with_gains(drafter)
    mx.eval(drafter.arrays)
    return drafter


def block_of(target: Decoder) -> int:
    if is_mixture(target):
        return BLOCK_OF_MIXTURE
    return next(block for layers, block in BLOCKS if len(target.blocks) >= layers)


def is_mixture(target: Decoder) -> bool:
    """Verifying costs such a target more: each token has experts of its own."""
    return any(isinstance(block.mlp, DenseBesideExperts) for block in target.blocks)


def build(config: dict[str, Any], tensors: Tensors, target: Decoder, block: int) -> Drafter:
    check_target(config, target)
    c = gemma4.Config.read(checkpoint.text_config(config))
    check_equal("vocabulary", c.vocab, target.vocab, "tokens")
    tensors.drop(["lm_head.weight"])
    return Drafter(
        target=target,
        pre=tensors.linear("pre_projection"),
        blocks=[layer(c, tensors, i, target) for i in range(len(c.layers))],
        norm=tensors.norm("model.norm", c.eps),
        post=tensors.linear("post_projection"),
        head=tensors.linear("model.embed_tokens"),
        clusters=clusters(config, tensors) if config.get("use_ordered_embeddings") else None,
        block=block,
        pays=not is_mixture(target),
    )


def check_target(config: dict[str, Any], target: Decoder) -> None:
    if not all(isinstance(block, Block) for block in target.blocks):
        raise CheckpointError("the drafter is Gemma 4's, and the model is not: give it a Gemma 4 model, or leave it out")
    check_equal("backbone_hidden_size", config.get("backbone_hidden_size", 1536), target.norm.weight.size, "wide")


def check_equal(what: str, ours: int, theirs: int, unit: str) -> None:
    if ours != theirs:
        raise CheckpointError(
            f"the drafter was made for another model: its {what} is {ours} {unit}, the model's is {theirs}"
        )


def layer(c: gemma4.Config, tensors: Tensors, i: int, target: Decoder) -> Block:
    name = f"model.layers.{i}"
    return Block(
        mixer=attention(c, tensors, i, target),
        mlp=mlp(tensors, f"{name}.mlp", "gelu_tanh"),
        mixer_norm=tensors.norm(f"{name}.input_layernorm", c.eps),
        mixer_post_norm=tensors.norm(f"{name}.post_attention_layernorm", c.eps),
        mlp_norm=tensors.norm(f"{name}.pre_feedforward_layernorm", c.eps),
        mlp_post_norm=tensors.norm(f"{name}.post_feedforward_layernorm", c.eps),
        scalar=tensors.take(f"{name}.layer_scalar"),
    )


def attention(c: gemma4.Config, tensors: Tensors, i: int, target: Decoder) -> SharedAttention:
    name, kind = f"model.layers.{i}.self_attn", c.layers[i]
    pages = pages_of(kind, target)
    check_equal(f"layer {i} has heads that", kind.head_dim, pages.head_dim, "wide")
    if c.heads % pages.kv_heads:
        raise CheckpointError(
            f"the drafter's {c.heads} heads cannot share the {pages.kv_heads} heads that the model's keys have"
        )
    gemma4.drop_keys(tensors, name)
    return SharedAttention(
        q=tensors.linear(f"{name}.q_proj"),
        o=tensors.linear(f"{name}.o_proj"),
        heads=c.heads,
        head_dim=kind.head_dim,
        scale=1.0,
        rope=rope.rope(kind.head_dim, kind.rope, c.context),
        pages=pages,
        q_norm=tensors.norm(f"{name}.q_norm", c.eps),
    )


def pages_of(kind: gemma4.Kind, target: Decoder) -> Pages:
    """Of the target's last layer of the kind: those that share keys name the one that wrote them."""
    found = [block.mixer.pages for block in target.blocks if (block.mixer.pages.window is None) == (kind.window is None)]
    if not found:
        raise CheckpointError(f"the drafter needs {'full' if kind.window is None else 'sliding'} layers; the model has none")
    return found[-1]


def clusters(config: dict[str, Any], tensors: Tensors) -> Clusters:
    count = config.get("num_centroids", 2048)
    tokens = tensors.take("masked_embedding.token_ordering").reshape(count, -1).astype(mx.int32)
    return Clusters(tensors.linear("masked_embedding.centroids"), tokens, config.get("centroid_intermediate_top_k", 32))
