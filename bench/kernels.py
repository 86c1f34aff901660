"""Every kernel against the plain ops that it stands for, in the calls of a decode step; a pytest-benchmark suite.

    python -m smelt.bench.kernels --benchmark-json=out.json         published shapes on a GPU, tiny ones on a CPU
    python -m smelt.bench.kernels --shape qwen3-4b -k linear        pytest's own flags follow

A case is one call of an op's kernel, as a shape's layers make it with 1 and 8 rows, on random 4-bit weights; few layers
do, for they are alike. `kernel` is the kernel, `plain` the op in unfused mx ops. On a CPU, where no kernel runs, there
is `plain` alone. What a call costs is a chain's time for each call (kernels/timing.py): its weights come from memory. On CUDA
most of that is MLX's and the host's, so there `device` is what the kernel's launches take on the GPU alone, as the tuner times
them (kernels/device_timing.py).
With each number stand the bytes that the call reads from memory, the bandwidth that it reaches, on CUDA by `device`, and what
share that is of a copy on the same device, measured here (read and written bytes both count).
"""

import os
import statistics
import sys
import tempfile
from functools import cache
from pathlib import Path

import mlx.core as mx
import pytest
from smelt import models
from smelt.bench import packed
from smelt.bench.checkpoints import SHAPES
from smelt.bench.decode import PUBLISHED, TINY, fitting
from smelt.bench.tune import few_layers
from smelt.engine import tune
from smelt.kernels import launch
from smelt.kernels.device_timing import DeviceTimer
from smelt.kernels.timing import Chain, Timer, net
from smelt.kernels.tuning_spaces import SPACES

VARIABLE = "SMELT_BENCH_SHAPES"
WAYS = ("kernel", "plain")


def on_gpu() -> bool:
    return launch.machine() != "cpu"


def shapes() -> list[str]:
    if VARIABLE in os.environ:
        return os.environ[VARIABLE].split(",")
    return fitting(PUBLISHED) if on_gpu() else TINY


def timer() -> Timer:
    return Timer() if on_gpu() else Timer(rotated=1 << 20, calls=8, rounds=3)


def nothing(kernel, inputs, outputs, template, groups, threads):
    """Stands for a GPU where there is none: the calls are wanted, not their results."""
    return [mx.zeros(shape, dtype) for shape, dtype in outputs]


@cache
def cases(shape: str) -> list[tuple]:
    """(op's space, call) of a decode step with 1 row and with 8."""
    with tempfile.TemporaryDirectory() as folder:
        model = models.load(packed.write(Path(folder), few_layers(SHAPES[shape])))
    if on_gpu():
        found = tune.recorded(model)
    else:
        with launch.through(nothing):
            found = tune.recorded(model)
    return [(space, call) for space in SPACES for call in found.get(space.op, [])]


@cache
def copy_gbps() -> float:
    """Bytes read and written a second, in 10^9, of the fastest copy that we know on this device."""
    if launch.machine() == "cuda":
        from smelt.bench import kernels_cuda

        return kernels_cuda.copy_gbps()
    size = (512 if on_gpu() else 64) << 20
    data = mx.zeros((size // 4,), mx.uint32)
    mx.eval(data)
    clock, times = timer().clock, []
    for _ in range(7):
        begin = clock()
        mx.eval(data + 1)
        times.append(clock() - begin)
    return 2e-9 * size / min(times)


def pytest_generate_tests(metafunc):
    found = [(shape, *case) for shape in shapes() for case in cases(shape)]
    ways = WAYS if on_gpu() else WAYS[1:]
    names = [f"{shape}: {space.op} {space.title(call)}" for shape, space, call in found]
    cases_and_ways = [(case, name, way) for case, name in zip(found, names, strict=True) for way in ways]
    values = [pytest.param(*case, way, id=f"{name}: {way}") for case, name, way in cases_and_ways]
    metafunc.parametrize("shape, space, call, way", values)


def test_op(benchmark, shape, space, call, way):
    benchmark.group = f"{shape}: {space.op} {space.title(call)}"
    t = timer()
    rotation = t.rotation([call], space)
    link, count = t.link_us(rotation), t.length(rotation)
    once = t.chained(Chain(space.fused if way == "kernel" else space.plain), rotation)
    times = []
    benchmark.pedantic(lambda: times.append(once()), rounds=t.rounds, iterations=1)
    us = net(statistics.median(times), link)
    alone = device_us(space, call) if way == "kernel" and launch.machine() == "cuda" else None
    gbps = space.reads(call) / (alone or us) / 1e3
    benchmark.extra_info |= {
        "shape": shape, "op": space.op, "case": space.title(call), "way": way,
        "us": us, "link_us": link, "device_us": alone, "calls": count, "bytes": space.reads(call),
        "gbps": gbps, "of_copy": gbps / copy_gbps(), "copy_gbps": copy_gbps(),
        "device": launch.chip()[1], "mlx": mx.__version__,
    }  # fmt: skip


def device_us(space, call) -> float:
    """Of the kernel's launches, by the CUDA driver alone."""
    t = DeviceTimer()
    once = t.chained(Chain(space.fused), t.rotation([call], space))
    return statistics.median(once() for _ in range(t.rounds))


class Summary:
    """After the run: a line for each case, with both ways."""

    def __init__(self):
        self.found: dict[tuple, dict] = {}

    def pytest_runtest_teardown(self, item):
        info = getattr(item.funcargs.get("benchmark"), "extra_info", {})
        if "us" in info:
            self.found.setdefault((info["shape"], info["op"], info["case"]), {})[info["way"]] = info

    def pytest_terminal_summary(self, terminalreporter):
        if self.found:
            terminalreporter.write_line("\n" + self.table())

    def table(self) -> str:
        head = ("shape", "op", "case", "kernel, us", "plain, us", "ratio", "device, us", "GB/s", "of a copy")
        lines = [f"copy: {copy_gbps():.0f} GB/s", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        return "\n".join([*lines, *(row(key, ways) for key, ways in self.found.items())])


def row(key: tuple, ways: dict) -> str:
    us = {way: f"{info['us']:.2f}" for way, info in ways.items()}
    ratio = f"{ways['plain']['us'] / ways['kernel']['us']:.2f}" if len(ways) == 2 else "-"
    best = ways.get("kernel") or ways["plain"]
    alone = f"{best['device_us']:.2f}" if best["device_us"] else "-"
    cells = [*key, us.get("kernel", "-"), us.get("plain", "-"), ratio, alone, f"{best['gbps']:.0f}", f"{best['of_copy']:.0%}"]
    return f"| {' | '.join(cells)} |"


def main(words: list[str]) -> int:
    if "--help" in words or "-h" in words:
        print(__doc__)
        return 0
    if "--shape" in words:
        i = words.index("--shape")
        wanted = words[i + 1 : i + 2]
        unknown = [shape for shape in ",".join(wanted).split(",") if shape not in SHAPES]
        if unknown:
            print(f"--shape {','.join(wanted)}: {unknown[0]!r} is none of {', '.join(SHAPES)}", file=sys.stderr)
            return 2
        os.environ[VARIABLE] = wanted[0]
        words = words[:i] + words[i + 2 :]
    flags = ["-p", "no:cacheprovider", "--import-mode=importlib", "-q", "--benchmark-columns=median,iqr,rounds"]
    return pytest.main([__file__, *flags, "--rootdir", str(Path(__file__).parent), *words], plugins=[Summary()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
