"""What a model says of itself: once it is loaded, and before, by its files alone."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .options import ModelInfo

if TYPE_CHECKING:
    from .chat import ChatTemplate


def describe(folder: Path, model, context: int, template: "ChatTemplate | None", kv_quant: str) -> ModelInfo:
    """Of a loaded model."""
    from ..models import checkpoint, source
    from .embedding import pooling_of

    config = checkpoint.text_config(checkpoint.read_config(folder))
    found = source.inspect(folder.name, folder, "folder")
    weights = {id(a): a.nbytes for group in model.weights() for a in group}
    return ModelInfo(
        architecture=found.architecture,
        context=context,
        vocab_size=model.vocab,
        layers=len(model.blocks),
        hidden_size=config["hidden_size"],
        quantization=found.quantisation,
        weight_bytes=sum(weights.values()),
        created=int(os.stat(folder / "config.json").st_mtime),
        trained_context=model.context,
        heads=config.get("num_attention_heads"),
        kv_heads=config.get("num_key_value_heads"),
        head_dim=config.get("head_dim"),
        tools=template is not None and template.supports_tools,
        reasoning=template is not None and template.supports_reasoning,
        chat_template=template.source if template is not None and not template.builtin else None,
        kv_quant=kv_quant,
        pooling=pooling_of(folder),
        disk_bytes=found.bytes,
    )


def abilities(folder: Path) -> tuple[bool, bool]:
    """Whether a checkpoint's own chat templates know of tools and of thinking. Where they cannot be read: no."""
    from . import chat_jinja
    from .chat_files import read_templates

    try:
        found = [chat_jinja.abilities(source) for source in read_templates(folder).values()]
    except Exception:  # of many kinds, and told when the model is loaded
        return False, False
    return any(each.tools for each in found), any(each.thinking for each in found)
