"""What a checkpoint is: a folder with config.json and safetensors becomes a decoder made of parts.

A family is one file with `build(config, tensors) -> Decoder`; FAMILIES says which file a `model_type` is read by.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

FAMILIES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "mixtral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "qwen3_next": "qwen3_next",
    "qwen3_5": "qwen3_next",
    "qwen3_5_text": "qwen3_next",
    "qwen3_5_moe": "qwen3_next",
    "qwen3_5_moe_text": "qwen3_next",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2",
    "nemotron_h": "nemotron_h",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "gemma4_unified": "gemma4",
    "gemma4_unified_text": "gemma4",
}

DRAFTERS = ("gemma4_assistant", "gemma4_unified_assistant")  # model types that draft for another model


def load(folder: Path, progress: Callable[[int, int], None] | None = None):
    """The decoder of a checkpoint folder, its weights read. `progress(done, total)` counts bytes of weights.

    Raises CheckpointError for an unsupported architecture, and for weights that do not match it.
    """
    from . import checkpoint
    from .gains import decoder_with_gains

    config = checkpoint.read_config(folder)
    family = family_of(config)
    tensors = checkpoint.load(folder)
    model = family.build(checkpoint.text_config(config), tensors)
    tensors.close()
    model = decoder_with_gains(model)
    read(model, progress)
    return model


def assisted(model, folder: Path, block: int | None = None):
    """The model with a drafter, read from a checkpoint folder. Raises CheckpointError for one of another model."""
    from dataclasses import replace

    from . import gemma4_assistant

    return replace(model, drafter=gemma4_assistant.load(folder, model, block))


def family_of(config):
    from .checkpoint import CheckpointError, text_config

    kinds = [config.get("model_type"), text_config(config).get("model_type")]
    if kinds[0] in DRAFTERS:
        raise CheckpointError(f"{kinds[0]} is a drafter: serve the model that it drafts for, with --drafter")
    name = next((FAMILIES[kind] for kind in kinds if kind in FAMILIES), None)
    if name is None:
        raise CheckpointError(
            f"model_type {kinds[0]!r} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    return importlib.import_module(f".{name}", __package__)


def describe_families() -> list[tuple[str, str, str]]:
    """(model_type, title, notes) of all that can be loaded, as the first line of each family's file says it."""
    return [(kind, *described(name)) for kind, name in FAMILIES.items()]


def described(name: str) -> tuple[str, str]:
    """The first line of a family's file reads "Title: notes. Source."; of it (title, notes)."""
    line = importlib.import_module(f".{name}", __package__).__doc__.partition("\n")[0]
    title, _, notes = line.partition(": ")
    return title, notes.partition(". ")[0].removesuffix(".")


def read(model, progress: Callable[[int, int], None] | None) -> None:
    """Evaluate the weights a layer at a time, so that joining two never holds more than one layer twice; the largest of a
    group last: the embedding's is not joined, but its scales and biases are.
    """
    import mlx.core as mx

    groups = list(model.weights())
    total = sum(array.nbytes for group in groups for array in group)
    done = 0
    for group in groups:
        largest = max(group, key=lambda array: array.nbytes, default=None)
        mx.eval([array for array in group if array is not largest])
        mx.eval(group)
        done += sum(array.nbytes for array in group)
        if progress:
            progress(done, total)
    mx.clear_cache()  # of the parts of joined matrices: no later array is as large as these
