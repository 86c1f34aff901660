"""The router's kernel and the experts' two, against the same in mx ops.

    python -m smelt.bench.bench_experts                     published shapes, 1 to 8 rows
    python -m smelt.bench.bench_experts --device            CUDA: also what each kernel takes on the device alone
    python -m smelt.bench.bench_experts --sweep             CUDA: the same for every candidate of the knobs, best first

Weights are random, 4-bit in groups of 64 by default. Every call goes to other experts, so that weights come from memory.
Bytes are those of the matrices of all experts that a call goes to.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..kernels import cuda, experts_kernel, launch
from ..kernels.experts import experts
from ..kernels.linear import Weight, with_gain
from ..kernels.norm import Norm
from ..kernels.router import Routed, Routing, route
from .chain import compared, needs_a_gpu, options, random_bits, report

CALLS = 48  # with experts of their own


@dataclass(frozen=True)
class Shape:
    name: str
    width: int
    inner: int
    count: int
    top: int
    score: str = "softmax"
    glu: str | None = "silu"

    @property
    def act(self) -> str | None:
        return None if self.glu else "relu2"


SHAPES = [
    Shape("qwen3-30b-a3b", 2048, 768, 128, 8),
    Shape("qwen3-next-80b-a3b", 2048, 512, 512, 10),
    Shape("lfm2-8b-a1b", 2048, 1792, 32, 4, "sigmoid"),
    Shape("nemotron-3-nano", 2688, 1856, 128, 6, "sigmoid", None),
    Shape("mixtral-8x7b", 4096, 14336, 8, 2),
]


def stack(count: int, outputs: int, width: int, bits: int, group: int, dtype) -> Weight:
    if bits == 16:
        return Weight(mx.random.normal((count, outputs, width), dtype) * width**-0.5)
    shape = (count, outputs, width // group)
    scales = mx.random.uniform(0.5, 1.5, shape) / (2**bits * width**0.5)
    words = random_bits(count, outputs, width * bits // 32)
    biases = -(2 ** (bits - 1)) * scales
    return Weight.quantized(words, scales.astype(dtype), biases.astype(dtype), group_size=group, bits=bits)


class Case:
    def __init__(self, shape: Shape, bits: int, group: int, dtype=mx.bfloat16):
        self.shape = shape
        self.norm = Norm(mx.random.uniform(0.5, 1.5, (shape.width,)).astype(dtype), 1e-6)
        up = stack(shape.count, (2 if shape.glu else 1) * shape.inner, shape.width, bits, group, dtype)
        self.up = with_gain(up, self.norm)
        self.down = stack(shape.count, shape.width, shape.inner, bits, group, dtype)
        self.x = mx.random.normal((8, shape.width), dtype)
        self.logits = mx.random.normal((8, shape.count), dtype)
        order = mx.argsort(mx.random.uniform(shape=(CALLS, 8, shape.count)), axis=-1)
        self.indices, self.weights = order[..., : shape.top], mx.full((CALLS, 8, shape.top), 1 / shape.top)
        mx.eval(self.up.arrays, self.down.arrays, self.norm.weight, self.x, self.logits, self.indices, self.weights)

    def bytes(self, rows: int) -> int:
        """On the average of all calls."""
        chosen = np.array(self.indices[:, :rows]).reshape(CALLS, -1)
        used = sum(len(np.unique(row)) for row in chosen) / CALLS
        return round(used / self.shape.count * sum(a.nbytes for a in (*self.up.arrays, *self.down.arrays)))

    def routed(self, rows: int) -> list[Routed]:
        """Of every call, as the router's kernel makes it."""
        made = [Routed((self.indices[i, :rows], self.weights[i, :rows])).joined() for i in range(CALLS)]
        mx.eval([each.words for each in made])
        return made

    def experts(self, x: mx.array, routed: Routed) -> mx.array:
        s = self.shape
        return experts(x, routed, self.up, self.down, glu=s.glu, act=s.act, norm=self.norm, residual=x)

    def route(self, logits: mx.array, i: int) -> mx.array:
        return mx.sort(route(logits, Routing(self.shape.top, self.shape.score)).weights, axis=-1)

    def results(self, rows: int):
        name, routed = f"{self.shape.name}, {rows} rows", self.routed(rows)
        forward = lambda x, i: self.experts(x, routed[i])  # noqa: E731
        yield compared(f"{name}: experts", forward, self.x[:rows], self.bytes(rows), CALLS)
        yield compared(f"{name}: router (and a sort)", self.route, self.logits[:rows], 2 * rows * self.shape.count, CALLS)


