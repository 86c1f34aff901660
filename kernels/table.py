"""Tuning tables: the knobs that were found best on a chip, and the kernels that are switched off there.

    op -> shape -> {"knobs": {...}, "note": ...}     "*" for all shapes
    "off" -> op -> why

The shipped one (tuning.json) has such a table by a chip's class or name. The user's own is a file for each chip, with a
stamp: what was found for another chip, system, MLX or other kernels says nothing here, and is ignored.
"""

import functools
import hashlib
import json
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from .files import write_whole

HERE = Path(__file__).parent
SHIPPED = HERE / "tuning.json"
LAUNCHING = ("msl/*", "*_kernel.py", "linear_bytes.py", "coding.py")
AGAIN = "run `smelt tune` again"


@dataclass(frozen=True)
class Own:
    """The user's table of this chip: where it is, what it says, or why it is ignored."""

    path: Path | None = None
    ops: dict = field(default_factory=dict)
    ignored: str | None = None


def path_in(home: Path, chip: str) -> Path:
    return home / "tuning" / f"{re.sub(r'[^a-z0-9]+', '-', chip.lower()).strip('-')}.json"


def stamp(chip: tuple[str, str]) -> dict[str, str]:
    """What a table holds for: class and name of the chip, system, MLX, and the text of all kernels."""
    version = platform.mac_ver()[0] or platform.release()
    return {
        "chip": " ".join(chip), "system": f"{platform.system()} {version}", "mlx": mx.__version__,
        "kernels": kernels_hash(),
    }  # fmt: skip


@functools.cache
def kernels_hash() -> str:
    """Of every body and of what launches it: knobs mean what these make of them."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in LAUNCHING for file in HERE.glob(pattern)):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def shipped(names: tuple[str, str]) -> dict:
    """What tuning.json says of this chip: its class first, then its name."""
    found: dict = {}
    table = json.loads(SHIPPED.read_text())
    for name in names:
        merge(found, table.get(name, {}))
    return found


def merge(into: dict, more: dict) -> None:
    for op, entries in more.items():
        into[op] = into.get(op, {}) | entries


def read(path: Path, chip: tuple[str, str]) -> Own:
    """A table that cannot be read, or that was made for something else, counts as none, and says why."""
    if not path.exists():
        return Own(path)
    try:
        content = json.loads(path.read_text())
        made, ops = content["for"], content["ops"]
        sound = all(isinstance(entries, dict) for entries in (made, ops, *ops.values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Own(path, ignored=f"it is no tuning table ({type(error).__name__}: {error}); {AGAIN}")
    if not sound:
        return Own(path, ignored=f"it is no tuning table; {AGAIN}")
    wanted = stamp(chip)
    differ = [name for name, value in wanted.items() if made.get(name) != value]
    other = [f"{name} {made.get(name)}, here it is {wanted[name]}" for name in differ]
    return Own(path, ignored=f"it was made for {'; '.join(other)}; {AGAIN}") if other else Own(path, ops)


def write(path: Path, made: dict[str, str], ops: dict) -> None:
    write_whole(path, json.dumps({"for": made, "ops": ops}, indent=2) + "\n")
