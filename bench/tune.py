"""Knobs for the published shapes on this chip, tuned against default, and the table that ships with Smelt.

    python -m smelt.bench.tune --json bench/results/tune-<chip>.json     every shape that fits, --seconds each
    python -m smelt.bench.tune --shape qwen3-4b --op linear --ship       one, and into kernels/tuning.json

`smelt tune` does the same for a user's own model. Weights are random and of few layers, for a shape's layers are alike.
`before` are the default knobs: neither the shipped table nor the user's own is in force.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from .. import models
from ..engine import tune, warming
from ..kernels import launch, search, table
from ..kernels.device_timing import tuning_timer
from ..kernels.timing import ROUNDS, Timer
from ..models import source
from . import packed
from .checkpoints import SHAPES
from .decode import PUBLISHED, fitting, machine

LAYERS = 6  # Gemma's first five slide, its sixth does not


def few_layers(config: dict) -> dict:
    layers = LAYERS if "sliding_window_pattern" in config else 1
    return {**config, "num_hidden_layers": min(layers, config["num_hidden_layers"])}


def tuned(shape: str, timer: Timer, seconds: float, ops: list[str]) -> list[search.Found]:
    with tempfile.TemporaryDirectory() as folder:
        model = models.load(packed.write(Path(folder), few_layers(SHAPES[shape])))
        return tune.tune(model, timer, seconds, ops)


def markdown(found: dict[str, list[search.Found]]) -> str:
    head = ("shape", "op", "key", "default, us", "tuned, us", "gain", "knobs")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(row(shape, result) for shape, results in found.items() for result in results)])


def row(shape: str, found: search.Found) -> str:
    knobs = " ".join(f"{name}={value}" for name, value in (found.knobs or {}).items()) or "the default"
    gain = f"{found.before_us / found.us:.2f}"
    return f"| {shape} | {found.op} | {found.key} | {found.before_us:.2f} | {found.us:.2f} | {gain} | {knobs} |"


def ship(path: Path, chip: str, found: list[search.Found]) -> None:
    """Into the shipped table, in place of what it said of the same keys on this chip."""
    whole = json.loads(path.read_text())
    entries = whole.setdefault(chip, {})
    for op, keys in search.entries(found).items():
        entries[op] = entries.get(op, {}) | keys
    path.write_text(json.dumps(whole, indent=2) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", help=f"default: of {', '.join(PUBLISHED)} what fits")
    parser.add_argument("--op", choices=tune.NAMES, nargs="+", default=[], help="only these")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each shape")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ship", action="store_true", help="write what is better to kernels/tuning.json")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        tune.require_gpu()
    except tune.NoGpu as error:
        print(error, file=sys.stderr)
        return 1
    os.environ["SMELT_TUNE"] = "off"
    warming.prepare_kernels(source.home())
    timer, found = tuning_timer(args.rounds), {}
    for shape in args.shape or fitting(PUBLISHED):
        found[shape] = tuned(shape, timer, args.seconds, args.op)
        print(f"{shape}: {len(found[shape])} cases", file=sys.stderr, flush=True)
    print(markdown(found))
    if args.json:
        command = " ".join(["python -m smelt.bench.tune", *sys.argv[1:]])
        shapes = {shape: [asdict(result) for result in results] for shape, results in found.items()}
        args.json.write_text(json.dumps({"command": command, "machine": machine(), "shapes": shapes}, indent=2) + "\n")
    if args.ship:
        ship(table.SHIPPED, launch.chip()[1], [result for results in found.values() for result in results])
    return 0


if __name__ == "__main__":
    sys.exit(main())
