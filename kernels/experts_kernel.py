"""`experts` for 1 to 8 rows on a GPU in two dispatches, and what they do not cover.

msl/experts.metal takes every (row, expert) pair by itself, msl/experts_down.metal a row with all its experts: a row has
the same bits alone and beside others, whichever experts these have.

Knobs of "experts": simds (simdgroups in a threadgroup), rows (of the matrix, a simdgroup; gate and up count as two),
values (of k, a lane and step), resident (threadgroups to fit on a core: only CUDA's compiler is told). Of "experts_down":
also split (how many simdgroups share the values of the same rows).
"""

import math

import mlx.core as mx

from . import launch
from .columns import named
from .linear_kernel import ACTS, MAX_ROWS, float_bits, refuses_extras, refuses_matrix

MAX_WIDTH = 7680  # float32 of one row in 30 KiB of threadgroup memory
UP = launch.Kernel("experts", ("x", "routed", "w", "scales", "bias", "gain"), ("h",), optional=("scales", "bias", "gain"))
DOWN = launch.Kernel(
    "experts_down",
    ("h", "routed", "w", "scales", "bias", "residual", "beside", "gate"),
    ("y",),
    optional=("scales", "bias", "residual", "beside", "gate"),
)


def case(x, routed, up, down, glu, act) -> tuple:
    """What tells calls apart in launch.report."""
    first = up[0] if isinstance(up, tuple) else up
    kind = f"{down.bits}-bit" if down.packed else str(down.weight.dtype).split(".")[-1]
    shape = f"{x.shape[-1]}->{inner(down)}->{down.weight.shape[1]}"
    return (kind, shape, f"{routed.shape[-1]} of {len(first.weight)}", *filter(None, (glu, act)))


def inner(weight) -> int:
    """Width that the matrices of a stack take."""
    words = weight.weight.shape[-1]
    return words * 32 // weight.bits if weight.packed else words


def covers(x, routed, up, down, glu, act, norm, residual, beside) -> str | None:
    """Why there is no kernel for this call, or None."""
    if x.size > MAX_ROWS * x.shape[-1]:
        return f"more than {MAX_ROWS} rows"
    if isinstance(up, tuple):
        return "parts that differ in quantisation"
    if x.shape[-1] > MAX_WIDTH:
        return f"rows wider than {MAX_WIDTH}"
    if inner(down) % 32:
        return "experts of a width that is no multiple of 32"
    return (
        refuses_matrix(x, up)
        or refuses_matrix(x, down)
        or refuses_extras(x, up, norm, residual, glu, act)
        or refuses_rest(x, routed, down, beside)
    )


def refuses_rest(x, routed, down, beside) -> str | None:
    if routed.types != (mx.uint32, mx.float32):
        return "indices are {}, weights {}".format(*routed.types)
    extras = {"bias": down.bias} | dict(zip(("beside", "gate"), beside or (None, None), strict=True))
    for name, array in extras.items():
        if array is not None and array.dtype != x.dtype:
            return f"{name} and x differ in type"
    return None


