"""LFM2 and its mixture: gated short convolutions with a few layers of grouped-query attention, SwiGLU or experts.

LFM2 report 2025. Queries and keys have a norm for each head. In the mixture the first layers stay dense; the router
is a sigmoid, with a bias that only chooses.
"""

from dataclasses import dataclass
from typing import Any

from ..kernels.pages import Pages
from ..kernels.router import Routing
from . import rope
from .checkpoint import Tensors
from .moe import Experts, Moe, Router
from .parts import Attention, Decoder, Mlp, PreNormBlock
from .short_conv import ShortConv, conv_state
from .state import Recurrent


@dataclass(frozen=True)
class Config:
    attends: tuple[bool, ...]  # of each layer; the others convolve
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    vocab: int
    tied: bool
    rope: dict[str, Any]
    trained: int
    dense: int  # so many layers before the first with experts
    experts: int
    routing: Routing | None

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Config":
        attends = attention_layers(config)
        heads = config["num_attention_heads"]
        return cls(
            attends=attends,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            eps=config.get("norm_eps", 1e-5),
            vocab=config["vocab_size"],
            tied=config.get("tie_embedding", config.get("tie_word_embeddings", True)),
            rope=rope.parameters({"rope_theta": 1_000_000.0, **config}),
            trained=config.get("max_position_embeddings") or 128_000,
            dense=config.get("num_dense_layers", 2) if "num_experts" in config else len(attends),
            experts=config.get("num_experts", 0),
            routing=routing(config) if "num_experts" in config else None,
        )


def attention_layers(config: dict[str, Any]) -> tuple[bool, ...]:
    layers = config["num_hidden_layers"]
    if config.get("layer_types") is not None:
        return tuple(kind == "full_attention" for kind in config["layer_types"])
    chosen = config.get("full_attn_idxs")
    return tuple(chosen is None or i in chosen for i in range(layers))


def routing(config: dict[str, Any]) -> Routing:
    return Routing(
        config["num_experts_per_tok"], "sigmoid", normalise=config.get("norm_topk_prob", True), eps=1e-6,
        scale=config.get("routed_scaling_factor", 1.0),
    )  # fmt: skip


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(config)
    embedding = tensors.linear("model.embed_tokens")
    if c.tied:
        tensors.drop(["lm_head.weight", "lm_head.scales", "lm_head.biases"])
    return Decoder(
        embedding=embedding,
        blocks=[block(c, tensors, i) for i in range(len(c.attends))],
        norm=tensors.norm("model.embedding_norm", c.eps),  # the last norm, in spite of its name
        head=embedding if c.tied else tensors.linear("lm_head"),
        vocab=c.vocab,
        context=c.trained,
        dtype=tensors.dtype,
    )


def block(c: Config, tensors: Tensors, i: int) -> PreNormBlock:
    name = f"model.layers.{i}"
    return PreNormBlock(
        mixer=attention(c, tensors, f"{name}.self_attn") if c.attends[i] else conv(tensors, f"{name}.conv"),
        mlp=(mlp if i < c.dense else moe)(c, tensors, f"{name}.feed_forward"),
        mixer_norm=tensors.norm(f"{name}.operator_norm", c.eps),
        mlp_norm=tensors.norm(f"{name}.ffn_norm", c.eps),
    )


def attention(c: Config, tensors: Tensors, name: str) -> Attention:
    return Attention(
        qkv=tensors.joined(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"),
        o=tensors.linear(f"{name}.out_proj"),
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        scale=c.head_dim**-0.5,
        rope=rope.rope(c.head_dim, c.rope, c.trained),
        pages=Pages(c.kv_heads, c.head_dim, tensors.dtype),
        q_norm=tensors.norm(f"{name}.q_layernorm", c.eps),
        k_norm=tensors.norm(f"{name}.k_layernorm", c.eps),
    )


def conv(tensors: Tensors, name: str) -> ShortConv:
    taps = tensors.conv(f"{name}.conv")
    return ShortConv(
        into=tensors.linear(f"{name}.in_proj"),
        out=tensors.linear(f"{name}.out_proj"),
        taps=taps,
        bias=tensors.take(f"{name}.conv.bias") if f"{name}.conv.bias" in tensors else None,
        state=Recurrent({"conv": conv_state(taps, tensors.dtype)}),
    )


def mlp(c: Config, tensors: Tensors, name: str) -> Mlp:
    """w1, w3, w2; MLX's checkpoints of the mixture call them gate_proj, up_proj, down_proj."""
    gate, up, down = (
        ("gate_proj", "up_proj", "down_proj") if f"{name}.gate_proj.weight" in tensors else ("w1", "w3", "w2")
    )
    return Mlp(tensors.joined(f"{name}.{gate}", f"{name}.{up}"), tensors.linear(f"{name}.{down}"), "silu")


def moe(c: Config, tensors: Tensors, name: str) -> Moe:
    bias = f"{name}.expert_bias"
    router = Router(
        tensors.linear(f"{name}.gate"), c.routing, bias=tensors.take_float32(bias) if bias in tensors else None
    )
    return Moe(
        router,
        Experts(tensors.experts(name, "gate", "up", count=c.experts), tensors.experts(name, "down", count=c.experts)),
    )
