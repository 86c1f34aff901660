"""`add_norm` on a GPU: norm, sum and scalar in one launch, a threadgroup a row.

Knobs: simds (simdgroups in a threadgroup).
"""

import mlx.core as mx

from . import launch
from .linear_kernel import FLOATS, float_bits

KERNEL = launch.Kernel("add_norm", ("x", "y", "weight", "scale"), ("o",), optional=("weight", "scale"))
MOST = 1 << 14  # elements of a row: 16 of 32-bit numbers stay in each thread's registers


def case(x, scale) -> tuple:
    return (str(x.dtype).split(".")[-1], f"{x.shape[-1]} wide", *(() if scale is None else ("scaled",)))


def covers(x, y, norm, scale) -> str | None:
    """Why there is no kernel for this call, or None."""
    if x.dtype not in FLOATS:
        return f"x is {x.dtype}"
    if x.shape != y.shape:
        return f"x and y differ in shape, {x.shape} and {y.shape}"
    if not 8 <= x.shape[-1] <= MOST:
        return f"rows of {x.shape[-1]}; 8 to {MOST} are covered"
    for name, array in (("y", y), ("the weight", norm.weight), ("the scale", scale)):
        if array is not None and array.dtype != x.dtype:
            return f"{name} and x differ in type"
    return None if scale is None or scale.size == 1 else "a scale for each element"


def fused(x, y, norm, scale) -> mx.array:
    width = x.shape[-1]
    simds = launch.knobs("add_norm", f"{width}", {"simds": max(1, min(32, width // 256))})["simds"]
    (o,) = KERNEL(
        [x, y, y if norm.weight is None else norm.weight, x if scale is None else scale.reshape(1)],
        [(x.shape, x.dtype)],
        template={
            "T": x.dtype, "D": width, "SIMDS": simds, "EPS": float_bits(norm.eps),
            "WEIGHTED": norm.weight is not None, "SCALED": scale is not None,
        },
        groups=(x.size // width, 1, 1),
        threads=32 * simds,
    )  # fmt: skip
    return o
