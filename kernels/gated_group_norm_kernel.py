"""`gated_group_norm` on a GPU in one dispatch, for any number of rows, and what it does not cover."""

from . import launch
from .columns import named
from .linear_kernel import FLOATS, float_bits

MAX_SIZE = 16384  # of a group: 64 elements a thread
KERNEL = launch.Kernel("gated_group_norm", ("y", "gate", "gain"), ("out",))


def case(y, groups) -> tuple:
    return (str(y.dtype).split(".")[-1], f"{groups} groups of {y.shape[-1] // groups}")


def covers(y, gate, norm, groups) -> str | None:
    """Why there is no kernel for this call, or None."""
    if y.dtype not in FLOATS or {gate.dtype, norm.weight.dtype} != {y.dtype}:
        return f"y, gate and weight are {y.dtype}, {gate.dtype}, {norm.weight.dtype}"
    if y.shape[-1] // groups > MAX_SIZE:
        return f"groups of more than {MAX_SIZE}"
    return None


def fused(y, gate, norm, groups):
    gate, width = named(gate), y.shape[-1]
    simds = launch.knobs("gated_group_norm", f"{width // groups}", {"simds": 8})["simds"]
    (out,) = KERNEL(
        [y, gate.whole, norm.weight],
        [(y.shape, y.dtype)],
        template={
            "T": y.dtype, "GROUPS": groups, "SIZE": width // groups, "Z_WIDTH": gate.whole.shape[-1],
            "Z_FIRST": gate.first, "EPS": float_bits(norm.eps), "SIMDS": simds,
        },
        groups=(groups, y.size // width, 1),
        threads=32 * simds,
    )  # fmt: skip
    return out
