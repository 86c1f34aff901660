"""Qwen 2 and 2.5: Llama's block with biases on queries, keys and values. Qwen2 report 2024; Qwen2.5 report 2024."""

from typing import Any

from .checkpoint import Tensors
from .llama import Config, block, decoder
from .parts import Decoder


def build(config: dict[str, Any], tensors: Tensors) -> Decoder:
    c = Config.read({"tie_word_embeddings": False, **sliding(config)})
    return decoder(c, tensors, [block(c, tensors, i) for i in range(c.layers)])


def sliding(config: dict[str, Any]) -> dict[str, Any]:
    """The config with its layers' kinds: where `use_sliding_window` is set, those from `max_window_layers` on slide."""
    first = config.get("max_window_layers", 28) if config.get("use_sliding_window") else config["num_hidden_layers"]
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(config["num_hidden_layers"])]
    found = {"use_sliding_window": False, **config}
    return found if found.get("layer_types") else {**found, "layer_types": kinds}
