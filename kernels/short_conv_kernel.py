"""`short_conv` for 1 to 9 tokens a row on a GPU in one dispatch, tails included, and what it does not cover."""

from . import launch
from .columns import named
from .linear_kernel import ACTS, FLOATS
from .recurrent import ended

MAX_TOKENS = 9
KERNEL = launch.Kernel("short_conv", ("x", "tail", "weight", "bias"), ("y", "tails"), optional=("bias",))


def case(weight, activation, gated) -> tuple:
    words = ("gated",) if gated else ()
    return (f"{weight.shape[0]} channels", f"{weight.shape[1]} taps", *words, *filter(None, (activation,)))


def covers(x, tail, weight, bias, activation) -> str | None:
    """Why there is no kernel for this call, or None."""
    if x.shape[1] > MAX_TOKENS:
        return f"more than {MAX_TOKENS} tokens a row"
    if x.dtype not in FLOATS:
        return f"x is {x.dtype}"
    if any(array.dtype != x.dtype for array in (tail, weight, bias) if array is not None):
        return "x, tail, weight and bias differ in type"
    if weight.shape[0] % 32 or weight.shape[1] < 2:
        return f"{weight.shape[0]} channels and {weight.shape[1]} taps; multiples of 32 and 2 or more are covered"
    if activation not in ACTS:
        return f"no activation {activation}"
    return None


def fused(x, tail, weight, bias, activation, keep, gated):
    x = named(x)
    (channels, taps), (batch, new, _) = weight.shape, x.shape
    threads = 32 * launch.knobs("short_conv", "*", {"simds": 4})["simds"]
    y, tails = KERNEL(
        [x.whole, tail, weight, x.whole if bias is None else bias],
        [((batch, new, channels), x.dtype), ((batch, new, taps - 1, channels) if keep else tail.shape, x.dtype)],
        template={
            "T": x.dtype, "NEW": new, "C": channels, "TAPS": taps, "WIDTH": x.whole.shape[-1], "FIRST": x.first,
            "GATED": gated, "BIASED": bias is not None, "ACT": ACTS[activation], "KEEP": keep, "THREADS": threads,
        },
        groups=(-(-channels // threads), new if keep else max(new, taps - 1), batch),
        threads=threads,
    )  # fmt: skip
    return y, *ended(tails, keep)
