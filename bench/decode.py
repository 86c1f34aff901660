"""Decode, prefill, batches, dispatches, start-up and memory beside mlx-lm, on the same random weights in one run.

    python -m smelt.bench.decode                                        published shapes that fit a GPU, one on a CPU
    python -m smelt.bench.decode --shape qwen3-4b --json out.json       one shape, kept
    python -m smelt.bench.decode --quick                                tiny shapes, a few seconds: does it run at all

A shape's weights are random and packed (packed.py); --model takes a checkpoint folder instead. Each engine is a process
of its own that takes its turn, --rounds times, and gives up what --seconds do not allow; the table shows medians.

    decode@C     tokens a second of one stream after a prompt of C tokens
    step@R       milliseconds of one step of R streams together, after prompts of the first context (Smelt alone)
    verify@T     milliseconds of one step of T tokens of one stream, as speculation makes them (Smelt alone)
    gpu@R        milliseconds of step@R that a GPU needs, however long the host takes to submit it (Smelt alone):
                 device_step.py says how it is found, and where it cannot be; it means nothing on a CPU: left out
    prefill@N    prompt tokens a second until the first token of a prompt of N
    dispatches   primitives that one decode step evaluates, views aside (dispatches.py says exactly which)
    start        from the process's start to the first token of a 16-token prompt: imports, weights and all
    peak, rss    memory: MLX's peak, the process's

Steps are measured in turns, up to five a process: all kinds one after another, so that a slow host is slow for all.
`of step@1` is the median of the ratios within a turn, not the ratio of medians; so is `of gpu@1`. In the JSON, values
of the same index are of the same turn; null where a turn has none.

On CUDA the first process on a machine compiles: MLX's own kernels for prompts take a minute or two of its seconds.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from .measures import Measures, Plan, Value, say

BEGIN = time.perf_counter()
ENGINES = ("smelt", "mlx-lm")
UNITS = {"decode": "tok/s", "step": "ms", "verify": "ms", "gpu": "ms", "prefill": "tok/s", "dispatches": "a token",
         "start": "s", "peak": "MiB", "rss": "MiB"}  # fmt: skip
ONE = {"step": "step@1", "verify": "step@1", "gpu": "gpu@1"}  # what a step of several is set beside
BEST = {"tok/s": max, "ms": min, "s": min}
GRACE_S = 120  # beyond its seconds, for a process that is inside one measurement
Values = dict[str, list[Value]]


FULL = Plan([512, 4096], [1, 4, 8], [2048, 8192], tokens=128)
SMALL = Plan([128], [1, 4], [256], tokens=32, repeats=2, turns=3, seconds=60.0)
QUICK = Plan([32], [1, 2], [64], tokens=8, repeats=1, turns=1, seconds=20.0)
PUBLISHED = ["qwen3-4b", "llama-3.2-1b", "gemma-3-4b", "qwen3-30b-a3b"]
TINY = ["tiny", "tiny-gemma", "tiny-moe"]


# ---- one process


def worker(name: str, folder: Path, plan: Plan) -> Iterator[dict[str, list]]:
    """Memory is read before streams run together, which mlx-lm's generate_step does not do."""
    from . import engines

    engine = engines.ENGINES[name](folder)
    measures = Measures(engine, plan, BEGIN + plan.seconds)
    yield {"start": [measures.first_token() - BEGIN + interpreter_s()]}
    engine.settle()
    for context in plan.contexts:
        yield measures.repeated(f"decode@{context}", lambda salt: measures.decode(context, salt))  # noqa: B023
    yield {"dispatches": [engine.dispatches(engines.prompt(plan.contexts[0], engine.vocab, 7)).total()]}
    for length in plan.prefill:
        yield measures.repeated(f"prefill@{length}", lambda salt: measures.prefill(length, salt))  # noqa: B023
    yield memory()
    if engine.batches:
        yield measures.in_turns(measures.steps(on_device=has_gpu()))
    yield {"ways": engine.ways()}


def memory() -> dict[str, list[float]]:
    import mlx.core as mx

    unit = 2**20 if sys.platform == "darwin" else 2**10
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"peak": [mx.get_peak_memory() / 2**20], "rss": [rss]}


