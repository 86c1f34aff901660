"""The `linear` kernel against mx.quantized_matmul, and a search of its knobs.

    python -m smelt.bench.bench_linear                   the knobs in force, rows 1, 2, 4, 8
    python -m smelt.bench.bench_linear --sweep bytes         every candidate at 1 row and 8, best first
    python -m smelt.bench.bench_linear --layer           all products of a layer, each on the result of the one before
    python -m smelt.bench.bench_linear --out FILE.json   also kept as JSON

Weights are random, 4-bit in groups of 64, and rotate through more memory than the last-level cache. Time on CUDA is
the device's (see kernels_cuda.py). A candidate is checked against float32 before it is timed.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..kernels import cubins, cuda, launch, linear_kernel, workspace
from ..kernels.cuda_driver import Graph, Launcher, Memory, raw
from ..kernels.linear import Weight, with_gain
from ..kernels.norm import Norm
from . import kernels_cuda as device


@dataclass(frozen=True)
class Shape:
    name: str
    width: int
    rows: int  # of the matrix
    norm: bool = False
    glu: str | None = None
    residual: bool = False

    @property
    def outputs(self) -> int:
        return self.rows // 2 if self.glu else self.rows

    def bytes(self, bits: int, group: int) -> int:
        return self.rows * self.width * bits // 8 + 4 * self.rows * self.width // group


SHAPES = [
    Shape("qwen3-4b gate_up", 2560, 19456, norm=True, glu="silu"),
    Shape("qwen3-4b qkv", 2560, 6144, norm=True),
    Shape("qwen3-4b o", 4096, 2560, residual=True),
    Shape("qwen3-4b down", 9728, 2560, residual=True),
    Shape("qwen3-4b lm_head", 2560, 151936, norm=True),
    Shape("llama-1b qkv", 2048, 3072, norm=True),
    Shape("llama-1b o", 2048, 2048, residual=True),
    Shape("llama-1b gate_up", 2048, 16384, norm=True, glu="silu"),
    Shape("llama-1b down", 8192, 2048, residual=True),
]


class Case:
    """One shape, type and quantisation with random data, and enough copies of the matrix to miss the cache."""

    def __init__(self, shape: Shape, dtype, bits: int, group: int, megabytes: int = 300):
        self.shape, self.dtype, self.bits, self.group = shape, dtype, bits, group
        rng = np.random.default_rng(1)
        words = rng.integers(0, 2**32, (shape.rows, shape.width * bits // 32), np.uint32)
        groups = (shape.rows, shape.width // group)
        scale = rng.uniform(0.5, 1.5, groups) / (2**bits * shape.width**0.5)
        weight = Weight.quantized(
            mx.array(words), mx.array(scale).astype(dtype), mx.array(-(2 ** (bits - 1)) * scale).astype(dtype),
            group_size=group, bits=bits,
        )  # fmt: skip
        self.norm = Norm(mx.array(rng.uniform(0.5, 1.5, shape.width)).astype(dtype), 1e-6) if shape.norm else None
        self.weight = with_gain(weight, self.norm) if self.norm else weight
        self.x = mx.array(rng.normal(size=(8, shape.width))).astype(dtype)
        self.residual = mx.array(rng.normal(size=(8, shape.outputs))).astype(dtype) if shape.residual else None
        self.copies = max(2, -(-(megabytes << 20) // shape.bytes(bits, group)))
        self.sets = None

    def truth(self) -> np.ndarray:
        """All 8 rows in float32."""
        x = self.x.astype(mx.float32)
        if self.norm:
            x = mx.fast.rms_norm(x, self.norm.weight.astype(mx.float32), self.norm.eps)
        w = self.weight
        y = x @ mx.dequantize(w.weight, w.scales.astype(mx.float32), w.biases.astype(mx.float32),
                              group_size=w.group_size, bits=w.bits).T  # fmt: skip
        if self.shape.glu:
            gate, up = mx.split(y, 2, axis=-1)
            y = gate * mx.sigmoid(gate) * up
        return np.array(y if self.residual is None else y + self.residual.astype(mx.float32))

    def fused(self, rows: int, through) -> list:
        """What linear_kernel launches for that many rows, caught by `through`."""
        residual = None if self.residual is None else self.residual[:rows]
        with launch.through(through), workspace.within(workspace.lasting()):
            return linear_kernel.fused(self.x[:rows], self.weight, self.norm, residual, self.shape.glu, None)

    def memories(self) -> list[dict[str, Memory]]:
        """Per copy of the matrix, device memory for every argument of the kernels, by name. All launches of a case send
        through the same places, one after another."""
        if self.sets is None:
            x, shape = Memory.of(raw(self.x)), self.shape
            packed = {"w": self.weight.weight, "scales": self.weight.scaling}
            once = {
                "x": x, "bias": x, "gain": x, "residual": x if self.residual is None else Memory.of(raw(self.residual)),
                "mail": Memory.of(np.full(1 << 20, workspace.EMPTY, np.uint32)),  # more places than any shape needs
                "after": x, "y": Memory.of(np.zeros((8, shape.outputs), np.uint32)),
            }  # fmt: skip
            self.sets = [once | {name: Memory.of(raw(a)) for name, a in packed.items()} for _ in range(self.copies)]
        return self.sets


def arguments(kernel: launch.Kernel, memories: dict[str, Memory]) -> list[Memory]:
    return [memories[name] for name in (*kernel.inputs, *kernel.outputs)]


class Knobs:
    """Knobs in force, instead of a table's."""

    def __init__(self, knobs: dict | None):
        self.knobs = knobs

    def __enter__(self):
        self.before = linear_kernel.chosen_knobs
        if self.knobs:
            linear_kernel.chosen_knobs = self.chosen

    def chosen(self, bits, group, width, rows, gated, dtype, count=1) -> dict:
        return linear_kernel.fitted(self.knobs, bits, group, width, gated, count)

    def __exit__(self, *_):
        linear_kernel.chosen_knobs = self.before


