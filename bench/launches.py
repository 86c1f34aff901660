"""What a launch costs the host: microseconds of a kernel that does next to nothing, and of each input and output more.

    python -m smelt.bench.launches
    python -m smelt.bench.launches --json out.json

A chain of kernels, each on the result of the one before and on arrays of its own, is traced by mx.compile as a decode step
is. Timed is the call of the trace and its submission, not what the GPU then does, divided by the kernels: the median of
some rounds. The costs are slopes: least squares over 1 to 16 inputs, and over 1 to 4 outputs.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..kernels import launch
from .chain import needs_a_gpu
from .decode import machine

KERNELS = 190  # of a chain: a step of the Qwen3-4B shape
ROUNDS = 60
SIZE = 64  # elements of an array
CASES = [(1, 1), (2, 1), (4, 1), (8, 1), (12, 1), (16, 1), (4, 2), (4, 4)]  # inputs, outputs


def chain(inputs: int, outputs: int):
    """A traced function of one array, which launches KERNELS kernels."""
    names, made = [f"a{i}" for i in range(inputs)], [f"y{i}" for i in range(outputs)]
    body = "".join(f"{name}[0] = a0[0];" for name in made)
    settings = {"name": f"launch_{inputs}_{outputs}", "input_names": names, "output_names": made}
    if launch.machine() == "metal":
        kernel = mx.fast.metal_kernel(**settings, source=f"if (thread_position_in_grid.x == 0) {{ {body} }}")
    else:
        kernel = mx.fast.cuda_kernel(**settings, source=f"if (threadIdx.x == 0) {{ {body} }}")
    own = [[mx.ones((SIZE,)) for _ in range(inputs - 1)] for _ in range(KERNELS)]
    mx.eval(own)

    def run(x):
        for others in own:
            x = kernel(
                inputs=[x, *others], template=[], grid=(32, 1, 1), threadgroup=(32, 1, 1),
                output_shapes=outputs * [(SIZE,)], output_dtypes=outputs * [mx.float32],
            )[0]  # fmt: skip
        return x

    return mx.compile(run)


def launch_us(function, rounds: int = ROUNDS, clock=time.perf_counter) -> float:
    """Of one kernel of the chain, on the host."""
    x, times = mx.ones((SIZE,)), []
    mx.eval(function(x))
    for _ in range(rounds):
        begin = clock()
        y = function(x)
        mx.async_eval(y)
        times.append(clock() - begin)
        mx.eval(y)
    return 1e6 * statistics.median(times) / KERNELS


def costs(found: dict[tuple[int, int], float]) -> dict[str, float]:
    """Of a launch with one input and one output, of each input more, and of each output more."""
    by_inputs = np.array([[n, us] for (n, m), us in found.items() if m == 1])
    by_outputs = np.array([[m, us] for (n, m), us in found.items() if n == 4])
    slope = lambda points: float(np.polyfit(*points.T, 1)[0])  # noqa: E731
    return {"launch": found[1, 1], "input": slope(by_inputs), "output": slope(by_outputs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    args = parser.parse_args()
    needs_a_gpu()
    found = {case: launch_us(chain(*case)) for case in CASES}
    for (inputs, outputs), us in found.items():
        print(f"{inputs:3} inputs, {outputs} outputs: {us:6.2f} us")
    found_costs = costs(found)
    print(", ".join(f"{name} {us:.2f} us" for name, us in found_costs.items()))
    if args.json:
        cases = [{"inputs": n, "outputs": m, "us": us} for (n, m), us in found.items()]
        whole = {"command": f"python -m smelt.bench.launches --json {args.json}", "machine": machine(), "costs": found_costs, "cases": cases}
        args.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