# ---- what a kernel takes on a CUDA device alone


class Device:
    """The launches of all calls with some rows, and device memory for their arrays."""

    def __init__(self, case: Case, rows: int):
        from ..kernels.device_timing import Memories

        self.case, self.rows, self.memories, self.routed = case, rows, Memories(), case.routed(rows)

    def launches(self) -> dict[str, list[tuple]]:
        """Of each kernel, one for every call."""
        found: dict[str, list[tuple]] = {}

        def catch(kernel, inputs, outputs, template, groups, threads):
            found.setdefault(kernel.name, []).append((kernel, inputs, outputs, template, groups, threads))
            return [mx.zeros(shape, dtype) for shape, dtype in outputs]

        with launch.through(catch):
            for routed in self.routed:
                self.case.experts(self.case.x[: self.rows], routed)
        return found

    def memory(self, array: mx.array):
        return self.memories.of(array, 0)

    def us(self, calls: list[tuple]) -> float:
        from ..kernels.cuda_driver import Launcher
        from .kernels_cuda import launch_us

        kernel, inputs, outputs, template, groups, threads = calls[0]
        launcher = Launcher(kernel, [x.dtype for x in inputs], [t for _, t in outputs], template, groups, threads)
        made = [self.memory(mx.zeros(shape, dtype)) for shape, dtype in outputs]
        return launch_us(launcher, [[*map(self.memory, call[1]), *made] for call in calls])


def compile_all(jobs: list[tuple]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda j: cuda.build(j[0], [x.dtype for x in j[1]], [t for _, t in j[2]], j[3], j[5]), jobs))


def on_device(case: Case, rows: int) -> None:
    device = Device(case, rows)
    for name, calls in device.launches().items():
        part = case.up if name == "experts" else case.down
        size = case.bytes(rows) * sum(a.nbytes for a in part.arrays)
        size //= sum(a.nbytes for a in (*case.up.arrays, *case.down.arrays))
        us = device.us(calls)
        print(f"  {case.shape.name}, {rows} rows, {name} alone: {us:.2f} us, {size / us / 1e3:.0f} GB/s", flush=True)


def candidates(op: str, case: Case) -> list[dict]:
    space = {"simds": (2, 4, 8), "rows": (2, 4, 8), "values": (8, 16, 32), "resident": (2, 4, 6, 8)}
    weight, width = (case.up, case.shape.width) if op == "experts" else (case.down, case.shape.inner)
    if op == "experts_down":
        space |= {"simds": (4, 6, 8), "split": (1, 2, 3, 4, 6, 8)}
    found = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    bits = weight.bits or 16
    return [k for k in found if not experts_kernel.impossible(k, bits, width) and 32 * k["simds"] * k["resident"] <= 1024]


def sweep(case: Case, rows: int, show: int = 6) -> None:
    device, chosen = Device(case, rows), experts_kernel.chosen_knobs
    for op in experts_kernel.DEFAULTS:
        launches = []
        for knobs in candidates(op, case):
            experts_kernel.chosen_knobs = lambda name, *rest, k=knobs, op=op: k if name == op else chosen(name, *rest)
            launches.append((knobs, device.launches()[op]))
        experts_kernel.chosen_knobs = chosen
        compile_all([calls[0] for _, calls in launches])
        times = sorted(((device.us(calls), str(knobs)) for knobs, calls in launches), key=lambda pair: pair[0])
        print(f"  {case.shape.name}, {rows} rows, {op}: {len(times)} candidates")
        for us, knobs in times[:show]:
            print(f"    {us:7.2f} us  {knobs}", flush=True)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8, 16))
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--device", action="store_true", help="time each kernel on the device alone (CUDA)")
    parser.add_argument("--sweep", action="store_true", help="try every candidate of the knobs (CUDA)")
    args = parser.parse_args()
    needs_a_gpu()
    results = []
    for shape in SHAPES:
        if args.only not in shape.name:
            continue
        case = Case(shape, args.bits, args.group)
        for rows in args.rows:
            results += case.results(rows)
            if args.device:
                on_device(case, rows)
            if args.sweep:
                sweep(case, rows)
    report(results, args.out)


if __name__ == "__main__":
    main()
