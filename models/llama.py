"""Llama 1 to 3 and Mistral: pre-norm blocks of grouped-query attention and SwiGLU.

Llama 3 report 2024; Mistral 7B 2023 (sliding window). Biases and sliding layers only where the config has them.
"""

from dataclasses import dataclass
from typing import Any

from ..kernels.pages import Pages
from . import rope
from .checkpoint import Tensors
from .parts import Attention, Decoder, Mlp, PreNormBlock


@dataclass(frozen=True)
class Config:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    vocab: int
    tied: bool
    windows: tuple[int | None, ...]
    rope: dict[str, Any]
    trained: int
    context: int
    interleaved: bool

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Config":
        layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
        params = rope.parameters(config)
        return cls(
            layers=layers,
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            eps=config["rms_norm_eps"],
            vocab=config["vocab_size"],
            tied=config.get("tie_word_embeddings", True),
            windows=windows(config, layers),
            rope=params,
            trained=config.get("max_position_embeddings") or 8192,
            context=rope.context(config, params),
            interleaved=config.get("rope_traditional", False),
        )


def windows(config: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    """The attention window of each layer: `layer_types` decides where given, else all layers slide or none."""
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    kinds = config.get("layer_types")
    if kinds is None:
        return (window,) * layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(config)
    return decoder(c, tensors, [block(c, tensors, i) for i in range(c.layers)])


def decoder(c: Config, tensors: Tensors, blocks: list) -> Decoder:
    embedding = tensors.linear("model.embed_tokens")
    if c.tied:
        tensors.drop(["lm_head.weight", "lm_head.scales", "lm_head.biases"])
    return Decoder(
        embedding=embedding,
        blocks=blocks,
        norm=tensors.norm("model.norm", c.eps),
        head=embedding if c.tied else tensors.linear("lm_head"),
        vocab=c.vocab,
        context=c.context,
        dtype=tensors.dtype,
    )


def block(c: Config, tensors: Tensors, i: int, qk_norm: bool = False, feed_forward=None) -> PreNormBlock:
    """One layer; `feed_forward` is what stands in place of the MLP."""
    name = f"model.layers.{i}"
    return PreNormBlock(
        mixer=attention(c, tensors, f"{name}.self_attn", c.windows[i], qk_norm),
        mlp=feed_forward or mlp(tensors, f"{name}.mlp", "silu"),
        mixer_norm=tensors.norm(f"{name}.input_layernorm", c.eps),
        mlp_norm=tensors.norm(f"{name}.post_attention_layernorm", c.eps),
    )


def attention(c: Config, tensors: Tensors, name: str, window: int | None, qk_norm: bool) -> Attention:
    return Attention(
        qkv=tensors.joined(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"),
        o=tensors.linear(f"{name}.o_proj"),
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        scale=c.head_dim**-0.5,
        rope=rope.rope(c.head_dim, c.rope, c.trained, c.interleaved),
        pages=Pages(c.kv_heads, c.head_dim, tensors.dtype, window),
        q_norm=tensors.norm(f"{name}.q_norm", c.eps) if qk_norm else None,
        k_norm=tensors.norm(f"{name}.k_norm", c.eps) if qk_norm else None,
    )


def mlp(tensors: Tensors, name: str, glu: str) -> Mlp:
    return Mlp(tensors.joined(f"{name}.gate_proj", f"{name}.up_proj"), tensors.linear(f"{name}.down_proj"), glu)
