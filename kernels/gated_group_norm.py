"""Root mean square norm over groups of a gated row, as Mamba-2 ends.

    h = y silu(gate);   out = h / sqrt(mean_group(h^2) + eps) * weight          Dao & Gu 2024

y, gate [..., C]; weight [C]; each C / groups neighbours are normed together. float32 inside, the result in y's dtype.
"""

import mlx.core as mx

from . import gated_group_norm_kernel, launch
from .activations import compiled
from .columns import Wide, array
from .norm import Norm


def gated_group_norm(y: mx.array, gate: Wide, norm: Norm, groups: int) -> mx.array:
    if launch.on_cpu("gated_group_norm"):
        return reference(y, array(gate), norm, groups)
    refusal = gated_group_norm_kernel.covers(y, gate, norm, groups)
    if launch.uses_kernel("gated_group_norm", gated_group_norm_kernel.case(y, groups), refusal):
        return gated_group_norm_kernel.fused(y, gate, norm, groups)
    return reference(y, array(gate), norm, groups)


def reference(y, gate, norm, groups):
    gated = mx.unflatten(_gated(y, gate), -1, (groups, -1))
    return mx.fast.rms_norm(gated, None, norm.eps).flatten(-2).astype(y.dtype) * norm.weight


@compiled
def _gated(y, gate):
    gate = gate.astype(mx.float32)
    return y.astype(mx.float32) * gate * mx.sigmoid(gate)
