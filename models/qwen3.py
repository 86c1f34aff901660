"""Qwen 3: Llama's block with a norm on each head of queries and keys, and no biases. Qwen3 report 2025."""

from typing import Any

from .checkpoint import Tensors
from .llama import Config, block, decoder
from .parts import Decoder
from .qwen2 import sliding


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read(sliding(config))
    return decoder(c, tensors, [block(c, tensors, i, qk_norm=True) for i in range(c.layers)])
