"""Gemma 3 (text): sandwich norms, GeGLU, per-head norms, five sliding layers to one full, two RoPE bases.

Gemma 3 report 2025. Norm weights are stored minus one; embeddings are scaled by sqrt(D). The text part of the
multimodal `gemma3` checkpoints is the same model.
"""

from dataclasses import dataclass
from typing import Any

from ..kernels.pages import Pages
from . import rope
from .checkpoint import Tensors
from .gemma2 import sandwich
from .parts import Attention, Decoder, SandwichBlock


@dataclass(frozen=True)
class Config:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    vocab: int
    scale: float
    windows: tuple[int | None, ...]
    local_rope: dict[str, Any]
    global_rope: dict[str, Any]
    trained: int
    cap: float | None

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Config":
        get = {**DEFAULTS, **config}.__getitem__
        layers = get("num_hidden_layers")
        return cls(
            layers=layers,
            hidden=get("hidden_size"),
            heads=get("num_attention_heads"),
            kv_heads=get("num_key_value_heads"),
            head_dim=get("head_dim"),
            eps=get("rms_norm_eps"),
            vocab=get("vocab_size"),
            scale=get("query_pre_attn_scalar") ** -0.5,
            windows=windows({**DEFAULTS, **config}, layers),
            local_rope=local_rope(config),
            global_rope=rope.parameters({"rope_theta": 1_000_000.0, **config}, "full_attention"),
            trained=get("max_position_embeddings"),
            cap=config.get("final_logit_softcapping"),
        )


# Published multimodal configs leave out whatever equals the defaults of the reference implementation.
DEFAULTS = {
    "hidden_size": 2304, "num_hidden_layers": 26, "intermediate_size": 9216, "num_attention_heads": 8, "head_dim": 256,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 262208, "query_pre_attn_scalar": 256,
    "sliding_window": 4096, "sliding_window_pattern": 6, "max_position_embeddings": 131072,
}  # fmt: skip


def local_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Sliding layers: a base of their own, and no scaling."""
    if "sliding_attention" in (config.get("rope_parameters") or {}):
        return rope.parameters(config, "sliding_attention")
    return {"rope_theta": config.get("rope_local_base_freq", 10_000.0), "rope_type": "default"}


def windows(config: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    kinds = config.get("layer_types")
    if kinds is None:
        period = config.get("_sliding_window_pattern") or config["sliding_window_pattern"]
        kinds = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]
    return tuple(config["sliding_window"] if kind == "sliding_attention" else None for kind in kinds)


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(config)
    embedding = tensors.linear("model.embed_tokens")
    blocks = [block(c, tensors, i) for i in range(c.layers)]
    return Decoder(
        embedding=embedding,
        blocks=blocks,
        norm=tensors.norm("model.norm", c.eps, offset=1.0),
        head=tensors.linear("lm_head") if "lm_head.weight" in tensors else embedding,
        vocab=c.vocab,
        context=c.trained,
        dtype=tensors.dtype,
        embed_scale=c.hidden**0.5,
        cap=c.cap,
    )


def block(c: Config, tensors: Tensors, i: int) -> SandwichBlock:
    return sandwich(tensors, i, c.eps, attention(c, tensors, f"model.layers.{i}.self_attn", c.windows[i]))


def attention(c: Config, tensors: Tensors, name: str, window: int | None) -> Attention:
    params = c.global_rope if window is None else c.local_rope
    return Attention(
        qkv=tensors.joined(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"),
        o=tensors.linear(f"{name}.o_proj"),
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        scale=c.scale,
        rope=rope.rope(c.head_dim, params, c.trained),
        pages=Pages(c.kv_heads, c.head_dim, tensors.dtype, window),
        q_norm=tensors.norm(f"{name}.q_norm", c.eps, offset=1.0),
        k_norm=tensors.norm(f"{name}.k_norm", c.eps, offset=1.0),
    )
