"""Knobs of msl/linear_bytes.metal: what is possible, what fits into threadgroup memory, and where to begin.

simds (simdgroups in a threadgroup) and together (threadgroups, of which the last gets the others' sums by mail) share k;
slice (units of k, one simdgroup); outs (outputs of a threadgroup, or of those together); depth (pairs of 8-row tiles of the
matrix that are on their way); resident (threadgroups to fit on a core). From these and from the number of rows follows
`turn`: how many pairs are finished at once.
"""

import itertools

import mlx.core as mx

from . import launch

MAX_ROWS = 8
SPARE = 2  # KiB of a threadgroup's memory that the system and `squares` take
AT_ONCE = 12  # pairs that are one turn, where there is room: their text is repeated
OF_MANY = 4  # pairs of a turn, where there are more
MOST_TOGETHER = 8
SIMDS = 20  # that share a core's registers
MOST_SLICE = 4  # units whose numbers a lane then keeps in them


def unit_of(bits: int, group: int) -> int:
    """k of one load: four lanes of 16 values, or of 8 where a group or a load is not longer."""
    return 32 if bits == 16 or group < 64 else 64


def pairs_of(outs: int, gated: bool) -> int:
    return -(-outs // (8 if gated else 16))


def impossible(knobs: dict, bits: int, group: int, width: int, gated: bool, dtype: mx.Dtype) -> str | None:
    """Why the kernel cannot run with these knobs, or None."""
    if launch.machine() == "metal":
        return "Metal's matrix units multiply no bytes"
    if dtype == mx.float32 or bits not in (4, 8):
        return "bytes take float16 and bfloat16, and 4 or 8 bits"
    unit = unit_of(bits, group)
    units, per_group = width // unit, max(1, group // unit)
    if width % unit or units % knobs["slice"] or knobs["slice"] % per_group:
        return "slice must divide the width's units, and hold whole groups"
    if width // group % 2 or share(knobs, bits, group, width) % 2 or unit * bits // 128 * knobs["slice"] % 2:
        return "scales of a row, and of a threadgroup's part of it, in whole words, and of a slice 32 bytes or a multiple"
    return refuses_split(knobs, units, gated) or refuses_size(knobs, bits, group, width, gated)


def refuses_split(knobs: dict, units: int, gated: bool) -> str | None:
    taken = knobs["simds"] * knobs["slice"]
    if not (knobs["together"] - 1) * taken < units <= knobs["together"] * taken:
        return "the simdgroups of all threadgroups together must take all of k, each its slice"
    if knobs["together"] > 1 and pairs_of(knobs["outs"], gated) > AT_ONCE:
        return f"threadgroups that share k send their sums once, so of up to {AT_ONCE} pairs of tiles"
    return None


def refuses_size(knobs: dict, bits: int, group: int, width: int, gated: bool) -> str | None:
    least = {**knobs, "depth": 1, "resident": 1}
    if any(fits({**least, "turn": turn}, bits, group, width, gated, MAX_ROWS) for turn in turns(knobs, gated)):
        return None
    return f"more than {launch.core_memory()} KiB of threadgroup memory at {MAX_ROWS} rows, even with one stage"


def turns(knobs: dict, gated: bool) -> list[int]:
    """Pairs of a turn, what is wanted first."""
    pairs = pairs_of(knobs["outs"], gated)
    one = [pairs] if pairs <= AT_ONCE else []
    return one + ([OF_MANY] if pairs > OF_MANY and knobs["together"] == 1 else [])


def fitted(knobs: dict, bits: int, group: int, width: int, gated: bool, count: int) -> dict:
    """With `turn`, and with so many stages and threadgroups on a core as `count` rows leave room for. A row's bits do not
    hang on these."""
    pairs, wanted = pairs_of(knobs["outs"], gated), turns(knobs, gated)
    for resident, turn, depth in itertools.product(range(knobs["resident"], 0, -1), wanted, range(knobs["depth"], 0, -1)):
        depth = depth if pairs <= turn else min(depth, turn - 1)  # scales of a turn come with stages of the one before
        fitting = {**knobs, "turn": turn, "depth": depth, "resident": resident}
        if fits(fitting, bits, group, width, gated, count):
            break
    return fitting


def fits(knobs: dict, bits: int, group: int, width: int, gated: bool, count: int) -> bool:
    """Whether a core has the threadgroup memory."""
    needed = 16 * staged(knobs, bits, group, width, knobs["outs"], gated, count)
    return needed <= (launch.core_memory() // knobs["resident"] - SPARE) << 10


def share(knobs: dict, bits: int, group: int, width: int) -> int:
    """Scales of a row that a threadgroup takes."""
    per_group = max(1, group // unit_of(bits, group))
    return min(width // group, knobs["simds"] * knobs["slice"] // per_group)


def staged(knobs: dict, bits: int, group: int, width: int, outputs: int, gated: bool, rows: int) -> int:
    """Pieces of 16 bytes of threadgroup memory: scales of a turn, x or the sums of a turn, and stages."""
    unit, slice_, turn = unit_of(bits, group), knobs["slice"], knobs["turn"]
    words, scales = unit * bits // 128, share(knobs, bits, group, width)
    pieces = slice_ * words
    pitch = pieces if pieces % 8 == 0 or pieces in (2, 4) else pieces + (words - pieces) % 8
    scale_room = -(-(64 * turn * (scales + (8 if scales % 16 == 0 else 0))) // 16)
    numbers = unit // 32 * slice_ * rows * 4 - (-slice_ * rows // 2)
    buffers = 2 if pairs_of(min(knobs["outs"], outputs), gated) > turn else 1
    own = max(numbers, 4 * buffers * turn * rows) + 16 * knobs["depth"] * pitch
    return buffers * scale_room + knobs["simds"] * own


def registers(knobs: dict) -> int:
    """Of a lane, about: with fewer, CUDA's compiler lets some wait in memory."""
    return 28 + 16 * knobs["slice"]


def default(bits: int, group: int, width: int, outputs: int, gated: bool) -> dict | None:
    """All of k at once in up to 20 simdgroups of a threadgroup or, of a longer k, of each of 2, 4 or 8, and one round of all
    cores with the same number of outputs. None where k is longer than that: in more simdgroups registers spill.

    NVIDIA H200, bfloat16, 4-bit in groups of 64: the best, of a few each, for the shapes of two models.
    """
    unit = unit_of(bits, group)
    units, per_group = width // unit, max(1, group // unit)
    wanted = 2 if width <= 40 * 64 else MOST_SLICE
    length = max((s for s in range(per_group, max(wanted * 64 // unit, per_group) + 1, per_group) if units % s == 0), default=per_group)
    slices, together = units // length, 1
    while slices > SIMDS * together and together < MOST_TOGETHER:
        together *= 2
    if slices > SIMDS * together:
        return None
    tile, groups = (8 if gated else 16), max(1, launch.cores() // together)
    outs = -(-outputs // groups)
    pairs = -(-outs // tile) if together == 1 else min(-(-outs // tile), AT_ONCE)
    knobs = {"kernel": "bytes", "simds": -(-slices // together), "slice": length, "outs": pairs * tile,
             "depth": 2 if pairs <= AT_ONCE else OF_MANY - 1, "resident": 1, "together": together}  # fmt: skip
    while pairs > 1 and refuses_size(knobs, bits, group, width, gated):
        pairs = min(pairs - 1, AT_ONCE)
        knobs["outs"] = pairs * tile
    return knobs


def letters(knobs: dict, outputs: int, gated: bool, rows: int) -> int:
    """Places that the threadgroups of a call need, for the sums and squares that they send."""
    outs = min(knobs["outs"], outputs)
    return (knobs["together"] - 1) * -(-outputs // outs) * rows * ((2 if gated else 1) * outs + 1)
