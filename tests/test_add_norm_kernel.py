"""add_norm's kernel: on the emulator, or on this machine's GPU, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from smelt.kernels import launch
from smelt.kernels import norm as op
from smelt.kernels.norm import Norm

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


def problem(dtype, shape, weighted=True, scaled=False):
    rng = np.random.default_rng()
    draw = lambda *size: mx.array(rng.normal(size=size).astype(np.float32)).astype(dtype)  # noqa: E731
    norm = Norm(1 + 0.2 * draw(shape[-1]) if weighted else None, 1e-6)
    return draw(*shape), 3 * draw(*shape), norm, draw(1) if scaled else None


def truth(x, y, norm, scale):
    y = wide(y)
    normed = y / np.sqrt((y * y).mean(-1, keepdims=True) + norm.eps) * (1 if norm.weight is None else wide(norm.weight))
    return (wide(x) + normed) * (1 if scale is None else wide(scale))


def fused(*arguments, order="forward"):
    with kernels_run(order):
        o = op.add_norm(*arguments)
        mx.eval(o)
    return o


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize(
    "shape, weighted, scaled",
    [((1, 1, 64), True, False), ((3, 2, 2560), True, True), ((8, 97), False, True), ((2, 5378), True, False),
     ((1, 16384), True, True)],
)  # fmt: skip
def test_every_form(dtype, shape, weighted, scaled):
    arguments = problem(dtype, shape, weighted, scaled)
    assert_accurate(fused(*arguments, order="random"), op.reference(*arguments), truth(*arguments))


def test_float16_is_clipped_to_the_finite_range():
    x, y = mx.array([[6e4, -6e4] * 8], F16), mx.array([[1.0, -1.0] * 8], F16)
    arguments = (x, y, Norm(mx.full((16,), 6e4, F16), 1e-6))
    assert fused(*arguments).tolist() == op.reference(*arguments).tolist() == [[65504.0, -65504.0] * 8]


def test_a_row_has_the_same_bits_alone_and_beside_others():
    x, y, norm, scale = problem(BF16, (8, 640), scaled=True)
    together = fused(x, y, norm, scale)
    for i in range(8):
        assert mx.array_equal(fused(x[i : i + 1], y[i : i + 1], norm, scale)[0], together[i])


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda x, y, norm, scale: (x[:, :4], y[:, :4], Norm(None, 1e-6), scale), "rows of 4"),
        (lambda x, y, norm, scale: (x, y[:1], norm, scale), "differ in shape"),
        (lambda x, y, norm, scale: (x, y.astype(F16), norm, scale), "differ in type"),
        (lambda x, y, norm, scale: (x, y, norm, mx.ones((64,))), "a scale for each element"),
    ],
)
def test_what_is_not_covered_goes_to_the_reference(change, why):
    arguments = change(*problem(F32, (2, 64), scaled=True))
    assert mx.array_equal(fused(*arguments), op.reference(*arguments))
    assert any(why in way.why for way in launch.report() if way.op == "add_norm" and way.way == "reference")
