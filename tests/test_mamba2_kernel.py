"""mamba2's kernel: on the emulator, or on this machine's GPU, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from smelt.kernels import launch, mamba2_kernel
from smelt.kernels import mamba2 as op
from smelt.kernels.columns import Columns
from test_mamba2 import drawn, truth

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
INF = float("inf")


def assert_near(found, truth):
    assert np.abs(wide(found) - truth).max() < 1e-5 * np.abs(truth).max()


class Problem:
    def __init__(self, rows, tokens, dtype=F32, heads=4, width=24, groups=2, size=64, limit=(0.0, INF), cut=False):
        self.parts, self.numbers = drawn(np.random.default_rng(), rows, tokens, heads, width, groups, size, dtype)
        self.limit, self.cut, self.dtype = limit, cut, dtype
        self.state = self.parts[-1]

    def arguments(self, part=lambda x: x, state=None):
        x, dt, b, c, _ = self.parts
        xbc = mx.concatenate([v.flatten(-2) for v in (x, b, c)], axis=-1)
        dt = part(dt)
        if self.cut:
            dt = Columns(mx.concatenate([part(xbc), dt, dt], axis=-1), xbc.shape[-1], dt.shape[-1])
        return (part(xbc), dt, self.state if state is None else state), {**self.numbers, "limit": self.limit}

    def fused(self, *which, keep=False, order="forward"):
        given, named = self.arguments(*which)
        with kernels_run(order):
            made = op.mamba2(*given, **named, keep=keep)
            mx.eval([array for array in made if array is not None])
        return made

    def check(self):
        steps = self.parts[0].shape[1] <= op.STEPS
        y, state, trail = self.fused(keep=steps, order="random")
        given, named = self.arguments()
        plain, (ys, states) = op.reference(*given, **named), truth(*self.parts, **self.numbers, limit=self.limit)
        # Chunks round less often than steps.
        assert_accurate(y, plain[0], ys) if steps or self.dtype != F32 else assert_near(y, ys)
        assert_accurate(state, plain[1], states[:, -1]) if steps else assert_near(state, states[:, -1])
        if steps:
            assert_near(trail, states)
            assert mx.array_equal(trail[:, -1], state)


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("tokens", [1, 4, 20])
def test_every_type(dtype, tokens):
    Problem(2, tokens, dtype).check()


@pytest.mark.parametrize("heads, width, groups, size", [(1, 8, 1, 32), (8, 64, 2, 128), (6, 33, 3, 96), (2, 80, 1, 256)])
def test_every_shape(heads, width, groups, size):
    Problem(1, 2, BF16, heads, width, groups, size).check()


@pytest.mark.parametrize("tokens", [9, 10])
@pytest.mark.parametrize("limit", [(0.0, INF), (0.1, 0.7)])
def test_limits(tokens, limit):
    Problem(1, tokens, limit=limit).check()


def test_columns_of_one_row():
    Problem(2, 3, BF16, cut=True).check()


def test_tokens_have_the_same_bits_one_by_one_and_together_alone_and_in_a_batch():
    problem = Problem(2, 12, BF16)
    y, after, _ = problem.fused()
    for row in range(2):
        state = problem.state[row : row + 1]
        for t in range(12):
            one, state, _ = problem.fused(lambda x, row=row, t=t: x[row : row + 1, t : t + 1], state)
            assert mx.array_equal(one[0, 0], y[row, t])
        assert mx.array_equal(state[0], after[row])


def test_what_it_does_not_cover_falls_to_the_reference_and_says_why():
    Problem(1, 1, size=48).fused()
    assert "states of 24x48; a multiple of 32 up to 256 is covered" in {way.why for way in launch.report()}


def test_a_chip_can_have_long_prompts_in_chunks(monkeypatch):
    monkeypatch.setattr(mamba2_kernel, "LONGEST", 16)
    Problem(1, 140, BF16).check()
    assert "more than 16 tokens" in {way.why for way in launch.report() if way.op == "mamba2"}
