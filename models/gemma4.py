"""Gemma 4 (text): E2B, E4B, 12B and 31B, and the mixture 26B-A4B.

Sandwich norms whose weights are stored as they are, attention of scale 1 with norms on queries, keys and values, two
kinds of layers (sliding and full) with head sizes, head counts and RoPE of their own. The last layers may read the
keys and values of the last one of their kind that has its own (`num_kv_shared_layers`), full layers may take their keys
for values (`attention_k_eq_v`). The parts are in gemma4_parts.py.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..kernels.norm import Norm
from ..kernels.pages import Pages
from ..kernels.router import Routing
from . import rope
from .checkpoint import CheckpointError, Tensors
from .gemma4_parts import Block, DenseBesideExperts, PerLayer, PerLayerInputs, SharedAttention
from .llama import mlp
from .moe import Experts, Router
from .parts import Attention, Decoder

SLIDING, FULL = "sliding_attention", "full_attention"
DEFAULTS = {
    "num_hidden_layers": 30, "hidden_size": 2304, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "global_head_dim": 512, "rms_norm_eps": 1e-6, "vocab_size": 262144, "sliding_window": 512, "pad_token_id": 0,
    "max_position_embeddings": 131072, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 0,
}  # fmt: skip
UNIFIED = {"sliding_window": 1024, "max_position_embeddings": 262144, "hidden_size_per_layer_input": 0}  # the 12B
MEDIA = ("image", "video", "audio")
ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}


@dataclass(frozen=True)
class Kind:
    """What sliding layers have in common, and full ones."""

    window: int | None
    kv_heads: int
    head_dim: int
    rope: dict[str, Any]
    k_eq_v: bool


@dataclass(frozen=True)
class Config:
    hidden: int
    heads: int
    eps: float
    vocab: int
    context: int
    tied: bool
    cap: float | None
    layers: tuple[Kind, ...]
    own: int  # layers that have keys of their own; the later ones share
    per_layer: int  # width of the inputs for each layer; 0: there are none
    experts: int  # 0: dense
    top_k: int
    placeholders: tuple[int, ...]
    pad: int

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Config":
        if config.get("use_bidirectional_attention") == "all":
            raise CheckpointError("the checkpoint attends in both directions: it embeds text and cannot generate it")
        defaults = DEFAULTS | (UNIFIED if config.get("model_type") == "gemma4_unified_text" else {})
        get = {**defaults, **{key: value for key, value in config.items() if value is not None}}.get
        layers = kinds(get)
        return cls(
            hidden=get("hidden_size"),
            heads=get("num_attention_heads"),
            eps=get("rms_norm_eps"),
            vocab=get("vocab_size"),
            context=get("max_position_embeddings"),
            tied=get("tie_word_embeddings", True),
            cap=get("final_logit_softcapping"),
            layers=layers,
            own=len(layers) - get("num_kv_shared_layers"),
            per_layer=get("hidden_size_per_layer_input"),
            experts=get("num_experts") if get("enable_moe_block") else 0,
            top_k=get("top_k_experts", 0),
            placeholders=tuple(get(f"{what}_token_id") for what in MEDIA if get(f"{what}_token_id") is not None),
            pad=get("pad_token_id"),
        )


def kinds(get) -> tuple[Kind, ...]:
    """The kind of each layer: every sixth and the last is full, unless the config says otherwise."""
    count = get("num_hidden_layers")
    names = list(get("layer_types") or [FULL if (i + 1) % 6 == 0 else SLIDING for i in range(count)])
    names[-1] = FULL
    params = {**ROPE, **(get("rope_parameters") or {})}
    sliding = Kind(get("sliding_window"), get("num_key_value_heads"), get("head_dim"), params[SLIDING], False)
    both = {SLIDING: sliding, FULL: full_kind(get, params[FULL], names.index(FULL))}
    return tuple(both[name] for name in names)


def full_kind(get, params: dict[str, Any], index: int) -> Kind:
    """Configs written since transformers 5.20 hold what differs in full layers under the layer's number."""
    k_eq_v = get("attention_k_eq_v", False)
    own = (get("per_layer_config") or {}).get(str(index), {})
    kv_heads = own.get("num_key_value_heads") or (get("num_global_key_value_heads") if k_eq_v else None)
    head_dim = own.get("head_dim") or get("global_head_dim")
    return Kind(None, kv_heads or get("num_key_value_heads"), head_dim, params, k_eq_v)


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(config)
    embedding = tensors.linear("model.embed_tokens")
    if c.tied:
        tensors.drop(f"lm_head.{part}" for part in ("weight", "scales", "biases"))
    pages = [Pages(kind.kv_heads, kind.head_dim, tensors.dtype, kind.window) for kind in c.layers[: c.own]]
    return Decoder(
        embedding=embedding,
        blocks=[block(c, tensors, i, pages) for i in range(len(c.layers))],
        norm=tensors.norm("model.norm", c.eps),
        head=embedding if c.tied else tensors.linear("lm_head"),
        vocab=c.vocab,
        context=c.context,
        dtype=tensors.dtype,
        embed_scale=c.hidden**0.5,
        cap=c.cap,
        per_layer=per_layer_inputs(c, tensors) if c.per_layer else None,
        lookup=lookup(c),
    )


