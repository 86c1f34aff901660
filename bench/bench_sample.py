"""The sampler's kernels against the same draw in plain ops, one row and eight, over the largest vocabularies.

    python -m smelt.bench.bench_sample                   every case
    python -m smelt.bench.bench_sample --only top-p      cases whose name contains this
    python -m smelt.bench.bench_sample --sweep               the knobs of both passes, too
    python -m smelt.bench.bench_sample --out FILE.json   also kept as JSON

Logits are random bfloat16, shaped like a model's: a few tokens far above a wide field; in flat rows there is only the
field. `kernel` and `plain` are microseconds of a draw in a compiled chain of dependent ones, as the engine submits them;
`device`, on CUDA, is what the two launches cost there without MLX around them. Bytes are what the draw has to read once.
Tokens are compared first.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..engine.request import Sampling
from ..engine.sampler import Sampler
from ..engine.sequence import Sequence
from ..kernels import cubins, launch, sample, sample_kernel
from ..kernels.cuda_driver import Graph, Launcher, Memory, raw
from . import kernels_cuda as device

VOCABULARIES = (151936, 262144)
ROWS = (1, 8)
NUCLEUS = {"temperature": 1.0, "top_p": 0.9}


@dataclass(frozen=True)
class Case:
    name: str
    fields: dict = field(hash=False)
    spread: float = 2.5  # standard deviation of the wide field
    peaks: bool = True  # above it; without them a truncation has to look at all tokens

    def problem(self, vocab: int, rows: int) -> "Problem":
        return Problem(self, vocab, rows)


CASES = [
    Case("greedy", {"temperature": 0.0}),
    Case("greedy, 20 logprobs", {"temperature": 0.0, "top_logprobs": 20}),
    Case("temperature", {"temperature": 0.7}),
    Case("top-p 0.9", NUCLEUS),
    Case("top-p 0.9 of a flat row", NUCLEUS, spread=1.0, peaks=False),
    Case("top-k 40", {"temperature": 1.0, "top_k": 40}),
    Case("top-k 40 + top-p 0.9", {**NUCLEUS, "top_k": 40}),
    Case("min-p 0.05", {"temperature": 1.0, "min_p": 0.05}),
    Case("penalties", {"temperature": 0.0, "presence_penalty": 1.0, "repetition_penalty": 1.1}),
    Case("penalties + top-p 0.9", {**NUCLEUS, "presence_penalty": 1.0, "repetition_penalty": 1.1}),
]


class Problem:
    """A case with random logits for so many rows."""

    def __init__(self, case: Case, vocab: int, rows: int):
        self.case, self.vocab, self.rows = case, vocab, rows
        rng = np.random.default_rng(1)
        logits = rng.normal(size=(rows, vocab)) * case.spread
        if case.peaks:
            logits[:, rng.integers(0, vocab, 300)] += rng.gumbel(6, 2.5, (rows, 300))
        self.logits = mx.array(logits.astype(np.float32)).astype(mx.bfloat16)
        prompt = rng.integers(0, vocab, 500).tolist()
        self.sequences = [
            Sequence(prompt, Sampling(**case.fields), i, 500, frozenset(), lambda item: None) for i in range(rows)
        ]
        self.sampler = Sampler(self.sequences, vocab)
        self.given = (self.sampler.parameters, self.sampler.position(), self.sampler.plan, self.sampler.history)

    @property
    def bytes(self) -> int:
        """Of the logits once, and where there are penalties of both counts."""
        return self.rows * self.vocab * (self.logits.dtype.size + (8 if self.sampler.plan.penalties else 0))

    def kernel(self, logits: mx.array) -> list[mx.array]:
        parameters, position, plan, history = self.given
        return sample_kernel.fused(logits, parameters, position, plan, history, None)

    def plain(self, logits: mx.array) -> list[mx.array]:
        return sample.reference(logits, *self.given)[0]

    def differing(self) -> int:
        """Rows whose token is another one."""
        plain = self.plain(self.logits)[0]
        mx.eval(plain)  # before the kernel writes to the history
        return int(mx.sum(self.kernel(self.logits)[0] != plain))

    @cached_property
    def launches(self) -> list[tuple]:
        """(kernel, inputs, outputs, template, groups, threads) of both passes."""
        caught = []

        def catch(kernel, inputs, outputs, template, groups, threads):
            caught.append((kernel, inputs, outputs, template, groups, threads))
            return [mx.zeros(shape, dtype) for shape, dtype in outputs]

        with launch.through(catch):
            self.kernel(self.logits)
        return caught


def chain_us(draw, logits: mx.array, count: int, rounds: int = 7) -> float:
    """Microseconds of a draw, each after the one before it."""

    def chained(x):
        for _ in range(count):
            x = mx.depends([x], draw(x))[0]
        return x

    chained, times = mx.compile(chained), []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        mx.eval(chained(logits))
        times.append((time.perf_counter() - start) * 1e6 / count)
    return sorted(times[2:])[rounds // 2]


def device_us(problem: Problem, launches: int = 48) -> float:
    """Of both launches, by the CUDA driver alone."""
    memories: dict[str, Memory] = {}
    steps = []
    for kernel, inputs, outputs, template, groups, threads in problem.launches:
        for name, array in zip(kernel.inputs, inputs, strict=True):
            if name not in memories:
                memories[name] = Memory.of(raw(array))
        for name, (shape, dtype) in zip(kernel.outputs, outputs, strict=True):
            memories[name] = Memory.of(np.zeros(int(np.prod(shape)) * dtype.size, np.uint8))
        types = [x.dtype for x in inputs], [dtype for _, dtype in outputs]
        launcher = Launcher(kernel, *types, template, groups, threads)
        steps.append((launcher, [memories[name] for name in (*kernel.inputs, *kernel.outputs)]))

    def record(stream):
        for _ in range(launches):
            for launcher, arguments in steps:
                launcher.launch(stream, arguments)

    return Graph(record).replay_us() / launches


def copy_gbps() -> float:
    """Read and written bytes a second, in 10^9, of the fastest copy."""
    if launch.machine() == "cuda":
        return device.copy_gbps()
    data = mx.zeros((128 << 20,), mx.uint32)
    mx.eval(data)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        mx.eval(data + 1)
        times.append(time.perf_counter() - start)
    return 2e-9 * data.nbytes / min(times)


def measure(problem: Problem, count: int = 40) -> dict:
    result = {
        "case": problem.case.name, "vocab": problem.vocab, "rows": problem.rows, "bytes": problem.bytes,
        "differing": problem.differing(),
        "kernel_us": chain_us(problem.kernel, problem.logits, count),
        "plain_us": chain_us(problem.plain, problem.logits, max(2, count // 4)),
    }  # fmt: skip
    if launch.machine() == "cuda":
        result["device_us"] = device_us(problem)
    return result


def sweep(problem: Problem) -> list[dict]:
    """Every pair of knobs, best first."""
    default, found = sample_kernel.default_knobs, []
    try:
        for simds in (2, 4, 8, 16):
            for merge_simds in (8, 16, 32):
                knobs = {"simds": simds, "merge_simds": merge_simds}
                sample_kernel.default_knobs = lambda knobs=knobs: knobs
                found.append({"knobs": knobs, "us": chain_us(problem.kernel, problem.logits, 40)})
    finally:
        sample_kernel.default_knobs = default
    return sorted(found, key=lambda each: each["us"])


HEAD = f"{'case':26} {'vocab':>6} {'rows':>4} {'kernel us':>9} {'plain us':>9} {'ratio':>6} {'device us':>9} {'GB/s':>6} {'share':>5}"


def line(result: dict, copy: float) -> str:
    """The bandwidth is that of the device's time where it is known."""
    own, plain, on_device = result["kernel_us"], result["plain_us"], result.get("device_us")
    rate = result["bytes"] / (on_device or own) / 1e3
    return (
        f"{result['case']:26} {result['vocab']:6} {result['rows']:4} {own:9.1f} {plain:9.1f} {plain / own:6.1f} "
        f"{'' if on_device is None else f'{on_device:.1f}':>9} {rate:6.0f} {rate / copy:5.0%}"
        + (f"  {result['differing']} rows differ" if result["differing"] else "")
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="cases whose name contains this")
    options.add_argument("--sweep", action="store_true", help="try the knobs, too")
    options.add_argument("--cubins", type=Path, help="a folder to keep compiled kernels in")
    options.add_argument("--out", type=Path, help="a file for all numbers")
    args = options.parse_args()
    if launch.machine() == "cpu":
        raise SystemExit("bench_sample times kernels and MLX computes on the CPU here: run it where there is a GPU")
    cubins.use_folder(args.cubins)
    copy, results = copy_gbps(), []
    print(f"{launch.chip()[1]}, MLX {mx.__version__}, copy {copy:.0f} GB/s", flush=True)
    for case in CASES:
        for vocab in VOCABULARIES:
            for rows in ROWS:
                if args.only not in case.name:
                    continue
                problem = case.problem(vocab, rows)
                results.append(measure(problem))
                print(line(results[-1], copy), flush=True)
                if args.sweep:
                    results[-1]["sweep"] = sweep(problem)
                    for each in results[-1]["sweep"][:3]:
                        print(f"    {each['us']:9.1f} us  {each['knobs']}", flush=True)
    print("\n" + "\n".join([HEAD, *(line(result, copy) for result in results)]))
    if args.out:
        told = {"chip": launch.chip()[1], "mlx": mx.__version__, "copy_gbps": copy, "cases": results}
        args.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