TOGETHER = (1, 2, 4)


def candidates(case: Case, kernel: str) -> list[dict]:
    """All knobs that are possible and make sense."""
    space = {
        "bytes": {"simds": (8, 10, 13, 16, 19, 20), "slice": (2, 4), "outs": outs(case, TOGETHER), "depth": (1, 2, 3), "resident": (1,),
                  "together": TOGETHER},
        "tiles": {"simds": (5, 8, 10, 16, 19, 20), "slice": (1, 2, 4, 5, 8), "outs": outs(case), "depth": (1, 2, 3, 4), "resident": (1, 2, 3, 4)},
        "lanes": {"simds": (2, 4, 8), "split": (1, 2, 4, 8), "rows": (2, 4, 8), "values": (8, 16, 32)},
    }[kernel]  # fmt: skip
    all_knobs = [
        {"kernel": kernel, **dict(zip(space, values, strict=True))} for values in itertools.product(*space.values())
    ]
    group = case.bits, case.group, case.shape.width
    return [k for k in all_knobs if not linear_kernel.impossible(k, *group, case.shape.glu is not None, case.dtype) and sensible(k, case)]


def outs(case: Case, together: tuple[int, ...] = ()) -> list[int]:
    """So many outputs of a threadgroup that 1 to 8 of them come to each core; or one, where so many are together."""
    outputs, cores = case.shape.outputs, launch.cores()
    return sorted({-(-outputs // (cores * n)) for n in range(1, 9)} | {-(-outputs * t // cores) for t in together} | {8, 16})


def sensible(knobs: dict, case: Case) -> bool:
    """Simdgroups with work, threadgroups enough for a large GPU, and registers for those that share a core."""
    if knobs["kernel"] == "lanes":
        return knobs["split"] in (1, knobs["simds"])
    units = case.shape.width // linear_kernel.unit_of(case.bits, case.group)
    together = knobs.get("together", 1)
    slots = together * knobs["simds"] * knobs["slice"]
    groups = together * case.shape.outputs / linear_kernel.outputs_of_group(knobs, case.shape.glu is not None)
    registers = linear_kernel.registers(knobs)
    return (
        units / (-(-units // slots) * slots) > 0.9
        and groups > (60 if knobs["kernel"] == "bytes" else 100)
        and 32 * knobs["simds"] * knobs["resident"] * registers < 60000
        and (knobs["resident"] > 1 or 32 * knobs["simds"] * registers > 20000)
    )


def variant(case: Case, knobs: dict | None, rows: int) -> tuple:
    """What is launched: kernel, types, template, groups, threads."""
    caught = []

    def catch(kernel, inputs, outputs, template, groups, threads):
        caught.append((kernel, [x.dtype for x in inputs], [outputs[0][1]], template, groups, threads))
        return [mx.zeros(shape, dtype) for shape, dtype in outputs]

    with Knobs(knobs):
        case.fused(rows, catch)
    return caught[0]


def warm_up(seconds: float = 0.4) -> None:
    """Until the clocks are up: an idle GPU starts at a fifth of its clock."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        device.copy_gbps(256)


def build(jobs: list[tuple]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda job: cuda.build(*job[:4], job[5]), jobs))


def error(case: Case, knobs: dict | None, rows: int, truth: np.ndarray) -> float:
    with Knobs(knobs):
        y = np.array(case.fused(rows, launch.RUN[launch.machine()]).astype(mx.float32))
    return float(np.linalg.norm(y - truth[:rows]) / np.linalg.norm(truth[:rows]))


def chain_us(step, x: mx.array, count: int) -> float:
    """Microseconds of step(x, i), each call after the one before, through MLX and compiled."""

    def chained(x):
        with workspace.within(workspace.Workspace(x)):
            for i in range(count):
                x = mx.depends([x], [step(x, i)])[0]
            return x

    chained = mx.compile(chained)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        mx.eval(chained(x))
        times.append((time.perf_counter() - start) * 1e6 / count)
    return sorted(times[2:])[len(times[2:]) // 2]


def mlx_us(case: Case, rows: int) -> float:
    """The matrix product alone, by MLX."""
    w, copies = case.weight, min(case.copies, 40)
    parts = [(w.weight + mx.array(0, mx.uint32), w.scales + 0, w.biases + 0) for _ in range(copies)]
    mx.eval(parts)
    return chain_us(
        lambda x, i: mx.quantized_matmul(
            x, *parts[i % copies], transpose=True, group_size=w.group_size, bits=w.bits
        ), case.x[:rows], 80,
    )  # fmt: skip


def through_mlx_us(case: Case, rows: int) -> float:
    """`linear` as the engine calls it."""
    w, copies = case.weight, min(case.copies, 40)
    parts = [replace(w, weight=w.weight + mx.array(0, mx.uint32), scaling=w.scaling + 0) for _ in range(copies)]
    mx.eval([part.arrays for part in parts])
    residual = None if case.residual is None else case.residual[:rows]
    return chain_us(
        lambda x, i: linear_kernel.fused(x, parts[i % copies], case.norm, residual, case.shape.glu, None),
        case.x[:rows], 80,
    )  # fmt: skip


def time_rows(case: Case, knobs: dict | None, rows: list[int]) -> dict[int, float]:
    variants = {r: variant(case, knobs, r) for r in rows}
    return {
        r: device.launch_us(Launcher(*launched), [arguments(launched[0], memories) for memories in case.memories()])
        for r, launched in variants.items()
    }


def layer_us(cases: dict[str, Case], rows: int) -> float:
    """Microseconds of qkv, o, gate_up and down, one after another: in a model no kernel finds its text in a core's cache, and
    its x has just been written. For attention stands an array that nobody writes.
    """
    variants = {name: variant(case, None, rows) for name, case in cases.items()}
    launchers = {name: Launcher(*launched) for name, launched in variants.items()}
    stream, seen = cases["qkv"].memories()[0]["x"], cases["o"].memories()[0]["x"]
    turns = max(case.copies for case in cases.values())

    def layer(turn: int) -> dict[str, dict[str, Memory]]:
        qkv, o, gate_up, down = (
            cases[name].memories()[turn % cases[name].copies] for name in ("qkv", "o", "gate_up", "down")
        )
        return {
            "qkv": qkv | {"x": stream},
            "o": o | {"x": seen, "residual": stream},
            "gate_up": gate_up | {"x": o["y"]},
            "down": down | {"x": gate_up["y"], "residual": o["y"], "y": stream},
        }

    def record(of):
        for turn in range(turns):
            for name, given in layer(turn).items():
                launchers[name].launch(of, arguments(variants[name][0], given))

    return Graph(record).replay_us() / turns


def layers(args, rows: list[int]) -> Iterator[dict]:
    for model in sorted({shape.name.split()[0] for shape in SHAPES if args.only in shape.name}):
        found = {shape.name.split()[1]: shape for shape in SHAPES if shape.name.startswith(f"{model} ")}
        of_layer = {name: Case(found[name], mx.bfloat16, args.bits, args.group) for name in ("qkv", "o", "gate_up", "down")}
        build([variant(case, None, r) for case in of_layer.values() for r in rows])
        warm_up()
        us = {r: layer_us(of_layer, r) for r in rows}
        print(f"{model}, a layer  {' '.join(f'{r}:{value:7.2f}' for r, value in us.items())} us", flush=True)
        yield {"layer": model, "us": us}


def right(case: Case, found: list[dict], rows: int) -> list[dict]:
    """The candidates whose result is right; the others are said."""
    truth, kept = case.truth(), []
    for knobs in found:
        wrong = error(case, knobs, rows, truth)
        if wrong < 5e-3:
            kept.append(knobs)
        else:
            print(f"  WRONG {knobs}: error {wrong:.2g}")
    return kept


def sweep(case: Case, kernel: str, seconds: float, finalists: int = 12) -> list[dict]:
    """The best candidates at 8 rows, then at 1 too, best first."""
    start = time.perf_counter()
    found = candidates(case, kernel)
    random.Random(1).shuffle(found)
    build([variant(case, knobs, 8) for knobs in found])
    print(f"  {len(found)} candidates built in {time.perf_counter() - start:.1f} s", flush=True)
    found, results = right(case, found, 8), []
    warm_up()
    for knobs in found:
        if time.perf_counter() - start > seconds:
            print(f"  out of time: {len(found) - len(results)} candidates not tried")
            break
        results.append({"knobs": knobs, "us": time_rows(case, knobs, [8])})
    best = sorted(results, key=lambda r: r["us"][8])[:finalists]
    build([variant(case, r["knobs"], 1) for r in best])
    warm_up()
    for result in best:
        result["us"] = time_rows(case, result["knobs"], [1, 8])
    return sorted(best, key=lambda r: sum(r["us"].values()))


def in_force(case: Case, rows: list[int]) -> dict:
    build([variant(case, None, r) for r in rows])
    truth = case.truth()
    warm_up()
    errors = {r: error(case, None, r, truth) for r in rows}
    return {"us": time_rows(case, None, rows), "error": errors, "mlx_us": {r: mlx_us(case, r) for r in rows},
            "through_mlx_us": {r: through_mlx_us(case, r) for r in rows}}  # fmt: skip


def show(case: Case, result: dict, copy: float) -> None:
    size = case.shape.bytes(case.bits, case.group)
    times = " ".join(f"{r}:{us:7.2f}" for r, us in result["us"].items())
    first = next(iter(result["us"].values()))
    knobs = " ".join(str(v) for v in result.get("knobs", {}).values())
    print(f"  {times} us  {size / first / 1e3:5.0f} GB/s {100e-3 * size / first / copy:3.0f}%  {knobs}", flush=True)


def cases(args):
    return (Case(shape, mx.bfloat16, args.bits, args.group) for shape in SHAPES if args.only in shape.name)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sweep", choices=("bytes", "tiles", "lanes"), help="try every candidate of this kernel")
    options.add_argument("--layer", action="store_true", help="a layer's products in a row, of the models whose shapes --only lets through")
    options.add_argument("--only", default="", help="shapes whose name contains this")
    options.add_argument("--seconds", type=float, default=20.0, help="of a shape's sweep")
    options.add_argument("--cubins", type=Path, help="a folder to keep compiled kernels in")
    options.add_argument("--build", action="store_true", help="only compile")
    options.add_argument("--show", type=int, default=6, help="candidates to print")
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--group", type=int, default=64)
    options.add_argument("--out", help="a file for all numbers")
    args = options.parse_args()
    cubins.use_folder(args.cubins)
    if args.build:
        for case in cases(args):
            build([variant(case, knobs, 8) for knobs in candidates(case, args.sweep)])
        return
    warm_up()
    copy = device.copy_gbps()
    print(f"{launch.chip()[1]}, MLX {mx.__version__}, copy {copy:.0f} GB/s", flush=True)
    kept = list(layers(args, [1, 2, 4, 8])) if args.layer else []
    for case in () if args.layer else cases(args):
        shape = case.shape
        print(f"{shape.name} {shape.width}->{shape.rows}", flush=True)
        if args.sweep:
            results = sweep(case, args.sweep, args.seconds)
        else:
            results = [in_force(case, [1, 2, 4, 8])]
        for result in results[: args.show]:
            show(case, result, copy)
        if not args.sweep:
            print("    through MLX", results[0]["through_mlx_us"], "\n    mx.quantized_matmul", results[0]["mlx_us"])
        kept.append({"shape": shape.name, "bytes": shape.bytes(args.bits, args.group), "results": results})
    if args.out:
        with open(args.out, "w") as file:
            json.dump({"chip": launch.chip()[1], "mlx": mx.__version__, "copy_gbps": copy, "shapes": kept}, file)


if __name__ == "__main__":
    main()