def lookup(c: Config) -> mx.array | None:
    """Placeholders of images and sound are looked up as padding."""
    found = [token for token in c.placeholders if token < c.vocab]
    if not found:
        return None
    tokens = mx.arange(c.vocab, dtype=mx.int32)
    tokens[mx.array(found)] = c.pad
    return tokens


def per_layer_inputs(c: Config, tensors: Tensors) -> PerLayerInputs:
    norm = tensors.norm("model.per_layer_projection_norm", c.eps * c.hidden)
    table, projection = (tensors.linear(f"model.{x}") for x in ("embed_tokens_per_layer", "per_layer_model_projection"))
    return PerLayerInputs(table, projection, norm, len(c.layers))


def block(c: Config, tensors: Tensors, i: int, pages: list[Pages]) -> Block:
    name = f"model.layers.{i}"
    dense = mlp(tensors, f"{name}.mlp", "gelu_tanh")  # twice as wide in layers that share keys, if use_double_wide_mlp
    return Block(
        mixer=attention(c, tensors, i, pages),
        mlp=beside_experts(c, tensors, name, dense) if c.experts else dense,
        mixer_norm=tensors.norm(f"{name}.input_layernorm", c.eps),
        mixer_post_norm=tensors.norm(f"{name}.post_attention_layernorm", c.eps),
        mlp_norm=tensors.norm(f"{name}.pre_feedforward_layernorm", c.eps),
        mlp_post_norm=tensors.norm(f"{name}.post_feedforward_layernorm", c.eps),
        scalar=tensors.take(f"{name}.layer_scalar"),
        per_layer=per_layer(c, tensors, i) if c.per_layer else None,
    )


def per_layer(c: Config, tensors: Tensors, i: int) -> PerLayer:
    gate, projection = (tensors.linear(f"model.layers.{i}.per_layer_{x}") for x in ("input_gate", "projection"))
    return PerLayer(i, gate, projection, tensors.norm(f"model.layers.{i}.post_per_layer_input_norm", c.eps))


def attention(c: Config, tensors: Tensors, i: int, pages: list[Pages]) -> Attention | SharedAttention:
    name, kind = f"model.layers.{i}.self_attn", c.layers[i]
    common = {
        "o": tensors.linear(f"{name}.o_proj"),
        "heads": c.heads,
        "head_dim": kind.head_dim,
        "scale": 1.0,
        "rope": rope.rope(kind.head_dim, kind.rope, c.context),
        "q_norm": tensors.norm(f"{name}.q_norm", c.eps),
    }
    if i >= c.own:
        drop_keys(tensors, name)
        return SharedAttention(q=tensors.linear(f"{name}.q_proj"), pages=shared(c, i, pages), **common)
    return Attention(
        qkv=tensors.joined(*(f"{name}.{x}_proj" for x in ("qk" if kind.k_eq_v else "qkv"))),
        kv_heads=kind.kv_heads,
        pages=pages[i],
        k_norm=tensors.norm(f"{name}.k_norm", c.eps),
        v_norm=Norm(None, c.eps),
        **common,
    )


def shared(c: Config, i: int, pages: list[Pages]) -> Pages:
    """The pages of the last layer of the same kind that has its own."""
    found = [own for own, kind in zip(pages, c.layers, strict=False) if kind is c.layers[i]]
    if not found:
        raise CheckpointError(f"layer {i} shares keys, but none of the first {c.own} layers is of its kind")
    return found[-1]


def drop_keys(tensors: Tensors, name: str) -> None:
    """Published checkpoints hold keys and values of layers that share another's, from training."""
    tensors.drop([key for key in tensors.left if key.startswith((f"{name}.k_", f"{name}.v_"))])


def beside_experts(c: Config, tensors: Tensors, name: str, dense) -> DenseBesideExperts:
    router_norm = Norm(tensors.take(f"{name}.router.scale") * c.hidden**-0.5, c.eps)
    router = Router(
        tensors.linear(f"{name}.router.proj"), Routing(c.top_k), scale=tensors.take(f"{name}.router.per_expert_scale")
    )
    experts = Experts(
        tensors.experts(name, "gate", "up", count=c.experts),
        tensors.experts(name, "down", count=c.experts),
        glu="gelu_tanh",
    )
    return DenseBesideExperts(
        mlp=dense,
        mlp_post_norm=tensors.norm(f"{name}.post_feedforward_layernorm_1", c.eps),
        router=router,
        router_norm=router_norm,
        experts=experts,
        experts_norm=tensors.norm(f"{name}.pre_feedforward_layernorm_2", c.eps),
        experts_post_norm=tensors.norm(f"{name}.post_feedforward_layernorm_2", c.eps),
    )
