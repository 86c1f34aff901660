"""gated_delta's kernel: on the emulator, or on this machine's GPU, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from smelt.kernels import ahead, gated_delta_kernel, launch
from smelt.kernels import gated_delta as op
from smelt.kernels.columns import Columns
from smelt.kernels.norm import Norm

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


def assert_near(found, truth):
    assert np.abs(wide(found) - truth).max() < 1e-5 * np.abs(truth).max()


class Problem:
    """B rows of T tokens with states, and what they give in float64."""

    def __init__(self, batch, new, dtype=F32, k_heads=2, v_heads=4, k_dim=64, v_dim=40, normed=False, cut=False):
        self.seed = int(np.random.SeedSequence().entropy % 2**32)
        print("seed", self.seed)
        self.rng, self.dtype, self.dims = np.random.default_rng(self.seed), dtype, (k_heads, v_heads, k_dim, v_dim)
        v_width = v_heads * v_dim
        self.qkv = self.draw(batch, new, 2 * k_heads * k_dim + v_width)
        self.a, self.b = self.draw(batch, new, v_heads), self.draw(batch, new, v_heads)
        self.state = mx.array(self.rng.normal(size=(batch, v_heads, v_dim, k_dim)).astype(np.float32))
        self.rate = mx.array(np.exp(self.rng.normal(size=v_heads)).astype(np.float32))
        self.dt_bias = mx.array(self.rng.normal(size=v_heads).astype(np.float32))
        self.gate = self.draw(batch, new, v_width) if normed else None
        self.norm = Norm(1 + 0.2 * self.draw(v_dim), 1e-6) if normed else None
        self.cut = cut

    def draw(self, *shape):
        return mx.array(self.rng.normal(size=shape).astype(np.float32)).astype(self.dtype)

    def columns(self, part):
        """gate, b and a as the columns of one row, should `cut` be asked for."""
        if not self.cut:
            return part(self.a), part(self.b), self.gate if self.gate is None else part(self.gate)
        row = part(mx.concatenate([self.gate, self.b, self.a], axis=-1))
        wide_, heads = self.gate.shape[-1], self.dims[1]
        return Columns(row, wide_ + heads, heads), Columns(row, wide_, heads), Columns(row, 0, wide_)

    def arguments(self, part, state):
        a, b, gate = self.columns(part)
        return (part(self.qkv), a, b, state), {"rate": self.rate, "dt_bias": self.dt_bias, "gate": gate, "norm": self.norm}

    def fused(self, part=lambda x: x, state=None, keep=False, order="forward"):
        given, named = self.arguments(part, self.state if state is None else state)
        with kernels_run(order):
            made = op.gated_delta(*given, **named, keep=keep)
            mx.eval([array for array in made if array is not None])
        return made

    def plain(self):
        given, named = self.arguments(lambda x: x, self.state)
        return op.reference(*given, **named)

    def truth(self):
        k_heads, v_heads, k_dim, v_dim = self.dims
        qkv, a, b, state, rate, dt_bias = map(wide, (self.qkv, self.a, self.b, self.state, self.rate, self.dt_bias))
        q, k, v = np.split(qkv, [k_heads * k_dim, 2 * k_heads * k_dim], axis=-1)
        q, k = (x.reshape(*x.shape[:2], k_heads, k_dim).repeat(v_heads // k_heads, axis=2) for x in (q, k))
        q, k = (x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6) for x in (q, k))
        v, q = v.reshape(*v.shape[:2], v_heads, v_dim), q / np.sqrt(k_dim)
        decay, beta = np.exp(-rate * np.logaddexp(a + dt_bias, 0)), 1 / (1 + np.exp(-b))
        ys, states = [], []
        for t in range(qkv.shape[1]):
            state = decay[:, t, :, None, None] * state
            error = beta[:, t, :, None] * (v[:, t] - np.einsum("bhvk,bhk->bhv", state, k[:, t]))
            state = state + error[..., None] * k[:, t, :, None]
            ys.append(np.einsum("bhvk,bhk->bhv", state, q[:, t]))
            states.append(state)
        y = np.stack(ys, axis=1)
        if self.norm:
            y = y / np.sqrt((y * y).mean(-1, keepdims=True) + self.norm.eps) * wide(self.norm.weight)
            gate = wide(self.gate).reshape(y.shape)
            y = y * gate / (1 + np.exp(-gate))
        return y, np.stack(states, axis=1)

    def check(self):
        steps = self.qkv.shape[1] <= op.STEPS
        y, state, trail = self.fused(keep=steps, order="random")
        plain, (truth, states) = self.plain(), self.truth()
        # Chunks round less often than steps, and the largest errors of what is normed are a few roundings, by luck.
        exact = steps and not self.norm
        assert_accurate(y, plain[0], truth) if exact or self.dtype != F32 else assert_near(y, truth)
        assert_accurate(state, plain[1], states[:, -1]) if steps else assert_near(state, states[:, -1])
        if steps:
            assert_near(trail, states)
            assert mx.array_equal(trail[:, -1], state)


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("new", [1, 4])
def test_every_type(dtype, normed, new):
    Problem(2, new, dtype, normed=normed).check()


@pytest.mark.parametrize("k_heads, v_heads, k_dim, v_dim", [(1, 1, 32, 8), (2, 2, 128, 128), (1, 3, 96, 24), (1, 2, 256, 33)])
@pytest.mark.parametrize("normed", [False, True])
def test_every_shape(k_heads, v_heads, k_dim, v_dim, normed):
    Problem(1, 2, BF16, k_heads, v_heads, k_dim, v_dim, normed=normed).check()


@pytest.mark.parametrize("new", [2, 9, 10, 40])
@pytest.mark.parametrize("normed", [False, True])
def test_steps_and_prompts(new, normed):
    Problem(2, new, F32, normed=normed).check()


@pytest.mark.parametrize("new", [3, 12])
def test_columns_of_one_row(new):
    Problem(2, new, BF16, normed=True, cut=True).check()


@pytest.mark.parametrize("normed", [False, True])
def test_tokens_have_the_same_bits_one_by_one_and_together_alone_and_in_a_batch(normed):
    problem = Problem(2, 5, BF16, normed=normed)
    together, after, trail = problem.fused(keep=True)
    for row in range(2):
        state = problem.state[row : row + 1]
        for t in range(5):
            y, state, _ = problem.fused(lambda x, row=row, t=t: x[row : row + 1, t : t + 1], state)
            assert mx.array_equal(y[0, 0], together[row, t]) and mx.array_equal(state[0], trail[row, t])
        assert mx.array_equal(state[0], after[row])


def test_states_of_a_prompt_have_the_bits_of_its_steps():
    """A walk over more tokens splits a head over threadgroups; the states must not know."""
    problem = Problem(1, 12, F32, k_dim=128, v_dim=128, v_heads=2)
    whole, state = problem.fused()[1], problem.state
    for t in range(12):
        state = problem.fused(lambda x, t=t: x[:, t : t + 1], state)[1]
    assert mx.array_equal(state, whole)


def test_decay_is_right_where_it_is_hardly_any():
    """softplus of very negative numbers, and of large ones."""
    for bias in (-30.0, -12.0, 30.0):
        problem = Problem(1, 9, F32)
        problem.dt_bias = mx.full((4,), bias)
        problem.rate = mx.full((4,), 1e4 if bias < 0 else 0.01)
        problem.check()


REFUSED = {
    "heads of 40x48; up to 256x256 is covered, with keys of a multiple of 32": {"k_dim": 48},
    "heads of 264x64; up to 256x256 is covered, with keys of a multiple of 32": {"v_dim": 264},
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_does_not_cover_falls_to_the_reference_and_says_why(why):
    Problem(1, 1, **REFUSED[why]).fused()
    assert why in {way.why for way in launch.report() if way.op == "gated_delta"}


def test_a_chip_can_have_long_prompts_in_chunks(monkeypatch):
    monkeypatch.setattr(gated_delta_kernel, "LONGEST", 16)
    Problem(1, 70, BF16, normed=True).check()
    assert "more than 16 tokens" in {way.why for way in launch.report() if way.op == "gated_delta"}


@pytest.mark.parametrize("v_dim, rows", [(64, 8), (128, 8), (128, 2), (256, 8), (256, 1)])
def test_a_head_fits_in_a_threadgroup_of_any_gpu(v_dim, rows, monkeypatch):
    """An Apple GPU takes fewer threads of a kernel with many registers; MLX then raises, in the middle of a step."""
    problem = Problem(1, 1, v_dim=v_dim, k_dim=128, normed=True)
    threads = {}
    for machine in ("metal", "cuda"):
        monkeypatch.setattr(launch, "machine", lambda machine=machine: machine)
        with ahead.noted() as variants, launch.forced("gated_delta", {"rows": rows}):
            given, named = problem.arguments(lambda x: x, problem.state)
            op.gated_delta(*given, **named)
        threads[machine] = variants[0][4]
    assert threads["metal"] <= 32 * launch.METAL_SIMDS and threads["cuda"] == min(1024, 32 * v_dim // rows)