def interpreter_s() -> float:
    """From the process's start to this file's first line, where the system tells."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK") - (time.perf_counter() - BEGIN))


# ---- both engines, in turns


def measure(engine: str, folder: Path, plan: Plan) -> dict:
    """What one process said, as far as it came."""
    command = [sys.executable, "-m", "smelt.bench.decode", "--worker", engine, "--model", str(folder)]
    command += ["--plan", json.dumps(asdict(plan))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=plan.seconds + GRACE_S)
    except subprocess.TimeoutExpired as late:
        say(f"{engine} was stopped after {late.timeout:.0f} s")
        return lines_of((late.stdout or b"").decode())
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    print(done.stderr, end="", file=sys.stderr)
    return lines_of(done.stdout)


def lines_of(text: str) -> dict:
    found: dict = {}
    for line in text.splitlines():
        if line.startswith("{") and line.endswith("}"):
            found |= json.loads(line)
    return found


def compare(folder: Path, plan: Plan, rounds: int) -> dict:
    """{"turns": of a process, "values": {engine: {key: [...]}}, "medians": {engine: {key: x}}, "ways": our kernels}"""
    values: dict[str, Values] = {engine: {} for engine in ENGINES}
    ways: list[str] = []
    for _ in range(rounds):
        for engine in ENGINES:
            found = measure(engine, folder, plan)
            ways = found.pop("ways", None) or ways
            for key, numbers in found.items():
                values[engine].setdefault(key, []).extend(numbers)
    middle = {engine: medians(found) for engine, found in values.items()}
    return {"turns": plan.turns, "medians": middle, "values": values, "ways": ways}


def medians(values: Values) -> dict[str, float]:
    known = {key: [value for value in found if value is not None] for key, found in values.items()}
    return {key: statistics.median(found) for key, found in known.items() if found}


def table(result: dict) -> str:
    """Of what `compare` returns: medians, and what the best values are."""
    lines = ["| | smelt | mlx-lm | ratio | best values |", "|---|---|---|---|---|"]
    ours, theirs = result["medians"]["smelt"], result["medians"]["mlx-lm"]
    for key in {**ours, **theirs}:
        pair = [f"{side[key]:.4g}" if key in side else "-" for side in (ours, theirs)]
        ratio = f"{ours[key] / theirs[key]:.2f}" if key in ours and key in theirs else against_one(key, result)
        lines.append(f"| {key}, {UNITS[key.partition('@')[0]]} | {pair[0]} | {pair[1]} | {ratio} | {best_of(key, result)} |")
    return "\n".join(lines)


def best_of(key: str, result: dict) -> str:
    """Each engine's best value, and their ratio. What else a machine does makes values worse, never better."""
    best = BEST.get(UNITS[key.partition("@")[0]])
    values = [[v for v in result["values"].get(engine, {}).get(key, []) if v is not None] for engine in ENGINES]
    if best is None or max(map(len, values)) < 2:
        return "-"
    found = [best(side) if side else None for side in values]
    words = " / ".join("-" if x is None else f"{x:.4g}" for x in found)
    return words if None in found else f"{words} = {found[0] / found[1]:.2f}"


def against_one(key: str, result: dict) -> str:
    """A step of several rows, or tokens, beside a step of one."""
    one = ONE.get(key.partition("@")[0])
    ratio = ratio_of(key, one, result) if one else None
    return "-" if ratio is None else f"{ratio:.2f} of {one}"


def ratio_of(key: str, one: str, result: dict) -> float | None:
    """The median of the ratios within a turn."""
    ours = result["medians"]["smelt"]
    if key not in ours or one not in ours:
        return None
    pairs = zip(*(result["values"]["smelt"][k] for k in (key, one)), strict=True)
    ratios = [several / single for several, single in pairs if several is not None and single is not None]
    return statistics.median(ratios) if ratios else None


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
    """Those whose weights take less than half of the device's memory."""
    import mlx.core as mx

    from .checkpoints import SHAPES
    from .packed import weight_bytes

    info = mx.device_info()
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = info.get("memory_size") or info.get("total_memory") or own
    return [name for name in names if weight_bytes(SHAPES[name]) < memory / 2]


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
    parser.add_argument("--rounds", type=int, default=1, help="processes of each engine")
    parser.add_argument("--seconds", type=float, help="that a process may take")
    parser.add_argument("--json", type=Path, help="a file for all numbers; with several shapes, `-<shape>` is added")
    parser.add_argument("--plot", type=Path, help="a PNG of them")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def plan_of(args) -> Plan:
    plan = QUICK if args.quick else FULL if has_gpu() else SMALL
    given = {name: getattr(args, name) for name in ("contexts", "rows", "prefill", "tokens", "seconds")}
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
        return {"shape": shape, **compare(model, plan, args.rounds)}


def keep(path: Path, results: list[dict], args) -> None:
    command = " ".join(["python -m smelt.bench.decode", *sys.argv[1:]])
    for result in results:
        file = path if len(results) == 1 else path.with_stem(f"{path.stem}-{result['shape']}")
        whole = {"command": command, "machine": machine(), **result}
        file.write_text(json.dumps(whole, indent=2) + "\n")


def main():
    args = arguments()
    if args.worker:
        for found in worker(args.worker, args.model, Plan(**args.plan)):
            print(json.dumps(found), flush=True)
        return
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
