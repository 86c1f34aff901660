"""What the check at start found, kept for the next start: for one model, chip, system, MLX and text of the kernels.

The check runs every layer some forty times, which for a large model takes longer than reading its weights.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..kernels import launch, table
from ..kernels.files import write_whole
from . import selfcheck
from .step import TracedStep

log = logging.getLogger(__name__)


def check(model, folder: Path, home: Path, between: Callable[[], None] = lambda: None) -> None:
    """Check the model's kernels, or take over what was found when these were checked before. `between`: for a pause."""
    if all(launch.unavailable(op) for op in selfcheck.OPS):
        return
    selfcheck.prepare(model)
    made, file = stamp(model, folder), file_of(folder, home)
    found = read(file, made)
    if found is None:
        selfcheck.check(model, between)
        write(file, {"for": made, "off": launch.turned_off(), "untraced": TracedStep.off})
        return
    for op, why in found["off"].items():
        log.warning("the kernel of %s stays switched off: %s", op, why)
        launch.turn_off(op, why)
    TracedStep.off = found["untraced"]


def stamp(model, folder: Path) -> dict[str, str]:
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:16]
    return {**table.stamp(launch.chip()), "config": config, "type": str(model.dtype), "kv": held(model)}


def held(model) -> str:
    """How keys and values are: what was found for one way says nothing of another."""
    codings = {f"{pages.coding.title} {pages.coding.reading}" for pages in model.pages() if pages.coding is not None}
    return ", ".join(sorted(codings)) or "plain"


def file_of(folder: Path, home: Path) -> Path:
    return home / "checked" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"


def read(file: Path, made: dict[str, str]) -> dict[str, Any] | None:
    """None where there is nothing, or it was found for something else, or cannot be understood."""
    try:
        found = json.loads(file.read_text())
        sound = found["for"] == made and isinstance(found["off"], dict) and "untraced" in found
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if sound else None


def write(file: Path, found: dict[str, Any]) -> None:
    """Where nothing can be written, the next start checks again."""
    try:
        write_whole(file, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        log.info("what the check found is not kept: %s", error)
