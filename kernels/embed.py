"""The rows of a matrix that tokens stand for.

    embed(tokens, W)          = W[tokens]
    embed(tokens, W, scale=s) = W[tokens] s

tokens [...] of any integer type; W [V, D], plain or packed as mx.quantize packs it; result [..., D] in `dtype`, without one
in that of affine scales, of bfloat16 for other packings, or of W. Gemma multiplies by sqrt(D), rounded to the result's type.
"""

import mlx.core as mx

from . import launch
from .linear import Weight, rows_of, unpack
from .linear_kernel import FLOATS, float_bits

KERNEL = launch.Kernel("embed", ("tokens", "w", "scales"), ("y",))
THREADS = 128


def embed(tokens: mx.array, weight: Weight, scale: float | None = None, dtype: mx.Dtype | None = None) -> mx.array:
    if launch.on_cpu("embed"):
        return reference(tokens, weight, scale, dtype)
    case = (f"{weight.bits}-bit" if weight.packed else str(weight.weight.dtype).split(".")[-1], weight.group_size)
    if launch.uses_kernel("embed", case, covers(weight, dtype)):
        return fused(tokens, weight, scale)
    return reference(tokens, weight, scale, dtype)


def reference(tokens, weight, scale=None, dtype=None) -> mx.array:
    x = unpack(rows_of(weight, tokens))
    x = x if dtype is None else x.astype(dtype)
    return x if scale is None else x * mx.array(scale, x.dtype)


def covers(weight, dtype=None) -> str | None:
    """Why there is no kernel for this call, or None."""
    if not weight.packed:
        return "plain rows are one gather"
    if weight.mode != "affine" or weight.bits not in (4, 8):
        return f"{weight.bits}-bit {weight.mode} weights"
    if weight.scaling.dtype not in FLOATS:
        return f"scales of {weight.scaling.dtype}"
    if dtype is not None and dtype != weight.scaling.dtype:
        return f"{dtype} from scales of {weight.scaling.dtype}"
    return None


def fused(tokens, weight, scale) -> mx.array:
    dtype, width = weight.scaling.dtype, weight.weight.shape[1] * 32 // weight.bits
    rounded = 1.0 if scale is None else mx.array(scale, dtype).astype(mx.float32).item()
    (y,) = KERNEL(
        [tokens.astype(mx.uint32), weight.weight, weight.scaling],
        [((*tokens.shape, width), dtype)],
        template={"T": dtype, "V": weight.rows, "D": width, "BITS": weight.bits, "GROUP": weight.group_size,
                  "SCALED": scale is not None, "SCALE": float_bits(rounded), "THREADS": THREADS},
        groups=(tokens.size, -(-weight.weight.shape[1] // THREADS), 1),
        threads=THREADS,
    )  # fmt: skip
    return y