def fused(x, routed, up, down, glu, act, norm, residual, beside) -> mx.array:
    """beside: None, or what stands beside the experts [..., D] and the gate of its sigmoid [..., 1]."""
    top, words, rows = routed.shape[-1], routed.words, x.size // x.shape[-1]
    width, outputs = inner(down), down.weight.shape[1]
    later = chosen_knobs("experts_down", down, x.dtype, width, outputs, top)
    h = hidden(x, words, up, glu or act, norm, width, later["values"])
    own, gate = (h, named(h)) if beside is None else (beside[0], named(beside[1]))
    extras = [down.scaling, down.bias, residual, own, gate.whole]  # h stands where there is nothing
    (y,) = DOWN(
        [h, words, down.weight, *(h if array is None else array for array in extras)],
        [((*x.shape[:-1], outputs), x.dtype)],
        template={
            **matrix_of(down, x.dtype, width, outputs, top), "BIAS": down.bias is not None,
            "RESIDUAL": residual is not None, "BESIDE": beside is not None,
            "GATE_WIDTH": gate.whole.shape[-1], "GATE_FIRST": gate.first, **capitals(later),
        },
        groups=(-(-outputs // (later["rows"] * (later["simds"] // later["split"]))), rows, 1),
        threads=32 * later["simds"],
    )  # fmt: skip
    return y


def hidden(x, words, up, act, norm, outputs, lane) -> mx.array:
    """The activations of all pairs, [N, K F] in the order that experts_down.metal loads them, `lane` values a step."""
    top, width, pairs = words.shape[-1], x.shape[-1], words.size // 2
    knobs = chosen_knobs("experts", up, x.dtype, width, up.weight.shape[1], top)
    each = knobs["rows"] // (2 if ACTS[act] in (1, 2) else 1) * knobs["simds"]
    behind = up.ends_in(norm)
    gain = None if norm is None or behind else norm.weight
    (h,) = UP(
        [x, words, up.weight, *(x if a is None else a for a in (up.scaling, up.bias, gain))],
        [((pairs // top, top * outputs), x.dtype)],
        template={
            **matrix_of(up, x.dtype, width, outputs, top), "ACT": ACTS[act], "NORM": norm is not None,
            "BEHIND": behind, "EPS": float_bits(norm.eps if norm else 0.0), "BIAS": up.bias is not None, "LANE": lane, **capitals(knobs),
        },
        groups=(-(-outputs // each), pairs, 1),
        threads=32 * knobs["simds"],
    )  # fmt: skip
    return h


def matrix_of(weight, dtype, width, outputs, top) -> dict:
    bits = weight.bits if weight.packed else 8 * dtype.size
    group = weight.group_size if weight.packed else width
    return {"T": dtype, "E": len(weight.weight), "TOP": top, "K": width, "O": outputs, "BITS": bits, "GROUP": group}


def capitals(knobs: dict) -> dict:
    return {name.upper(): value for name, value in knobs.items()}


# ---- knobs


def chosen_knobs(op: str, weight, dtype: mx.Dtype, width: int, rows: int, top: int) -> dict:
    """From the tuning tables where they know this shape on this chip and it is possible, else the default."""
    bits = weight.bits if weight.packed else 8 * dtype.size
    found = launch.knobs(op, f"{bits}-bit {top}x{width}->{rows}", {})
    return found if found and not impossible(found, bits, width) else DEFAULTS[op](bits, width, top)


def impossible(knobs: dict, bits: int, width: int) -> str | None:
    """Why a kernel cannot run with these knobs, or None."""
    values = knobs["values"]
    if values * bits // 32 not in (1, 2, 4) or width % values or values % 4 or 32 % values:
        return "values must fill 1, 2 or 4 words, and divide 32 and the width"
    if not 1 <= knobs["simds"] <= 32 or knobs["simds"] % knobs.get("split", 1):
        return "a threadgroup has 1 to 32 simdgroups, of which split take the same rows"
    return "rows must be even: gate and up go together" if knobs["rows"] % 2 else None


def large(bits: int) -> bool:
    """Whether a lane has registers for 32 values of 8 rows. NVIDIA H200, 4 bits in groups of 64, experts of five models, 1 and 8
    tokens: together 5 to 30% less time than with 16 values of 4 rows; with 8 bits as much or more.
    """
    return bits == 4 and launch.on_nvidia()


def widest(bits: int, width: int) -> int:
    """Up to 16 bytes a lane, and up to 16 values, or 32, whose floats must have registers: or what divides the width."""
    return math.gcd(min(32 if large(bits) else 16, 128 // bits), width)


def default_up(bits: int, width: int, top: int) -> dict:
    rows, resident = (8, 4) if large(bits) else (4, 6)
    return {"simds": 4, "rows": rows, "values": widest(bits, width), "resident": resident}


def default_down(bits: int, width: int, top: int) -> dict:
    """As many simdgroups for the same rows, up to 8, as leave every lane few steps: all their loads can be on their way."""
    values, (rows, resident) = widest(bits, width), (8, 2) if large(bits) else (4, 4)
    split = min(8, -(-top * width // (32 * values)))
    return {"simds": split * max(1, 8 // split), "split": split, "rows": rows, "values": values, "resident": resident}


DEFAULTS = {"experts": default_up, "experts_down": default_down}
