"""Where a checkpoint keeps its chat templates."""

from pathlib import Path
from typing import Any

from .tokenizer_files import TokenizerError, read_object

FOLDERS = ("additional_chat_templates", "chat_templates")


def read_templates(folder: Path) -> dict[str, str]:
    """Name -> source; the one without a name is "default". Files of their own go before tokenizer_config.json."""
    config = folder / "tokenizer_config.json"
    found = named(config, read_object(config).get("chat_template"))
    if "default" not in found:  # written by processors of models that also see
        older = folder / "chat_template.json"
        found = named(older, read_object(older).get("chat_template")) | found
    for path in sorted(path for name in FOLDERS for path in (folder / name).glob("*.jinja")):
        found[path.stem] = path.read_text(encoding="utf-8")
    own = folder / "chat_template.jinja"
    return found | ({"default": own.read_text(encoding="utf-8")} if own.exists() else {})


def named(path: Path, value: Any) -> dict[str, str]:
    """One template as a string, or several as objects with name and template."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, dict) and good(entry) for entry in entries):
        raise TokenizerError(f"{path}: chat_template must be a string, or a list of objects with name and template")
    return {entry["name"]: entry["template"] for entry in entries}


def good(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
