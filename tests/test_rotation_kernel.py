"""rotation's kernel, on the emulator or on this machine's GPU: cosines and sines of a step's tokens."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import kernels_run, wide
from msl.spans import span_of
from smelt.kernels import launch
from smelt.kernels.pages import PAGE, Rows
from smelt.kernels.qk_norm_rope import Rope
from smelt.kernels.rotation_kernel import turns


def rows_at(lengths, new):
    spans = tuple(span_of(0, ((8 * PAGE * b, length + new),)) for b, length in enumerate(lengths))
    return Rows(spans, 8 * PAGE * len(lengths))


@pytest.mark.parametrize("new", [1, 3, 8])
@pytest.mark.parametrize(
    "rope",
    [Rope(128, 1e6), Rope(64), Rope(2), Rope(96, scale=0.25), Rope(48, interleaved=True), Rope(64, magnitude=1.2),
     Rope(8, periods=mx.array([1.0, 7.0, 300.0, np.inf]))],
)  # fmt: skip
def test_they_are_those_of_each_tokens_position(rope, new):
    lengths = (0, 5, 400)
    with kernels_run("random"):
        rows = rows_at(lengths, new)
        found = turns(rope, rows, rows.position(new), new)
        mx.eval(found)
    periods = rope.base ** (np.arange(0, rope.dims, 2) / rope.dims) if rope.periods is None else wide(rope.periods)
    angles = (np.array(lengths)[:, None] + np.arange(new))[..., None] * rope.scale / periods
    assert found.shape == (3, new, 2, rope.dims // 2)
    np.testing.assert_allclose(wide(found), np.stack([np.cos(angles), np.sin(angles)], axis=2), atol=1e-4)


def test_layers_that_turn_alike_share_them():
    rows, launched, rope = rows_at((3, 9), 2), [], Rope(64, 1e4)

    def noting(kernel, inputs, outputs, *_):
        launched.append(kernel.name)
        return [mx.zeros(shape, dtype) for shape, dtype in outputs]

    def turned(rope, of=rows, new=2):
        return turns(rope, of, of.position(new), new)

    with launch.through(noting):
        first = turned(rope)
        assert turned(replace(rope)) is first
        assert turned(replace(rope, magnitude=2.0, interleaved=True)) is first  # another matter than the angle
        others = (Rope(64, 1e6), Rope(32, 1e4), replace(rope, scale=0.5), replace(rope, periods=mx.ones((32,))))
        assert all(turned(other) is not first for other in others)
        assert turned(rope, new=1) is not first
        assert turned(rope, of=rows_at((3, 9), 2)) is not first  # another step
        assert turns(rope, rows, mx.array([3, 8], mx.int32), 2) is not first
    assert launched == ["rotation"] * 8
