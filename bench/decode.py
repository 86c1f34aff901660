"""Decode and prefill, time to first token, start-up and peak memory, beside mlx-lm on the same weights in one run.

    python -m smelt.bench.decode --shape small-100m --bits 4 --prompt 256 --tokens 64 --json bench/results/decode-cpu.json

Weights are random. Each measurement is a process of its own; the engines take turns, and the table shows medians.
`start` is from the process's start to the first token of a 16-token prompt: imports, weights and all.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

BEGIN = time.perf_counter()
ENGINES = ("smelt", "mlx-lm")
ROWS = (  # key, unit, whether more is better
    ("decode", "tok/s", True),
    ("prefill", "tok/s", True),
    ("start", "s", False),
    ("peak", "MiB", False),
    ("rss", "MiB", False),
)


def prompt(length: int, vocab: int, salt: int) -> list[int]:
    return [(7919 * (i + salt) ** 2 + 31 * i) % (vocab - 1) + 1 for i in range(length)]


def run_smelt(folder: Path, generate: list[tuple[int, int]]):
    """For each (prompt length, tokens): (seconds to the first token, seconds for the others)."""
    from .. import models
    from ..engine.request import Sampling
    from ..engine.scheduler import Limits, Scheduler
    from ..engine.sequence import Sequence, Token

    model = models.load(folder)
    scheduler = Scheduler(model, Limits())
    for salt, (length, tokens) in enumerate(generate):
        marks = []
        put = lambda item: isinstance(item, Token) and marks.append(time.perf_counter())  # noqa: B023, E731
        sequence = Sequence(prompt(length, model.vocab, salt), Sampling(temperature=0.0), 0, tokens, frozenset(), put)
        begin = time.perf_counter()
        scheduler.add(sequence)
        while not scheduler.idle:
            scheduler.tick()
        yield marks[0] - begin, marks[-1] - marks[0]


def run_mlx_lm(folder: Path, generate: list[tuple[int, int]]):
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, config = load_model(folder)
    for salt, (length, tokens) in enumerate(generate):
        begin = time.perf_counter()
        marks = []
        for _ in generate_step(mx.array(prompt(length, config["vocab_size"], salt)), model, max_tokens=tokens):
            marks.append(time.perf_counter())
        yield marks[0] - begin, marks[-1] - marks[0]


def worker(engine: str, folder: Path, length: int, tokens: int) -> dict[str, float]:
    """One process's measurements."""
    results = {"smelt": run_smelt, "mlx-lm": run_mlx_lm}[engine](folder, [(16, 2), (length, 2), (length, tokens)])
    first = next(results)
    start = time.perf_counter() - BEGIN + interpreter_s() - first[1]
    next(results)  # warms every shape of the measured one
    prefill_s, decode_s = next(results)
    import mlx.core as mx

    return {
        "decode": (tokens - 1) / decode_s,
        "prefill": length / prefill_s,
        "start": start,
        "peak": mx.get_peak_memory() / 2**20,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }


def interpreter_s() -> float:
    """From the process's start to this file's first line, where the system tells."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    import os

    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK") - (time.perf_counter() - BEGIN))


def measure(engine: str, folder: Path, args) -> dict[str, float]:
    command = [sys.executable, "-m", "smelt.bench.decode", "--worker", engine, "--model", str(folder)]
    command += ["--prompt", str(args.prompt), "--tokens", str(args.tokens)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, args) -> dict[str, dict[str, float]]:
    runs: dict[str, list] = {engine: [] for engine in ENGINES}
    for _ in range(args.rounds):
        for engine in ENGINES:
            runs[engine].append(measure(engine, folder, args))
    return {engine: {key: statistics.median(r[key] for r in runs[engine]) for key, _, _ in ROWS} for engine in ENGINES}


def table(medians: dict[str, dict[str, float]]) -> str:
    lines = ["| | smelt | mlx-lm | ratio |", "|---|---|---|---|"]
    for key, unit, _ in ROWS:
        ours, theirs = medians["smelt"][key], medians["mlx-lm"][key]
        lines.append(f"| {key}, {unit} | {ours:.4g} | {theirs:.4g} | {ours / theirs:.2f} |")
    return "\n".join(lines)


def machine() -> dict[str, str]:
    import mlx.core as mx

    info = mx.device_info()
    chip = info.get("device_name") or cpu_name()
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


def arguments():
    from .checkpoints import SHAPES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small-100m")
    parser.add_argument("--model", type=Path, help="a checkpoint folder, instead of random weights of a shape")
    parser.add_argument("--bits", type=int, default=4, help="0 leaves the weights unquantised")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    return parser.parse_args()


def random_model(folder: Path, args) -> Path:
    import mlx.core as mx

    from .checkpoints import SHAPES, write

    quantization = {"group_size": 64, "bits": args.bits, "mode": "affine"} if args.bits else None
    return write(folder, SHAPES[args.shape], getattr(mx, args.dtype), quantization)


def main():
    args = arguments()
    if args.worker:
        print(json.dumps(worker(args.worker, args.model, args.prompt, args.tokens)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_model(Path(folder), args)
        medians = compare(model, args)
    command = " ".join(["python -m smelt.bench.decode", *sys.argv[1:]])
    print(table(medians))
    if args.json:
        args.json.write_text(json.dumps({"command": command, "machine": machine(), "medians": medians}, indent=2) + "\n")


if __name__ == "__main__":
    main()
