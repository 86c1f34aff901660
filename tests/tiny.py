"""A random model with the built-in model's tokenizer and template: real text, no sense, ready in a tenth of a second."""

import json
import shutil
from pathlib import Path

import checkpoints

BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make(folder: Path, **changes) -> Path:
    tokenizer = json.loads((BUILTIN / "tokenizer.json").read_text())
    vocab = max(*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])) + 1
    fields = {"vocab_size": -(-vocab // 64) * 64, "max_position_embeddings": 1024, "tie_word_embeddings": False}
    checkpoints.make(folder, "qwen3", **fields | changes)
    for name in TEXT_FILES:
        shutil.copy(BUILTIN / name, folder / name)
    return folder
