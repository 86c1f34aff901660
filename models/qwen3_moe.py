"""Qwen 3 mixtures: Qwen 3 with experts in place of the feed-forward, in all layers or some. Qwen3 report 2025."""

from dataclasses import dataclass
from typing import Any

from ..kernels.router import Routing
from .checkpoint import Tensors
from .llama import Config, block, decoder, mlp
from .moe import Experts, Moe, Router
from .parts import Decoder, Mlp


@dataclass(frozen=True)
class Mixture:
    """Which layers have experts, how many, and how they are chosen."""

    experts: int
    routing: Routing
    layers: tuple[bool, ...]

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Mixture":
        dense, every = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
        count = config.get("num_experts") or config.get("num_local_experts") or 0
        return cls(
            experts=count,
            routing=Routing(config.get("num_experts_per_tok", 1), normalise=config.get("norm_topk_prob", False)),
            layers=tuple(
                count > 0 and i not in dense and (i + 1) % every == 0 for i in range(config["num_hidden_layers"])
            ),
        )


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read({"use_sliding_window": False, "tie_word_embeddings": False, **config})
    m = Mixture.read(config)

    def layer(i):
        name = f"model.layers.{i}.mlp"
        return block(c, tensors, i, qk_norm=True, feed_forward=feed_forward(m, tensors, name, m.layers[i]))

    return decoder(c, tensors, [layer(i) for i in range(c.layers)])


def feed_forward(m: Mixture, tensors: Tensors, name: str, sparse: bool) -> Mlp | Moe:
    return mixture(m.routing, tensors, name, m.experts) if sparse else mlp(tensors, name, "silu")


def mixture(routing: Routing, tensors: Tensors, name: str, count: int) -> Moe:
    return Moe(
        router=Router(tensors.linear(f"{name}.gate"), routing),
        experts=Experts(
            up=tensors.experts(name, "gate", "up", count=count), down=tensors.experts(name, "down", count=count)
        ),
    )
