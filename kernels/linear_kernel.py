"""`linear` for 1 to 8 rows on a GPU: which of three kernels, with which knobs, and what they do not cover.

msl/linear_bytes.metal has NVIDIA's matrix units multiply bytes: packed matrices, rows of x as whole numbers of 16 bits.
msl/linear_tiles.metal has matrix units multiply 16-bit floats, at the same cost for 1 to 8 rows; msl/linear.metal computes
dot products lane by lane, in any float type. Which one a shape takes never depends on the number of rows, and no kernel's
order of additions does, so that a row has the same bits alone and beside others.

Knobs of "tiles": simds (simdgroups in a threadgroup, which share k), slice (loads of k that one simdgroup keeps of x), outs
(outputs of a threadgroup, in tiles of 8), depth (pairs of tiles whose loads are under way), resident (threadgroups to fit
on a core: only CUDA's compiler is told); "bytes" has these and more (linear_bytes.py). Of "lanes": simds, split (how many
of them share k), rows (of the matrix, a simdgroup; gate and up count as two), values (of k, a lane and step).
"""

import math
import struct
from functools import cache

import mlx.core as mx

from . import launch, linear_bytes, workspace
from .linear_bytes import MAX_ROWS, unit_of

ACTS = {None: 0, "silu": 1, "gelu_tanh": 2, "relu2": 3}  # as activation.metal numbers them
FLOATS = (mx.float16, mx.bfloat16, mx.float32)

INPUTS = ("x", "w", "scales", "bias", "gain", "residual")  # scales: the biases follow them, and the gain may
SENT = ("mail", "after")
LANES, TILES = (launch.Kernel(name, INPUTS, ("y",), optional=INPUTS[2:]) for name in ("linear", "linear_tiles"))
BYTES = launch.Kernel("linear_bytes", INPUTS + SENT, ("y",), written=("mail",), optional=(*INPUTS[2:], *SENT))
KERNELS = {"tiles": TILES, "bytes": BYTES, "lanes": LANES}


def case(x, weight, glu, act) -> tuple:
    """What tells calls apart in launch.report."""
    parts = weight if isinstance(weight, tuple) else (weight,)
    kinds = "+".join(f"{w.bits}-bit" if w.packed else str(w.weight.dtype).split(".")[-1] for w in parts)
    return (kinds, f"{x.shape[-1]}->{sum(w.rows for w in parts)}", *filter(None, (glu, act)))


def covers(x, weight, norm, residual, glu, act) -> str | None:
    """Why there is no kernel for this call, or None."""
    if x.size > MAX_ROWS * x.shape[-1]:
        return f"more than {MAX_ROWS} rows"
    if isinstance(weight, tuple):
        return "parts that differ in quantisation"
    return refuses_matrix(x, weight) or refuses_extras(x, weight, norm, residual, glu, act)


def refuses_matrix(x, weight) -> str | None:
    if x.dtype not in FLOATS:
        return f"x is {x.dtype}"
    if weight.packed and (weight.mode != "affine" or weight.bits not in (4, 8)):
        return f"{weight.bits}-bit {weight.mode} weights"
    if weight.packed and weight.group_size not in (32, 64, 128):
        return f"groups of {weight.group_size}"
    if (weight.scaling if weight.packed else weight.weight).dtype != x.dtype:
        return "weights and x differ in type"
    if x.shape[-1] % 32:
        return "a width that is no multiple of 32"
    return None


def refuses_extras(x, weight, norm, residual, glu, act) -> str | None:
    if act not in ACTS or glu not in ACTS or (glu and act):
        return f"no epilogue {glu or ''} {act or ''}"
    if glu == "relu2" or act in ("silu", "gelu_tanh"):
        return f"{glu or act} only as {'act' if glu else 'glu'}"
    extras = {"bias": weight.bias, "norm": norm and norm.weight, "residual": residual}
    for name, array in extras.items():
        if array is not None and array.dtype != x.dtype:
            return f"{name} and x differ in type"
    if norm is not None and norm.weight is None:
        return "a norm without a weight"
    return None


