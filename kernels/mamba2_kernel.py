"""`mamba2` on a GPU in one dispatch that walks along the tokens, and what it does not cover.

Knobs: rows (of the state, a simdgroup), simds (of a threadgroup), longest (tokens that are walked: beyond, the chunks of
the reference).
"""

import mlx.core as mx

from . import launch
from .columns import named
from .linear_kernel import FLOATS, float_bits
from .recurrent import ended
from .resident import constant

STEPS = 9  # a drafted step at the longest: its states are kept one by one, and it must give what single steps give
LONGEST = 1 << 20
KERNEL = launch.Kernel("mamba2", ("xbc", "dt", "state", "a", "d", "dt_bias", "size"), ("y", "states"))


def case(xbc, state) -> tuple:
    _, heads, width, size = state.shape
    length = "steps" if xbc.shape[1] <= STEPS else "prompts"
    return (str(xbc.dtype).split(".")[-1], f"{heads} heads of {width}x{size}", length)


def covers(xbc, dt, state, a, d, dt_bias) -> str | None:
    """Why there is no kernel for this call, or None."""
    _, _, width, size = state.shape
    if xbc.dtype not in FLOATS or dt.dtype != xbc.dtype:
        return f"xbc is {xbc.dtype}, dt {dt.dtype}"
    if any(x.dtype != mx.float32 for x in (state, a, d, dt_bias)):
        return "state, a, d and dt_bias are not all float32"
    if size % 32 or size > 256:
        return f"states of {width}x{size}; a multiple of 32 up to 256 is covered"
    longest = knobs_of(width)["longest"]
    return f"more than {longest} tokens" if xbc.shape[1] > longest else None


def knobs_of(width: int) -> dict:
    return launch.knobs("mamba2", f"{width}", {"rows": 4, "simds": 8, "longest": LONGEST})


def fused(xbc, dt, state, a, d, dt_bias, limit, keep):
    batch, heads, width, size = state.shape
    new, dt, knobs = xbc.shape[1], named(dt), knobs_of(width)
    simds = min(knobs["simds"], -(-width // knobs["rows"]))
    y, states = KERNEL(
        [xbc, dt.whole, state, a, d, dt_bias, constant((new,), mx.int32)],
        [((batch, new, heads, width), xbc.dtype), ((batch, new, *state.shape[1:]) if keep else state.shape, mx.float32)],
        template={
            "T": xbc.dtype, "H": heads, "D": width, "G": (xbc.shape[-1] - heads * width) // (2 * size), "N": size,
            "DT_WIDTH": dt.whole.shape[-1], "DT_FIRST": dt.first, "LOW": float_bits(limit[0]),
            "HIGH": float_bits(limit[1]), "KEEP": keep, "ROWS": knobs["rows"], "SIMDS": simds,
        },
        groups=(-(-width // (knobs["rows"] * simds)), heads, batch),
        threads=32 * simds,
    )  # fmt: skip
    return y, *ended(states, keep)
