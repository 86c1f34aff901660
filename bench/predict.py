"""What decoding should cost on Apple's chips: a model of bytes and dispatches, not a measurement.

    python -m smelt.bench.predict             the table from bench/results/counts.json
    python -m smelt.bench.predict --count     count the dispatches anew first (any machine; see counts.py)

    seconds a token = bytes / (REACHED * bandwidth) + dispatches * cost of one

bytes        what a token reads: all weights but the embedding's other rows and the experts that it was not sent to, and
             keys and values at CONTEXT tokens; 4-bit in groups of 64, 16-bit scales
bandwidth    of the chip's memory, from Apple's technical specifications (support.apple.com): the largest of each name
REACHED      share of it that a matrix-vector product reaches: 100 of 120 GB/s on an M4; llama.cpp's pull requests
             1642 and 2188 give 318 to 340 of 400 on an M1 Max and M2 Max
a dispatch   1.5 to 3 us where each waits for the one before: 1.5 to 1.7 on an M4 Max (mlx-serve's notes), 2.4 to
             2.75 on an M3 Ultra (ml-explore/mlx issue 4521). Others published 0.8 (M1 Ultra, mlxcel issue 274) and 5.2
             (M2 Pro, ferrox issue 149). The table gives both ends of the range, the slower first
"""

import argparse
import json
import math
import sys
from pathlib import Path

from .checkpoints import SHAPES, shapes
from .counts import counted

RESULTS = Path(__file__).parent / "results" / "counts.json"
CONTEXT = 512
PRESETS = ("llama-3.2-1b", "qwen3-4b", "gemma-3-4b", "qwen3-30b-a3b")
REACHED = 100 / 120
DISPATCH_US = (3.0, 1.5)
COMMAND = "python -m smelt.bench.decode --json out.json"

BANDWIDTH = {  # GB/s
    "M1": 68, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800,
    "M2": 100, "M2 Pro": 200, "M2 Max": 400, "M2 Ultra": 800,
    "M3": 100, "M3 Pro": 150, "M3 Max": 400, "M3 Ultra": 819,
    "M4": 120, "M4 Pro": 273, "M4 Max": 546,
    "M5": 153, "M5 Pro": 307, "M5 Max": 614,
}  # fmt: skip


def token_bytes(config: dict, context: int = CONTEXT) -> int:
    """What one decoded token reads from memory."""
    packed = sum(elements(config, name, shape) for name, shape in shapes(config).items())
    return round(packed * (4 + 32 / 64) / 8) + cache_bytes(config, context)


def elements(config: dict, name: str, shape: tuple[int, ...]) -> int:
    """Of a matrix, those that one token multiplies."""
    if len(shape) == 1 or ("embed_tokens" in name and not config["tie_word_embeddings"]):
        return 0
    share = config["num_experts_per_tok"] / config["num_experts"] if "switch_mlp" in name else 1
    return round(math.prod(shape) * share)


def cache_bytes(config: dict, context: int) -> int:
    """Keys and values in 16 bits; of Gemma's layers all but each sixth see a window."""
    each = 2 * 2 * config["num_key_value_heads"] * config["head_dim"]
    every, window = config.get("sliding_window_pattern", 1), config.get("sliding_window", context)
    seen = [context if (i + 1) % every == 0 else min(context, window) for i in range(config["num_hidden_layers"])]
    return each * sum(seen)


def tokens_a_second(size: int, dispatches: int, gbps: float, dispatch_us: float) -> float:
    return 1 / (size / (REACHED * gbps * 1e9) + dispatches * dispatch_us * 1e-6)


def cell(size: int, count: dict[str, int], gbps: float) -> str:
    """Both engines, each from the slower to the faster end."""
    slow, fast = ({name: tokens_a_second(size, n, gbps, us) for name, n in count.items()} for us in DISPATCH_US)
    return " / ".join(f"{slow[name]:.0f}-{fast[name]:.0f}" for name in ("smelt", "mlx-lm"))


def markdown() -> str:
    counts = known_counts()
    sizes = {shape: token_bytes(SHAPES[shape]) for shape in PRESETS}
    rows = [["", *PRESETS], ["---"] * (1 + len(PRESETS))]
    rows.append(["GB a token", *(f"{sizes[shape] / 1e9:.2f}" for shape in PRESETS)])
    rows.append(["dispatches a token", *(f"{counts[s]['smelt']} / {counts[s]['mlx-lm']}" for s in PRESETS)])
    for chip, gbps in BANDWIDTH.items():
        rows.append([f"{chip}, {gbps} GB/s", *(cell(sizes[shape], counts[shape], gbps) for shape in PRESETS)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    note = (
        f"**Predicted, not measured**: tokens a second of smelt / mlx-lm, one stream at {CONTEXT} tokens, 4-bit weights,"
        f" by a model: bytes over {REACHED:.0%} of the chip's bandwidth plus {DISPATCH_US[1]:g} to {DISPATCH_US[0]:g} us a"
        f" dispatch (`bench/predict.py` names the source of each number). On a Mac, `{COMMAND}` measures it: please"
        " send the file."
    )
    return f"{note}\n\n{table}"


def known_counts() -> dict[str, dict[str, int]]:
    """What was counted last; an installed Smelt has no results, and counts."""
    if RESULTS.exists():
        return json.loads(RESULTS.read_text())["dispatches"]
    return {shape: counted(shape, CONTEXT) for shape in PRESETS}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", action="store_true", help="count the dispatches of both engines anew")
    if options.parse_args().count:
        found = {shape: counted(shape, CONTEXT) for shape in PRESETS}
        whole = {"command": "python -m smelt.bench.predict --count", "context": CONTEXT, "dispatches": found}
        RESULTS.write_text(json.dumps(whole, indent=2) + "\n")
    print(markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