def fused(x, weight, norm, residual, glu, act) -> mx.array:
    width, rows, gated = x.shape[-1], weight.weight.shape[0], glu is not None
    outputs, count = rows // 2 if gated else rows, x.size // width
    bits = weight.bits if weight.packed else 8 * x.dtype.size
    group = weight.group_size if weight.packed else width
    behind = weight.ends_in(norm)
    knobs = chosen_knobs(bits, group, width, rows, gated, x.dtype, count)
    kernel = KERNELS[knobs["kernel"]]
    letters = workspace.current(x).letters if knobs.get("together", 1) > 1 else None
    template = {
        "T": x.dtype, "M": count, "K": width, "O": outputs, "BITS": bits, "GROUP": group,
        "ACT": ACTS[glu or act], "NORM": norm is not None, "BEHIND": behind, "EPS": float_bits(norm.eps if norm else 0.0),
        "BIAS": weight.bias is not None, "RESIDUAL": residual is not None,
        **{name.upper(): value for name, value in knobs.items() if name != "kernel"},
    }  # fmt: skip
    w = weight.weight if weight.packed or kernel is LANES else weight.weight.view(mx.uint32)
    given = [w, weight.scaling, weight.bias, None if norm is None or behind else norm.weight, residual]
    if kernel is BYTES:
        template["STAGED"] = linear_bytes.staged(knobs, bits, group, width, outputs, gated, count)
        given += letters.room(linear_bytes.letters(knobs, outputs, gated, count)) if letters else [None, None]
    (y,) = kernel(
        [x, *(x if array is None else array for array in given)],  # x stands where there is nothing
        [((*x.shape[:-1], outputs), x.dtype)],
        template=template,
        groups=(-(-outputs // outputs_of_group(knobs, gated)) * knobs.get("together", 1), 1, 1),
        threads=32 * knobs["simds"],
    )
    if letters:
        letters.after = y
    return y


@cache
def float_bits(value: float) -> int:
    """A float as the integer that a template can carry."""
    return struct.unpack("i", struct.pack("f", value))[0]


def outputs_of_group(knobs: dict, gated: bool) -> int:
    if knobs["kernel"] != "lanes":
        return knobs["outs"]
    return knobs["rows"] // (2 if gated else 1) * (knobs["simds"] // knobs["split"])


# ---- knobs


def shape_key(bits: int, width: int, rows: int, gated: bool) -> str:
    return f"{bits}-bit {width}->{rows}{' gated' if gated else ''}"


def chosen_knobs(bits: int, group: int, width: int, rows: int, gated: bool, dtype: mx.Dtype, count: int = 1) -> dict:
    """From the tuning tables where they know this shape on this chip and it is possible, else the default; `count` is of
    x's rows."""
    outputs = rows // 2 if gated else rows
    found = launch.knobs("linear", shape_key(bits, width, rows, gated), {})
    if not found or impossible(found, bits, group, width, gated, dtype):
        found = default_knobs(bits, group, width, outputs, gated, dtype)
    return fitted(found, bits, group, width, gated, count)


def fitted(knobs: dict, bits: int, group: int, width: int, gated: bool, count: int) -> dict:
    """What `count` rows leave room for, and what follows from it."""
    return linear_bytes.fitted(knobs, bits, group, width, gated, count) if knobs["kernel"] == "bytes" else knobs


def default_knobs(bits, group, width, outputs, gated, dtype) -> dict:
    if launch.on_nvidia() and dtype != mx.float32:
        knobs = linear_bytes.default(bits, group, width, outputs, gated) if bits < 16 else None
        if knobs and not impossible(knobs, bits, group, width, gated, dtype):
            return knobs
        return default_tiles(bits, group, width, outputs, gated, dtype)
    return default_lanes(bits, group, width)


def impossible(knobs: dict, bits: int, group: int, width: int, gated: bool, dtype: mx.Dtype) -> str | None:
    """Why a kernel cannot run with these knobs, or None."""
    if not 1 <= knobs["simds"] <= 32:
        return "a threadgroup has 1 to 32 simdgroups"
    if knobs["kernel"] == "lanes":
        return impossible_lanes(knobs, bits, group, width)
    if knobs["kernel"] == "bytes":
        return linear_bytes.impossible(knobs, bits, group, width, gated, dtype)
    return impossible_tiles(knobs, bits, group, width, gated, dtype)


def impossible_lanes(knobs: dict, bits: int, group: int, width: int) -> str | None:
    values = knobs["values"]
    if values * bits // 32 not in (1, 2, 4) or group % values or width % values or values % 4:
        return "values must fill 1, 2 or 4 words, and divide a group and the width"
    if knobs["simds"] % knobs["split"]:
        return "split must divide simds"
    if knobs["rows"] % 2:
        return "rows must be even: gate and up go together"
    return None


def impossible_tiles(knobs: dict, bits: int, group: int, width: int, gated: bool, dtype: mx.Dtype) -> str | None:
    if dtype == mx.float32:
        return "tiles take float16 and bfloat16"
    unit = unit_of(bits, group)
    units, per_group = width // unit, max(1, group // unit) if bits < 16 else 1
    if width % unit or units % knobs["slice"] or knobs["slice"] % per_group:
        return "slice must divide the width's units, and hold whole groups"
    room, limit = (0, 48) if launch.machine() == "cuda" else (4 * unit, 32)  # Metal brings x into tiles through it
    pairs = -(-knobs["outs"] // (8 if gated else 16))
    if 4 * knobs["simds"] * (room + 16 * MAX_ROWS * pairs + 8) > limit << 10:
        return f"more than {limit} KiB of threadgroup memory at 8 rows"
    return None


def registers(knobs: dict) -> int:
    """Of a lane, about, as CUDA's compiler counts them at 4 bits: x's slice; the next one, and the ring."""
    if knobs["kernel"] == "bytes":
        return linear_bytes.registers(knobs)
    return 24 + (19 + 6 * knobs["depth"]) * knobs["slice"]


def default_tiles(bits: int, group: int, width: int, outputs: int, gated: bool, dtype: mx.Dtype) -> dict:
    """All cores with the same number of outputs, in one round, and about 20 simdgroups a core with 128 k of x each.

    NVIDIA H100, bfloat16, 4-bit in groups of 64: so the best, or within 5% of it, of 30 to 40 candidates for four shapes.
    """
    unit = unit_of(bits, group)
    units, per_group = width // unit, max(1, group // unit) if bits < 16 else 1
    length = max((s for s in range(per_group, 128 // unit + 1, per_group) if units % s == 0), default=per_group)
    slices = units // length
    for resident in (1, 2):
        rounds = -(-slices // (20 // resident))
        outs = max(8, -(-outputs // (launch.cores() * resident)))
        knobs = {"kernel": "tiles", "simds": -(-slices // rounds), "slice": length, "outs": outs, "depth": 2, "resident": resident}
        if outs <= 48 and not impossible_tiles(knobs, bits, group, width, gated, dtype):
            return knobs
    return knobs | {"outs": min(outs, 40 if launch.machine() == "cuda" else 16)}


def default_lanes(bits: int, group: int, width: int) -> dict:
    values = {4: 16, 8: 16, 16: 8, 32: 4}[bits]
    return {"kernel": "lanes", "simds": 2, "split": 1, "rows": 4, "values": math.gcd(values, width)}
