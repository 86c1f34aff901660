"""embed's kernel: on the emulator, or on this machine's GPU, against the plain ops."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from msl.inputs import handed_over
from smelt.kernels import ahead, launch
from smelt.kernels import embed as op
from smelt.kernels.linear import pack

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


def unpacked(weight):
    codes = np.array(weight.weight)[..., None] >> np.arange(0, 32, weight.bits) & (1 << weight.bits) - 1
    scales, biases = (np.repeat(wide(x), weight.group_size, -1) for x in (weight.scales, weight.biases))
    return codes.reshape(scales.shape) * scales + biases


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("bits, group, scale", [(4, 32, None), (4, 64, 50.6), (8, 64, None), (8, 128, 0.3)])
def test_rows_are_those_of_the_reference(dtype, bits, group, scale):
    weight = pack(mx.random.normal((37, 256)).astype(dtype), group, bits)
    tokens = mx.random.randint(0, 37, (3, 5))
    with kernels_run("random"):
        got = op.embed(tokens, weight, scale)
        mx.eval(got)
    plain = op.reference(tokens, weight, scale)
    truth = unpacked(weight)[np.array(tokens)] * (1.0 if scale is None else scale)
    assert_accurate(got, plain, truth)


def test_a_packed_matrix_is_two_inputs():
    weight = pack(mx.random.normal((37, 256)))
    with handed_over() as launched:
        op.embed(mx.array([3, 1]), weight)
    _, found = launched[0]
    assert len(found) == 3 and found["w"] is weight.weight and found["scales"] is weight.scaling


def test_what_is_not_covered_goes_to_the_reference():
    weight = pack(mx.random.normal((8, 64)), 64, 6)
    with kernels_run():
        assert mx.array_equal(op.embed(mx.array([2, 2, 0]), weight), op.reference(mx.array([2, 2, 0]), weight))
    assert any(way.op == "embed" and way.why.startswith("6-bit") for way in launch.report())


def test_the_scale_is_rounded_to_the_type_of_the_result():
    """Rows of mxfp4 come in bfloat16; a float32 model must not lose its scale's last bits there."""
    weight, tokens = pack(mx.random.normal((8, 64)), 32, 4, "mxfp4"), mx.array([2, 5])
    for packed in (weight, pack(mx.random.normal((8, 64), BF16), 64, 4)):
        with kernels_run():
            got = op.embed(tokens, packed, 50.6, F32)
        assert got.dtype == F32 and mx.array_equal(got, op.embed(tokens, packed).astype(F32) * 50.6)


def test_prompts_of_any_length_are_looked_up_by_one_text():
    """Each is compiled where it is met first, while a prompt waits."""
    weight = pack(mx.random.normal((8, 64)), 64, 4)
    with ahead.noted() as variants:
        for count in (1, 9, 30):
            op.embed(mx.zeros((1, count), mx.int32), weight)
    assert len({repr(v) for v in variants}) == 1
