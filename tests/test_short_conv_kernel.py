"""short_conv's kernel: on the emulator, or on this machine's GPU, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from smelt.kernels import launch
from smelt.kernels import short_conv as op
from smelt.kernels.columns import Columns

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
B = 2


class Problem:
    def __init__(self, new, dtype, channels=64, taps=4, bias=False, activation=None, gated=False, first=None):
        self.rng = np.random.default_rng()
        self.gated, self.dtype, self.activation = gated, dtype, activation
        self.x = self.draw(B, new, (3 if gated else 1) * channels)
        self.tail, self.weight = self.draw(B, taps - 1, channels), self.draw(channels, taps)
        self.bias = self.draw(channels) if bias else None
        self.first = first

    def draw(self, *shape):
        return mx.array(self.rng.normal(size=shape).astype(np.float32)).astype(self.dtype)

    def given(self, x):
        """x as columns of a wider array, should `first` be asked for."""
        if self.first is None:
            return x
        sides = self.draw(*x.shape[:2], self.first), self.draw(*x.shape[:2], 5)
        return Columns(mx.concatenate([sides[0], x, sides[1]], axis=-1), self.first, x.shape[-1])

    def fused(self, x=None, tail=None, keep=False, order="forward"):
        x, tail = self.x if x is None else x, self.tail if tail is None else tail
        with kernels_run(order):
            if self.gated:
                made = op.gated_short_conv(x, tail, self.weight, self.bias, keep)
            else:
                made = op.short_conv(self.given(x), tail, self.weight, self.bias, self.activation, keep)
            mx.eval([array for array in made if array is not None])
        return made

    def plain(self):
        if self.gated:
            return op.gated_reference(self.x, self.tail, self.weight, self.bias, True)
        return op.reference(self.x, self.tail, self.weight, self.bias, self.activation, True)

    def truth(self):
        x, tail, weight = wide(self.x), wide(self.tail), wide(self.weight)
        if self.gated:
            b, c, h = np.split(x, 3, axis=-1)
            x = wide(mx.array((b * h).astype(np.float32)).astype(self.dtype))  # what a tail can hold
        inputs = np.concatenate([tail, x], axis=1)
        y = sum(inputs[:, j : j + x.shape[1]] * weight[:, j] for j in range(weight.shape[1]))
        y = y + (0 if self.bias is None else wide(self.bias))
        y = y / (1 + np.exp(-y)) if self.activation == "silu" else y
        return y * c if self.gated else y

    def check(self):
        plain = self.plain()
        for keep in (False, True):
            y, after, trail = self.fused(keep=keep, order="random")
            assert_accurate(y, plain[0], self.truth())
            assert mx.array_equal(after, plain[1]) and (trail is not None) == keep
        assert mx.array_equal(trail, plain[2])


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("new", [1, 2, 3, 9])
def test_every_type_and_length(dtype, new):
    Problem(new, dtype, bias=True, activation="silu").check()


FORMS = {
    "plain": {},
    "two taps": {"taps": 2},
    "three taps, odd width": {"taps": 3, "channels": 160},
    "columns of a wider array": {"first": 24, "bias": True},
    "gated": {"gated": True},
    "gated, bias": {"gated": True, "bias": True, "taps": 3},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("new", [1, 4])
def test_every_form(form, new):
    Problem(new, BF16, **FORMS[form]).check()


@pytest.mark.parametrize("gated", [False, True])
def test_tokens_have_the_same_bits_one_by_one_and_together_alone_and_in_a_batch(gated):
    problem = Problem(5, F16, bias=True, gated=gated)
    together, after, trail = problem.fused(keep=True)
    for b in range(B):
        tail = problem.tail[b : b + 1]
        for t in range(5):
            y, tail, _ = problem.fused(problem.x[b : b + 1, t : t + 1], tail)
            assert mx.array_equal(y[0, 0], together[b, t]) and mx.array_equal(tail[0], trail[b, t])
        assert mx.array_equal(tail[0], after[b])


REFUSED = {
    "more than 9 tokens a row": (10, F32, {}),
    "48 channels and 4 taps; multiples of 32 and 2 or more are covered": (1, F32, {"channels": 48}),
    "no activation gelu": (1, F32, {"activation": "gelu"}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_does_not_cover_falls_to_the_reference_and_says_why(why):
    new, dtype, form = REFUSED[why]
    Problem(new, dtype, **form).fused()
    assert why in {way.why for way in launch.report() if way.op == "short_conv"}
