"""Nemotron-H and Nemotron 3: Mamba-2, attention without positions, squared-ReLU feed-forwards and experts, in any order.

Nemotron-H report 2025; Nemotron 3 report 2025 (experts, latent experts). A letter of the pattern is one sublayer with
a norm before it: M Mamba-2, * attention, - feed-forward, E experts.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..kernels.linear import Weight, linear
from ..kernels.norm import Norm
from ..kernels.pages import Pages
from ..kernels.router import Routing
from .checkpoint import CheckpointError, Tensors
from .mamba2 import Mamba2, Shape, state_of
from .moe import Experts, Moe, Router
from .parts import Attention, Decoder, Mixer, Mlp, tail

# The names that configs use instead of letters: "layers_block_type", now also "layer_types".
LETTERS = {"mamba": "M", "conv": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-",
           "moe": "E"}  # fmt: skip


@dataclass(frozen=True)
class Config:
    pattern: str
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    vocab: int
    context: int
    tied: bool
    mamba: Shape
    limit: tuple[float, float]
    experts: int
    routing: Routing | None

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Config":
        heads, pattern = config["num_attention_heads"], pattern_of(config)
        return cls(
            pattern=pattern,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config.get("attention_head_dim") or config["hidden_size"] // heads,
            eps=config.get("layer_norm_epsilon", 1e-5),
            vocab=config["vocab_size"],
            context=config.get("max_position_embeddings") or 4096,
            tied=config.get("tie_word_embeddings", False),
            mamba=mamba_shape(config),
            limit=limit(config),
            experts=config.get("n_routed_experts") or 0,
            routing=routing(config) if "E" in pattern else None,
        )


def pattern_of(config: dict[str, Any]) -> str:
    kinds = config.get("layers_block_type") or config.get("layer_types")
    pattern = "".join(LETTERS.get(kind, "?") for kind in kinds) if kinds else "".join(config["hybrid_override_pattern"])
    if set(pattern) - set("M*-E"):
        raise CheckpointError(
            f"layers {kinds or pattern!r} are not all known; known are {', '.join(LETTERS)}, or the letters M * - E"
        )
    return pattern


def mamba_shape(config: dict[str, Any]) -> Shape:
    return Shape(
        heads=config["mamba_num_heads"],
        head_dim=config["mamba_head_dim"],
        groups=config.get("n_groups") or config.get("mamba_n_groups") or 8,
        state_size=config.get("ssm_state_size") or config.get("mamba_d_state") or 128,
    )


def limit(config: dict[str, Any]) -> tuple[float, float]:
    """What clips dt. time_step_min and time_step_max are no limits: they say how dt_bias was drawn before training."""
    low, high = config.get("time_step_limit") or (0.0, float("inf"))
    return float(low), float(high)


def routing(config: dict[str, Any]) -> Routing:
    return Routing(
        config["num_experts_per_tok"], "sigmoid", normalise=config.get("norm_topk_prob", True), eps=1e-20,
        scale=config.get("routed_scaling_factor") or 1.0,
        groups=(config.get("n_group") or 1, config.get("topk_group") or 1),
    )  # fmt: skip


@dataclass(frozen=True)
class MixerBlock:
    """x + mixer(norm(x))"""

    mixer: Mixer
    norm: Norm

    norms = {"mixer": "norm"}

    def __call__(self, x, step, last=False):
        return self.mixer(x, step, norm=self.norm, residual=tail(x, last), last=last)

    @property
    def states(self):
        return self.mixer.states


@dataclass(frozen=True)
class MlpBlock:
    """x + mlp(norm(x))"""

    mlp: Any
    norm: Norm
    states: tuple = ()

    norms = {"mlp": "norm"}

    def __call__(self, x, step, last=False):
        x = tail(x, last)
        return self.mlp(x, norm=self.norm, residual=x)


@dataclass(frozen=True)
class LatentMoe:
    """Experts that work in a narrower space: leave(experts(enter(x))) + shared(x); the router sees x itself."""

    router: Router
    experts: Experts
    enter: Weight
    leave: Weight
    shared: Mlp | None

    norms = {"enter": None, "router": None, "shared": None}

    def __call__(self, x, norm, residual=None):
        y = self.experts(linear(x, self.enter, norm=norm), self.router(x, norm))
        residual = residual if self.shared is None else self.shared(x, norm, residual)
        return linear(y, self.leave, residual=residual)


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(config)
    base = "model" if "model.embeddings.weight" in tensors else "backbone"
    embedding = tensors.linear(f"{base}.embeddings")
    if c.tied:
        tensors.drop(["lm_head.weight", "lm_head.scales", "lm_head.biases"])
    return Decoder(
        embedding=embedding,
        blocks=[block(c, tensors, f"{base}.layers.{i}", letter) for i, letter in enumerate(c.pattern)],
        norm=tensors.norm(f"{base}.norm_f", c.eps),
        head=embedding if c.tied else tensors.linear("lm_head"),
        vocab=c.vocab,
        context=c.context,
        dtype=tensors.dtype,
    )


def block(c: Config, tensors: Tensors, name: str, letter: str) -> MixerBlock | MlpBlock:
    kind = MixerBlock if letter in "M*" else MlpBlock
    return kind(PARTS[letter](c, tensors, f"{name}.mixer"), tensors.norm(f"{name}.norm", c.eps))


def mamba(c: Config, tensors: Tensors, name: str) -> Mamba2:
    taps = tensors.conv(f"{name}.conv1d")
    return Mamba2(
        shape=c.mamba,
        into=tensors.linear(f"{name}.in_proj"),
        out=tensors.linear(f"{name}.out_proj"),
        taps=taps,
        bias=tensors.take(f"{name}.conv1d.bias") if f"{name}.conv1d.bias" in tensors else None,
        a=-mx.exp(tensors.take_float32(f"{name}.A_log")),
        d=tensors.take_float32(f"{name}.D"),
        dt_bias=tensors.take_float32(f"{name}.dt_bias"),
        limit=c.limit,
        norm=tensors.norm(f"{name}.norm", c.eps),
        state=state_of(c.mamba, taps, tensors.dtype),
    )


def attention(c: Config, tensors: Tensors, name: str) -> Attention:
    return Attention(
        qkv=tensors.joined(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"),
        o=tensors.linear(f"{name}.o_proj"),
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        scale=c.head_dim**-0.5,
        rope=None,
        pages=Pages(c.kv_heads, c.head_dim, tensors.dtype),
    )


def mlp(c: Config, tensors: Tensors, name: str) -> Mlp:
    return Mlp(tensors.linear(f"{name}.up_proj"), tensors.linear(f"{name}.down_proj"), act="relu2")


def moe(c: Config, tensors: Tensors, name: str) -> Moe | LatentMoe:
    router = Router(
        tensors.linear(f"{name}.gate"), c.routing, bias=tensors.take_float32(f"{name}.gate.e_score_correction_bias")
    )
    up, down = (tensors.experts(name, part, count=c.experts) for part in ("up", "down"))
    experts = Experts(up, down, glu=None, act="relu2")
    shared = f"{name}.shared_experts"
    shared = mlp(c, tensors, shared) if f"{shared}.up_proj.weight" in tensors else None
    if f"{name}.fc1_latent_proj.weight" not in tensors:
        return Moe(router, experts, shared)
    enter, leave = (tensors.linear(f"{name}.fc{n}_latent_proj") for n in (1, 2))
    return LatentMoe(router, experts, enter, leave, shared)


PARTS = {"M": mamba, "*": attention, "-": mlp, "E": moe}
