"""Decode, prefill, batches, dispatches, start-up and memory beside mlx-lm, on the same random weights in one run.

    python -m smelt.bench.decode                                        published shapes that fit a GPU, one on a CPU
    python -m smelt.bench.decode --shape qwen3-4b --json out.json       one shape, kept
    python -m smelt.bench.decode --quick                                tiny shapes, a few seconds: does it run at all
    python -m smelt.bench.decode --engines smelt                        without mlx-lm

A shape's weights are random and packed (packed.py); --model takes a checkpoint folder instead. Each engine is a process
of its own; one at a time works, the other waits (paired.py).

    decode@C     tokens a second of one stream after a prompt of C tokens
    step@R       milliseconds of one step of R streams together, after prompts of the first context (Smelt alone)
    verify@T     milliseconds of one step of T tokens of one stream, as speculation makes them (Smelt alone)
    gpu@R        milliseconds of step@R that a GPU needs, however long the host takes to submit it (Smelt alone):
                 device_step.py says how it is found, and where it cannot be; it means nothing on a CPU: left out
    prefill@N    prompt tokens a second until the first token of a prompt of N
    dispatches   primitives that one decode step evaluates, views aside (dispatches.py says exactly which)
    start        from the process's start to the first token of a 16-token prompt: imports, weights and all
    peak, rss    memory: MLX's peak, the process's

All is measured in turns: one value of everything, the engines one right after the other. The table has the medians; a
ratio is the median of the ratios within a turn, with its middle half where there are four turns or more. In the JSON,
values of the same index are of the same turn; null where a turn has none.

On CUDA the first process on a machine compiles: MLX's own kernels for prompts take a minute or two.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from .measures import Plan
from .paired import Turns, known, medians, ratios

ENGINES = ("smelt", "mlx-lm")
UNITS = {"decode": "tok/s", "step": "ms", "verify": "ms", "gpu": "ms", "prefill": "tok/s", "dispatches": "a token",
         "start": "s", "peak": "MiB", "rss": "MiB"}  # fmt: skip
ONE = {"step": "step@1", "verify": "step@1", "gpu": "gpu@1"}  # what a step of several is set beside
BEST = {"tok/s": max, "ms": min, "s": min}
SPREAD = 4  # ratios, from which on their middle half is told


FULL = Plan([512, 4096], [1, 4, 8], [2048, 8192], tokens=128)
SMALL = Plan([128], [1, 4], [256], tokens=32, turns=5, seconds=120.0)
QUICK = Plan([32], [1, 2], [64], tokens=8, prefills=1, turns=1, seconds=40.0)
PUBLISHED = ["qwen3-4b", "llama-3.2-1b", "gemma-3-4b", "qwen3-30b-a3b"]
TINY = ["tiny", "tiny-gemma", "tiny-moe"]


# ---- the engines beside each other


def compare(folder: Path, plan: Plan, engines: list[str]) -> dict:
    """{"values": {engine: {key: [...]}}, "medians": {engine: {key: x}}, "ways": our kernels}"""
    turns = Turns(engines, folder, plan, on_device=has_gpu())
    turns.run()
    middle = {engine: medians(found) for engine, found in turns.found.items()}
    return {"medians": middle, "values": turns.found, "ways": turns.ways}


def table(result: dict) -> str:
    """Of what `compare` returns: medians, ratios within a turn, and what the best values are."""
    engines = list(result["values"])
    names = " | ".join(engines)
    lines = [f"| | {names} | ratio | best values |", "|---" * (3 + len(engines)) + "|"]
    for key in dict.fromkeys(key for engine in engines for key in result["medians"][engine]):
        middle = [f"{side[key]:.4g}" if key in side else "-" for side in result["medians"].values()]
        cells = [f"{key}, {UNITS[key.partition('@')[0]]}", *middle, ratio(key, result), best_of(key, result)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def best_of(key: str, result: dict) -> str:
    """Each engine's best value, and their ratio. What else a machine does makes values worse, never better."""
    best = BEST.get(UNITS[key.partition("@")[0]])
    values = [known(side.get(key, [])) for side in result["values"].values()]
    if best is None or max(map(len, values)) < 2:
        return "-"
    found = [best(side) if side else None for side in values]
    words = " / ".join("-" if x is None else f"{x:.4g}" for x in found)
    return words if None in found or len(found) < 2 else f"{words} = {found[0] / found[1]:.2f}"


