"""How far the heads of a step's tokens turn, computed once for all layers that turn alike, on a GPU."""

import mlx.core as mx

from . import launch
from .linear_kernel import float_bits
from .qk_norm_rope_kernel import periods_of

KERNEL = launch.Kernel("rotation", ("position", "periods"), ("turns",))


def turns(rope, rows, position: mx.array, new: int) -> mx.array:
    """Of `new` tokens of each row, of which `position` [B] int32 is the first's: [B, T, 2, dims / 2] float32, cosines and then
    sines of

        (position + t) scale / period_i

    `rows` keeps them for the step's other layers.
    """
    key = ("turns", rope.dims, rope.base, id(rope.periods), rope.scale, id(position), new)
    if key not in rows.shared:
        rows.shared[key] = (fused(rope, position, new), rope, position)  # so that nothing else gets their ids
    return rows.shared[key][0]


def fused(rope, position: mx.array, new: int) -> mx.array:
    """position [B] int32 of each row's first token."""
    (found,) = KERNEL(
        [position, periods_of(rope)],
        [((position.size, new, 2, rope.dims // 2), mx.float32)],
        template={"NEW": new, "DIMS": rope.dims, "SCALE": float_bits(rope.scale)},
        groups=(new, position.size, 1),
        threads=-(-rope.dims // 64) * 32,
    )
    return found
