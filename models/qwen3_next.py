"""Qwen 3 Next, 3.5 and 3.6 (text): three layers with a gated delta net to one with gated attention, dense or mixed.

Qwen3-Next blog post 2025; Qwen3.5 model cards 2026. Queries come with a gate, whose sigmoid multiplies what attention
gives; a quarter of each head turns. Position ids of images (mrope) are those of the text where there is only text.
Norm weights are stored minus one in Hugging Face's files, and whole in MLX's, which also turn the convolution's weight.
"""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ..kernels.linear import Weight, joined, rows_of
from ..kernels.pages import Pages
from . import rope
from .checkpoint import Tensors
from .delta_net import DeltaNet, Shape, state_of
from .llama import mlp
from .moe import Moe
from .parts import Attention, Decoder, Mlp, PreNormBlock
from .qwen3_moe import Mixture, mixture

# What configs leave out where it equals the defaults of the reference implementation.
DEFAULTS = {
    "head_dim": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "norm_topk_prob": True,
    "full_attention_interval": 4, "partial_rotary_factor": 0.25, "max_position_embeddings": 32768,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    vocab: int
    tied: bool
    full: tuple[bool, ...]
    delta: Shape
    taps: int
    mixture: Mixture
    rope: dict[str, Any]
    turned: int
    trained: int
    context: int

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Config":
        config = {**DEFAULTS, **config}
        params = rope_of(config)
        return cls(
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            eps=config["rms_norm_eps"],
            vocab=config["vocab_size"],
            tied=config["tie_word_embeddings"],
            full=full_layers(config),
            delta=Shape(
                k_heads=config["linear_num_key_heads"], v_heads=config["linear_num_value_heads"],
                k_dim=config["linear_key_head_dim"], v_dim=config["linear_value_head_dim"],
            ),
            taps=config["linear_conv_kernel_dim"],
            mixture=Mixture.read(config),
            rope=params,
            turned=int(config["head_dim"] * params["partial_rotary_factor"]),
            trained=config["max_position_embeddings"],
            context=rope.context(config, params),
        )  # fmt: skip


def full_layers(config: dict[str, Any]) -> tuple[bool, ...]:
    """Which layers have attention: `layer_types` decides where given, else the last of every `full_attention_interval`."""
    kinds, every, layers = config.get("layer_types"), config["full_attention_interval"], config["num_hidden_layers"]
    if kinds:
        return tuple(kind == "full_attention" for kind in kinds[:layers])
    return tuple((i + 1) % every == 0 for i in range(layers))


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    params = {"partial_rotary_factor": config["partial_rotary_factor"], **rope.parameters(config)}
    return {**params, "rope_type": "default"} if params["rope_type"] == "mrope" else params


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(config)
    offset = 1.0 if norms_are_stored_minus_one(tensors) else 0.0
    embedding = tensors.linear("model.embed_tokens")
    if c.tied:
        tensors.drop(["lm_head.weight", "lm_head.scales", "lm_head.biases"])
    return Decoder(
        embedding=embedding,
        blocks=[block(c, tensors, i, offset) for i in range(len(c.full))],
        norm=tensors.norm("model.norm", c.eps, offset),
        head=embedding if c.tied else tensors.linear("lm_head"),
        vocab=c.vocab,
        context=c.context,
        dtype=tensors.dtype,
    )


def norms_are_stored_minus_one(tensors: Tensors) -> bool:
    """MLX's converter adds the one and turns the convolution's weight, both or neither: [C, 1, K] becomes [C, K, 1]."""
    weights = (array for name, array in tensors.left.items() if name.endswith(".linear_attn.conv1d.weight"))
    return all(array.shape[-1] != 1 for array in weights)


def block(c: Config, tensors: Tensors, i: int, offset: float) -> PreNormBlock:
    name = f"model.layers.{i}"
    return PreNormBlock(
        mixer=(
            attention(c, tensors, f"{name}.self_attn", offset)
            if c.full[i]
            else delta_net(c, tensors, f"{name}.linear_attn")
        ),
        mlp=feed_forward(c.mixture, tensors, f"{name}.mlp", c.mixture.layers[i]),
        mixer_norm=tensors.norm(f"{name}.input_layernorm", c.eps, offset),
        mlp_norm=tensors.norm(f"{name}.post_attention_layernorm", c.eps, offset),
    )


def feed_forward(m: Mixture, tensors: Tensors, name: str, sparse: bool) -> Mlp | Moe:
    if not sparse:
        return mlp(tensors, name, "silu")
    shared, gate = mlp(tensors, f"{name}.shared_expert", "silu"), tensors.linear(f"{name}.shared_expert_gate")
    moe = replace(mixture(m.routing, tensors, name, m.experts), shared=shared)
    both = joined([moe.router.weight, gate])
    if isinstance(both, tuple):
        return replace(moe, shared_gate=gate)
    return replace(moe, router=replace(moe.router, weight=both, more=1))


def attention(c: Config, tensors: Tensors, name: str, offset: float) -> Attention:
    q, gate = parted(tensors.linear(f"{name}.q_proj"), c.heads, (c.head_dim, c.head_dim))
    return Attention(
        qkv=joined([q, tensors.linear(f"{name}.k_proj"), tensors.linear(f"{name}.v_proj"), gate]),
        o=tensors.linear(f"{name}.o_proj"),
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        scale=c.head_dim**-0.5,
        rope=rope.rope(c.turned, c.rope, c.trained),
        pages=Pages(c.kv_heads, c.head_dim, tensors.dtype),
        q_norm=tensors.norm(f"{name}.q_norm", c.eps, offset),
        k_norm=tensors.norm(f"{name}.k_norm", c.eps, offset),
        gated=True,
    )


def delta_net(c: Config, tensors: Tensors, name: str) -> DeltaNet:
    return DeltaNet(
        shape=c.delta,
        into=joined(delta_inputs(c.delta, tensors, name)),
        out=tensors.linear(f"{name}.out_proj"),
        taps=tensors.conv(f"{name}.conv1d"),
        rate=mx.exp(tensors.take_float32(f"{name}.A_log")),
        dt_bias=tensors.take_float32(f"{name}.dt_bias"),
        norm=tensors.norm(f"{name}.norm", c.eps),
        state=state_of(c.delta, c.taps, tensors.dtype),
    )


def delta_inputs(s: Shape, tensors: Tensors, name: str) -> list[Weight]:
    """q, k and v; z; b; a. Qwen 3 Next keeps q, k, v and z of a head together, and b and a, 3.5 keeps them apart."""
    if f"{name}.in_proj_qkvz.weight" not in tensors:
        return [tensors.linear(f"{name}.in_proj_{part}") for part in ("qkv", "z", "b", "a")]
    values, each = s.v_width // s.k_heads, s.v_heads // s.k_heads
    qkvz = parted(tensors.linear(f"{name}.in_proj_qkvz"), s.k_heads, (s.k_dim, s.k_dim, values, values))
    return qkvz + parted(tensors.linear(f"{name}.in_proj_ba"), s.k_heads, (each, each))


def parted(weight: Weight, heads: int, sizes: tuple[int, ...]) -> list[Weight]:
    """The rows of a matrix that keeps `sizes` rows of several parts for each head in turn, as a matrix for each part."""
    rows = mx.arange(heads * sum(sizes)).reshape(heads, -1)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    picked = [part.flatten() for part in mx.split(rows, ends, axis=1)]
    return [replace(rows_of(weight, p), bias=None if weight.bias is None else weight.bias[p]) for p in picked]
