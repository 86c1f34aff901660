"""An op's kernel and its reference timed on the machine's GPU, Metal or CUDA, as a traced decode step calls them."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import mlx.core as mx

from ..kernels import launch


@dataclass
class Result:
    """Microseconds of a call by the kernel and by the reference, and the bytes that it must move."""

    name: str
    kernel_us: float
    plain_us: float
    bytes: int
    error: float  # of the kernel's first output from the reference's, relative

    def line(self, copy: float) -> str:
        rate = self.bytes / self.kernel_us / 1e3
        wrong = "" if self.error < 0.02 else f"  WRONG: {self.error:.2g}"
        return (
            f"{self.name:44} {self.kernel_us:9.1f} {self.plain_us:9.1f} {self.plain_us / self.kernel_us:6.2f}"
            f" {rate:7.0f} {100 * rate / copy:5.0f}%{wrong}"
        )


HEADER = f"{'':44} {'kernel us':>9} {'plain us':>9} {'times':>6} {'GB/s':>7} {'copy':>6}"


def chain_us(call: Callable[[mx.array, int], mx.array], x: mx.array, count: int, rounds: int = 7) -> float:
    """Microseconds of call(x, i), i = 0 .. count - 1, each waiting for the one before, traced: the median of rounds."""

    def chained(x):
        for i in range(count):
            x = mx.depends([x], [call(x, i)])[0]
        return x

    chained, times = mx.compile(chained), []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        mx.eval(chained(x))
        times.append((time.perf_counter() - start) * 1e6 / count)
    return sorted(times[2:])[rounds // 2]


def compared(name: str, call: Callable[[mx.array, int], mx.array], x: mx.array, size: int, count: int = 48) -> Result:
    """The same call with every kernel there is, and without any."""
    ours, kernel_us = call(x, 0), chain_us(call, x, count)
    with launch.only():
        plain, plain_us = call(x, 0), chain_us(call, x, count)
    ours, plain = ours.astype(mx.float32), plain.astype(mx.float32)
    error = float(mx.linalg.norm((ours - plain).flatten()) / mx.linalg.norm(plain.flatten()))
    return Result(name, kernel_us, plain_us, size, error)


def copy_gbps(megabytes: int = 512) -> float:
    """Read plus written bytes a second of x + 1 over a large array, in 10^9: what a call can reach at most."""
    x = mx.zeros((megabytes << 18,), mx.uint32)
    mx.eval(x)
    return 2e-3 * x.nbytes / chain_us(lambda x, i: x + 1, x, 8)


def random_bits(*shape: int) -> mx.array:
    return mx.random.randint(0, 1 << 31, shape, mx.uint32) * 2 + mx.random.randint(0, 2, shape, mx.uint32)


def options(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", help="a file for all numbers, as JSON")
    return parser


def report(results: Sequence[Result], out: str | None) -> None:
    """The table, last, so that the end of a log has it."""
    copy = copy_gbps()
    print(f"{launch.chip()[1]}, MLX {mx.__version__}, a copy moves {copy:.0f} GB/s\n{HEADER}")
    for result in results:
        print(result.line(copy))
    if out:
        kept = {"chip": launch.chip()[1], "mlx": mx.__version__, "copy_gbps": copy, "results": list(map(asdict, results))}
        with open(out, "w") as file:
            json.dump(kept, file, indent=1)


def needs_a_gpu() -> None:
    if launch.machine() == "cpu":
        raise SystemExit("MLX computes on the CPU here, where no kernel runs: this needs an Apple or NVIDIA GPU")
