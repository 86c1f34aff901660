"""Gemma 2: sandwich norms, GeGLU, soft-capped attention scores and logits, sliding and full layers in turn.

Gemma 2 report 2024. Norm weights are stored minus one; embeddings are scaled by sqrt(D).
"""

from dataclasses import dataclass
from typing import Any

from ..kernels.pages import Pages
from . import rope
from .checkpoint import Tensors
from .llama import mlp
from .parts import Attention, Decoder, SandwichBlock

DEFAULTS = {
    "vocab_size": 256000, "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "head_dim": 256,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "max_position_embeddings": 8192, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    vocab: int
    scale: float
    windows: tuple[int | None, ...]
    rope: dict[str, Any]
    context: int
    score_cap: float | None
    cap: float | None

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Config":
        get = {**DEFAULTS, **config}.get
        return cls(
            hidden=get("hidden_size"),
            heads=get("num_attention_heads"),
            kv_heads=get("num_key_value_heads"),
            head_dim=get("head_dim"),
            eps=get("rms_norm_eps"),
            vocab=get("vocab_size"),
            scale=get("query_pre_attn_scalar") ** -0.5,
            windows=windows(get),
            rope=rope.parameters(config),
            context=get("max_position_embeddings"),
            score_cap=get("attn_logit_softcapping"),
            cap=get("final_logit_softcapping"),
        )


def windows(get) -> tuple[int | None, ...]:
    kinds = get("layer_types") or ["sliding_attention", "full_attention"] * get("num_hidden_layers")
    window = get("sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds[: get("num_hidden_layers")])


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(config)
    embedding = tensors.linear("model.embed_tokens")
    tensors.drop(f"lm_head.{part}" for part in ("weight", "scales", "biases"))  # tied in all of them
    return Decoder(
        embedding=embedding,
        blocks=[block(c, tensors, i) for i in range(len(c.windows))],
        norm=tensors.norm("model.norm", c.eps, offset=1.0),
        head=embedding,
        vocab=c.vocab,
        context=c.context,
        dtype=tensors.dtype,
        embed_scale=c.hidden**0.5,
        cap=c.cap,
    )


def block(c: Config, tensors: Tensors, i: int) -> SandwichBlock:
    return sandwich(tensors, i, c.eps, attention(c, tensors, f"model.layers.{i}.self_attn", c.windows[i]))


def sandwich(tensors: Tensors, i: int, eps: float, mixer: Attention) -> SandwichBlock:
    """Layer i around its attention: what Gemma 2 and 3 have in common."""

    def norm(name):
        return tensors.norm(f"model.layers.{i}.{name}", eps, offset=1.0)

    return SandwichBlock(
        mixer=mixer,
        mlp=mlp(tensors, f"model.layers.{i}.mlp", "gelu_tanh"),
        mixer_norm=norm("input_layernorm"),
        mixer_post_norm=norm("post_attention_layernorm"),
        mlp_norm=norm("pre_feedforward_layernorm"),
        mlp_post_norm=norm("post_feedforward_layernorm"),
    )


def attention(c: Config, tensors: Tensors, name: str, window: int | None) -> Attention:
    return Attention(
        qkv=tensors.joined(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"),
        o=tensors.linear(f"{name}.o_proj"),
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        scale=c.scale,
        rope=rope.rope(c.head_dim, c.rope, c.context),
        pages=Pages(c.kv_heads, c.head_dim, tensors.dtype, window),
        cap=c.score_cap,
    )
