"""The convolution against its formula, and its tails."""

import mlx.core as mx
import numpy as np
import pytest
from smelt.kernels.short_conv import gated_short_conv, short_conv


def case(new, channels=6, taps=4, dtype=mx.float32):
    keys = mx.random.split(mx.random.key(new), 4)
    shapes = ((2, new, channels), (2, taps - 1, channels), (channels, taps), (channels,))
    return [mx.random.normal(shape, key=key).astype(dtype) for shape, key in zip(shapes, keys, strict=True)]


def formula(x, tail, weight, bias):
    x, tail, weight, bias = (np.array(a.astype(mx.float32), dtype=np.float64) for a in (x, tail, weight, bias))
    inputs = np.concatenate([tail, x], axis=1)
    return sum(inputs[:, j : j + x.shape[1]] * weight[:, j] for j in range(weight.shape[1])) + bias


@pytest.mark.parametrize("dtype, tolerance", [(mx.float32, 1e-5), (mx.float16, 1e-2), (mx.bfloat16, 6e-2)])
@pytest.mark.parametrize("new", [1, 2, 9, 40])
def test_formula(new, dtype, tolerance):
    x, tail, weight, bias = case(new, dtype=dtype)
    y, after, trail = short_conv(x, tail, weight, bias)
    assert trail is None
    assert y.dtype == after.dtype == dtype and after.shape == tail.shape
    assert np.abs(np.array(y.astype(mx.float32)) - formula(x, tail, weight, bias)).max() < tolerance


def test_activation_and_no_bias():
    x, tail, weight, bias = case(5)
    y, _, _ = short_conv(x, tail, weight, activation="silu")
    z = formula(x, tail, weight, 0 * bias)
    assert np.allclose(np.array(y), z / (1 + np.exp(-z)), atol=1e-5)


@pytest.mark.parametrize("new", [1, 2, 5])
def test_tails_are_those_after_every_token(new):
    x, tail, weight, _ = case(new)
    found = short_conv(x, tail, weight, keep=True)[2]
    assert found.shape == (2, new, 3, 6)
    for t in range(new):
        assert mx.array_equal(found[:, t], short_conv(x[:, : t + 1], tail, weight)[1])


def test_gated():
    x, tail, weight, bias = case(5)
    b, c = mx.random.normal(x.shape), mx.random.normal(x.shape)
    y, after, trail = gated_short_conv(mx.concatenate([b, c, x], axis=-1), tail, weight, bias, keep=True)
    z, other, more = short_conv(b * x, tail, weight, bias, keep=True)
    assert mx.allclose(y, c * z) and mx.array_equal(after, other) and mx.array_equal(trail, more)