def ratio(key: str, result: dict) -> str:
    """To the other engine; of a step of several rows, or tokens, to a step of one."""
    sides = [side[key] for side in result["values"].values() if key in side]
    one = ONE.get(key.partition("@")[0])
    ours = result["values"].get("smelt", {})
    if len(sides) == 2:
        return of_turns(ratios(*sides))
    if key == one or one not in ours or key not in ours:
        return "-"
    found = ratios(ours[key], ours[one])
    return f"{of_turns(found)} of {one}" if found else "-"


def of_turns(found: list[float]) -> str:
    """Their median, and their middle half where there are enough."""
    if not found:
        return "-"
    words = f"{statistics.median(found):.2f}"
    if len(found) < SPREAD:
        return words
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{words} ({low:.2f} to {high:.2f})"


def machine() -> dict[str, str]:
    import mlx.core as mx

    chip = mx.device_info().get("device_name") or cpu_name()
    return {
        "device": f"{mx.default_device()}", "chip": chip, "system": platform.platform(),
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
        **{name: version(name) for name in ("mlx", "mlx-lm")},
    }  # fmt: skip


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def has_gpu() -> bool:
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.gpu


def fitting(names: list[str]) -> list[str]:
    """Those whose weights take less than a third of the device's memory: two engines have them at once."""
    import mlx.core as mx

    from .checkpoints import SHAPES
    from .packed import weight_bytes

    info = mx.device_info()
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = info.get("memory_size") or info.get("total_memory") or own
    return [name for name in names if weight_bytes(SHAPES[name]) < memory / 3]


# ---- the command


def arguments():
    from .checkpoints import SHAPES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", help=f"default: {', '.join(PUBLISHED)} on a GPU")
    parser.add_argument("--model", type=Path, help="a checkpoint folder, instead of random weights of a shape")
    parser.add_argument("--quick", action="store_true", help="few tokens, once, and tiny shapes unless --shape says")
    parser.add_argument("--bits", type=int, default=4, choices=(0, 4, 8), help="0 leaves the weights unquantised")
    parser.add_argument("--group", type=int, default=64, choices=(32, 64, 128))
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--contexts", type=int, nargs="+", help="prompt lengths to decode after")
    parser.add_argument("--prefill", type=int, nargs="*", help="prompt lengths to read")
    parser.add_argument("--rows", type=int, nargs="*", help="streams that decode together")
    parser.add_argument("--tokens", type=int, help="to decode")
    parser.add_argument("--turns", type=int, help="values of everything")
    parser.add_argument("--prefills", type=int, help="values of a prefill")
    parser.add_argument("--starts", type=int, help="processes of each engine, whose start is measured")
    parser.add_argument("--seconds", type=float, help="after which no turn begins")
    parser.add_argument("--engines", choices=ENGINES, nargs="+", default=list(ENGINES), help="default: both")
    parser.add_argument("--json", type=Path, help="a file for all numbers; with several shapes, `-<shape>` is added")
    parser.add_argument("--plot", type=Path, help="a PNG of them")
    return parser.parse_args()


def plan_of(args) -> Plan:
    plan = QUICK if args.quick else FULL if has_gpu() else SMALL
    names = ("contexts", "rows", "prefill", "tokens", "turns", "prefills", "starts", "seconds")
    given = {name: getattr(args, name) for name in names}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def random_model(folder: Path, shape: str, args) -> Path:
    import mlx.core as mx

    from . import checkpoints, packed

    dtype = getattr(mx, args.dtype)
    if args.bits:
        return packed.write(folder, checkpoints.SHAPES[shape], bits=args.bits, group=args.group, dtype=dtype)
    return checkpoints.write(folder, checkpoints.SHAPES[shape], dtype)


def one(shape: str, args, plan: Plan) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_model(Path(folder), shape, args)
        return {"shape": shape, **compare(model, plan, list(dict.fromkeys(args.engines)))}


def keep(path: Path, results: list[dict], args) -> None:
    command = " ".join(["python -m smelt.bench.decode", *sys.argv[1:]])
    for result in results:
        file = path if len(results) == 1 else path.with_stem(f"{path.stem}-{result['shape']}")
        whole = {"command": command, "machine": machine(), **result}
        file.write_text(json.dumps(whole, indent=2) + "\n")


def main():
    args = arguments()
    plan = plan_of(args)
    shapes = [args.model.name] if args.model else args.shape or (
        TINY if args.quick else fitting(PUBLISHED) if has_gpu() else ["small-100m"]
    )  # fmt: skip
    results = []
    for shape in shapes:
        results.append(one(shape, args, plan))
        print(f"\n{shape}\n\n{table(results[-1])}", flush=True)
    if args.json:
        keep(args.json, results, args)
    if args.plot:
        from .plots import decode_plot

        decode_plot(results, args.plot)


if __name__ == "__main__":
    main()
