"""Root mean square norm over groups of a gated row, as Mamba-2 ends.

    h = y silu(gate);   out = h / sqrt(mean_group(h^2) + eps) * weight          Dao & Gu 2024

y, gate [..., C]; weight [C]; each C / groups neighbours are normed together. float32 inside, the result in y's dtype.
"""

import mlx.core as mx

from .activations import compiled
from .norm import Norm


def gated_group_norm(y: mx.array, gate: mx.array, norm: Norm, groups: int) -> mx.array:
    return reference(y, gate, norm, groups)


def reference(y, gate, norm, groups):
    gated = mx.unflatten(_gated(y, gate), -1, (groups, -1))
    return mx.fast.rms_norm(gated, None, norm.eps).flatten(-2).astype(y.dtype) * norm.weight


@compiled
def _gated(y, gate):
    gate = gate.astype(mx.float32)
    return y.astype(mx.float32) * gate * mx.sigmoid(gate)
