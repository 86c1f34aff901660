"""gated_group_norm's kernel: on the emulator, or on this machine's GPU, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from smelt.kernels import gated_group_norm as op
from smelt.kernels import launch
from smelt.kernels.columns import Columns
from smelt.kernels.norm import Norm

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


def drawn(dtype, *shape):
    return mx.array(np.random.default_rng().normal(size=shape).astype(np.float32)).astype(dtype)


def fused(y, gate, norm, groups):
    with kernels_run("random"):
        out = op.gated_group_norm(y, gate, norm, groups)
        mx.eval(out)
    return out


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("groups, size", [(1, 40), (2, 256), (8, 12), (1, 1000)])
def test_every_type_and_group(dtype, groups, size):
    y, gate, norm = drawn(dtype, 2, 3, groups * size), drawn(dtype, 2, 3, groups * size), Norm(drawn(dtype, groups * size), 1e-5)
    z = wide(gate)
    h = (wide(y) * z / (1 + np.exp(-z))).reshape(2, 3, groups, size)
    truth = (h / np.sqrt((h * h).mean(-1, keepdims=True) + 1e-5)).reshape(y.shape) * wide(norm.weight)
    found = fused(y, gate, norm, groups)
    assert_accurate(found, op.reference(y, gate, norm, groups), truth)
    row = mx.concatenate([gate, y], axis=-1)
    assert mx.array_equal(fused(y, Columns(row, 0, groups * size), norm, groups), found)


def test_a_row_has_the_same_bits_among_others():
    y, gate, norm = drawn(BF16, 5, 96), drawn(BF16, 5, 96), Norm(drawn(BF16, 96), 1e-5)
    together = fused(y, gate, norm, 3)
    assert all(mx.array_equal(fused(y[i : i + 1], gate[i : i + 1], norm, 3)[0], together[i]) for i in range(5))


def test_what_it_does_not_cover_falls_to_the_reference_and_says_why():
    fused(mx.ones((1, 64)), mx.ones((1, 64), BF16), Norm(mx.ones((64,)), 1e-5), 2)
    assert any("mlx.core.bfloat16" in way.why for way in launch.report() if way.op == "gated_group_norm")
