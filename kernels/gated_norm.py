"""Root mean square norm of each head, then a gate, as the gated delta net ends.

    out = rms_norm(y) silu(gate)                       Yang, Kautz & Hatamizadeh 2024

y, gate [..., d]; the norm's weight [d]. The gate is applied in float32, the result has y's dtype.
"""

import mlx.core as mx

from .activations import compiled
from .norm import Norm, rms_norm


def gated_norm(y: mx.array, gate: mx.array, norm: Norm) -> mx.array:
    return reference(y, gate, norm)


def reference(y, gate, norm):
    return _gated(rms_norm(y, norm), gate).astype(y.dtype)


@compiled
def _gated(y, gate):
    gate = gate.astype(mx.float32)
    return y.astype(mx.float32) * gate * mx.sigmoid(gate)
