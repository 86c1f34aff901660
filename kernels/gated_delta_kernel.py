"""`gated_delta` on a GPU in one dispatch that walks along the tokens, and what it does not cover.

Up to STEPS tokens the norm and the gate that follow are part of it, and a threadgroup then has a whole head; more tokens
have them in calls of their own, and a head is shared by several threadgroups.

Knobs of "gated_delta": rows (of the state, a simdgroup); of "gated_delta walk", for more than STEPS tokens: also simds,
and longest (tokens that are walked: beyond, the chunks of the reference).
"""

import mlx.core as mx

from . import launch
from .columns import named
from .linear_kernel import FLOATS, float_bits
from .recurrent import ended
from .resident import constant

STEPS = 9  # a drafted step at the longest: its states are kept one by one, and it must give what single steps give
LONGEST = 1 << 20
KERNEL = launch.Kernel(
    "gated_delta",
    ("qkv", "a", "b", "state", "rate", "dt_bias", "gate", "gain", "size"),
    ("y", "states"), optional=("b", "gate", "gain"),
)


def case(qkv, state) -> tuple:
    _, heads, v_dim, k_dim = state.shape
    return (str(qkv.dtype).split(".")[-1], f"{heads} heads of {v_dim}x{k_dim}", length_case(qkv.shape[1]))


def length_case(tokens: int) -> str:
    return "steps" if tokens <= STEPS else "prompts"


def covers(qkv, a, b, state, rate, dt_bias, gate, norm) -> str | None:
    """Why there is no kernel for this call, or None."""
    _, _, v_dim, k_dim = state.shape
    if qkv.dtype not in FLOATS or any(x.dtype != qkv.dtype for x in (a, b)):
        return f"qkv, a and b are {qkv.dtype}, {a.dtype}, {b.dtype}"
    if any(x.dtype != mx.float32 for x in (state, rate, dt_bias)):
        return "state, rate and dt_bias are not all float32"
    if k_dim % 32 or k_dim > 256 or v_dim > 256:
        return f"heads of {v_dim}x{k_dim}; up to 256x256 is covered, with keys of a multiple of 32"
    if gate is not None and (norm.weight is None or {gate.dtype, norm.weight.dtype} != {qkv.dtype}):
        return "a norm without a weight, or whose type or gate's differs"
    longest = walk_knobs(v_dim)["longest"]
    return f"more than {longest} tokens" if qkv.shape[1] > longest else None


def step_knobs(v_dim: int) -> dict:
    """As many rows as make a head one threadgroup; on Metal, that of a kernel with many registers."""
    fewest = -(-v_dim // (32 if launch.machine() == "cuda" else launch.METAL_SIMDS))
    return {"rows": max(fewest, launch.knobs("gated_delta", f"{v_dim}", {"rows": 8})["rows"])}


def walk_knobs(v_dim: int) -> dict:
    return launch.knobs("gated_delta walk", f"{v_dim}", {"rows": 8, "simds": 4, "longest": LONGEST})


def fused(qkv, a, b, state, rate, dt_bias, keep, gate, norm):
    """gate [B, T, Hv Dv] and norm, both or neither: y [B, T, Hv, Dv] is then normed and gated."""
    (batch, new, width), (_, heads, v_dim, k_dim) = qkv.shape, state.shape
    knobs = step_knobs(v_dim) if new <= STEPS else walk_knobs(v_dim)
    simds = -(-v_dim // knobs["rows"])
    simds = simds if new <= STEPS else min(simds, knobs["simds"])
    a, b, z = named(a), named(b), named(qkv if gate is None else gate)
    y, states = KERNEL(
        [qkv, a.whole, b.whole, state, rate, dt_bias, z.whole, qkv if norm is None else norm.weight, constant((new,), mx.int32)],
        [((batch, new, heads, v_dim), qkv.dtype), ((batch, new, *state.shape[1:]) if keep else state.shape, mx.float32)],
        template={
            "T": qkv.dtype, "HK": (width - heads * v_dim) // (2 * k_dim), "HV": heads, "DK": k_dim, "DV": v_dim,
            "A_WIDTH": a.whole.shape[-1], "A_FIRST": a.first, "B_WIDTH": b.whole.shape[-1], "B_FIRST": b.first,
            "Z_WIDTH": z.whole.shape[-1], "Z_FIRST": z.first, "NORMED": norm is not None,
            "EPS": float_bits(norm.eps if norm else 0.0), "KEEP": keep, "ROWS": knobs["rows"], "SIMDS": simds,
        },
        groups=(-(-v_dim // (knobs["rows"] * simds)), heads, batch),
        threads=32 * simds,
    )  # fmt: skip
    return y, *ended(states, keep)
