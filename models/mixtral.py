"""Mixtral: Llama's block with experts in place of the feed-forward. Jiang et al. 2024."""

from typing import Any

from ..kernels.router import Routing
from .checkpoint import Tensors
from .llama import Config, block, decoder
from .parts import Decoder
from .qwen3_moe import mixture


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read({"tie_word_embeddings": False, "rope_theta": 1e6, **config})
    routing, count = Routing(config.get("num_experts_per_tok", 2)), config.get("num_local_experts", 8)

    def layer(i):
        experts = mixture(routing, tensors, f"model.layers.{i}.block_sparse_moe", count)
        return block(c, tensors, i, feed_forward=experts)

    return decoder(c, tensors, [layer(i) for i in range(c.layers)])
