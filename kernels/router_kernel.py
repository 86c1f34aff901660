"""`route` on a GPU in one dispatch, for any number of rows, and what it does not cover."""

import mlx.core as mx

from . import launch
from .columns import named
from .linear_kernel import FLOATS, float_bits

MAX_EXPERTS = 512  # of which a lane keeps 16
LANES = 32  # a lane keeps one of the chosen, and one group's worth
KERNEL = launch.Kernel("router", ("logits", "bias", "scale"), ("routed",), optional=("bias", "scale"))


def case(logits, routing) -> tuple:
    return (f"{routing.top_k} of {logits.shape[-1]}", routing.score)


def covers(logits, routing, bias, scale) -> str | None:
    """Why there is no kernel for this call, or None."""
    if logits.dtype not in FLOATS:
        return f"logits are {logits.dtype}"
    if logits.shape[-1] > MAX_EXPERTS:
        return f"more than {MAX_EXPERTS} experts"
    if routing.top_k > LANES or (routing.groups or (1, 1))[0] > LANES:
        return f"more than {LANES} experts chosen, or groups"
    for name, array in (("bias", bias), ("scale", scale)):
        if array is not None and array.dtype not in FLOATS:
            return f"{name} is {array.dtype}"
    return None


def fused(logits, routing, bias, scale) -> mx.array:
    """-> words [2, ..., K], as `router.Routed` has them."""
    (groups, allowed), logits = routing.groups or (1, 1), named(logits)
    (words,) = KERNEL(
        [logits.whole, *(logits.whole if array is None else array for array in (bias, scale))],
        [((2, *logits.shape[:-1], routing.top_k), mx.uint32)],
        template={
            "E": logits.width, "WIDTH": logits.whole.shape[-1], "FIRST": logits.first, "TOP": routing.top_k, "SOFTMAX": routing.score == "softmax", "GROUPS": groups,
            "ALLOWED": allowed, "BIASED": bias is not None, "SCALED": scale is not None,
            "NORMALISE": routing.normalise, "EPS": float_bits(routing.eps), "SCALE": float_bits(routing.scale),
        },
        groups=(logits.size // logits.width, 1, 1),
        threads=32,
    )  # fmt: skip
    return words
