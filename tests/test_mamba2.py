"""The recurrence against its formula in float64, token by token."""

import mlx.core as mx
import numpy as np
import pytest
from smelt.kernels.gated_group_norm import gated_group_norm
from smelt.kernels.mamba2 import CHUNK, STEPS
from smelt.kernels.mamba2 import mamba2 as joined
from smelt.kernels.norm import Norm


def mamba2(x, dt, b, c, state, **more):
    return joined(mx.concatenate([v.flatten(-2) for v in (x, b, c)], axis=-1), dt, state, **more)


def drawn(rng, rows, tokens, heads, width, groups, size, dtype=mx.float32):
    def array(*shape):
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)

    inputs = [array(rows, tokens, heads, width), array(rows, tokens, heads),
              array(rows, tokens, groups, size), array(rows, tokens, groups, size)]  # fmt: skip
    state = mx.array(rng.standard_normal((rows, heads, width, size)).astype(np.float32))
    numbers = {"a": -mx.array(rng.uniform(0.05, 16, heads).astype(np.float32)),
               "d": mx.array(rng.standard_normal(heads).astype(np.float32)),
               "dt_bias": mx.array(rng.uniform(-4, 1, heads).astype(np.float32))}  # fmt: skip
    return [*inputs, state], numbers


def truth(x, dt, b, c, state, a, d, dt_bias, limit=(0.0, np.inf)):
    x, dt, b, c, state, a, d, dt_bias = (
        np.array(v.astype(mx.float32)).astype(np.float64) for v in (x, dt, b, c, state, a, d, dt_bias)
    )
    b, c = (np.repeat(v, x.shape[2] // v.shape[2], axis=2) for v in (b, c))
    dt = np.clip(np.logaddexp(0, dt + dt_bias), *limit)
    ys, states = [], []
    for t in range(x.shape[1]):
        state = np.exp(dt[:, t] * a)[..., None, None] * state
        state = state + np.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], b[:, t])
        ys.append(np.einsum("bhpn,bhn->bhp", state, c[:, t]) + d[:, None] * x[:, t])
        states.append(state)
    return np.stack(ys, 1), np.stack(states, 1)


def error(found, wanted):
    return np.abs(np.array(found.astype(mx.float32)) - wanted).max() / np.abs(wanted).max()


SHAPES = [(1, 1, 4, 8, 2, 16), (3, 4, 6, 5, 3, 7), (2, STEPS, 4, 8, 1, 16), (2, STEPS + 1, 4, 8, 4, 16),
          (1, CHUNK, 4, 8, 2, 16), (2, 2 * CHUNK + 3, 4, 8, 2, 16)]  # fmt: skip


@pytest.mark.parametrize("limit", [(0.0, float("inf")), (0.1, 0.7)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_recurrence(shape, limit):
    rng = np.random.default_rng()
    inputs, numbers = drawn(rng, *shape)
    y, state, _ = mamba2(*inputs, **numbers, limit=limit)
    ys, states = truth(*inputs, **numbers, limit=limit)
    assert error(y, ys) < 5e-6 and error(state, states[:, -1]) < 5e-6


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_16_bits_cost_their_rounding_only(shape, dtype):
    """Its error is that of rounding the exact result: everything inside is float32."""
    inputs, numbers = drawn(np.random.default_rng(), *shape, dtype=dtype)
    y, state, _ = mamba2(*inputs, **numbers)
    ys, states = truth(*inputs, **numbers)
    assert y.dtype == dtype and state.dtype == mx.float32
    assert error(y, ys) < (4e-3 if dtype == mx.bfloat16 else 5e-4) and error(state, states[:, -1]) < 5e-6


@pytest.mark.parametrize("tokens", [1, 4, STEPS])
def test_kept_states_are_those_after_each_token(tokens):
    inputs, numbers = drawn(np.random.default_rng(), 2, tokens, 4, 8, 2, 16)
    y, state, kept = mamba2(*inputs, **numbers, keep=True)
    assert error(kept, truth(*inputs, **numbers)[1]) < 5e-6
    assert mx.array_equal(kept[:, -1], state)
    assert mx.array_equal(y, mamba2(*inputs, **numbers)[0])


def test_one_by_one_equals_together_and_alone_bit_for_bit():
    """Rows drafted together, and each alone token by token: the same numbers."""
    (x, dt, b, c, state), numbers = drawn(np.random.default_rng(), 3, 5, 4, 8, 2, 16)
    y, after, _ = mamba2(x, dt, b, c, state, **numbers)
    for row in range(3):
        here, seen = slice(row, row + 1), state[row : row + 1]
        for t in range(5):
            now = slice(t, t + 1)
            one, seen, _ = mamba2(x[here, now], dt[here, now], b[here, now], c[here, now], seen, **numbers)
            assert mx.array_equal(one, y[here, now])
        assert mx.array_equal(seen, after[here])


def test_a_long_prompt_is_held_a_chunk_at_a_time():
    """Twelve chunks need the inputs and outputs of twelve, and the weights [H, L, L] of one or two."""
    heads = 32
    inputs, numbers = drawn(np.random.default_rng(0), 1, 12 * CHUNK, heads, 8, 1, 8)
    mx.eval(inputs, list(numbers.values()))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mamba2(*inputs, **numbers)[:2])
    weights = heads * CHUNK * CHUNK * 4
    assert mx.get_peak_memory() - before < 7 * weights + 6 * inputs[0].nbytes


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gated_group_norm(dtype):
    rng = np.random.default_rng()
    y, gate, weight = (
        mx.array(rng.standard_normal(s).astype(np.float32)).astype(dtype) for s in ((2, 3, 24), (2, 3, 24), (24,))
    )
    found = gated_group_norm(y, gate, Norm(weight, 1e-5), 4)
    y, gate, weight = (np.array(v.astype(mx.float32)).astype(np.float64) for v in (y, gate, weight))
    h = (y * gate / (1 + np.exp(-gate))).reshape(2, 3, 4, 6)
    wanted = (h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5)).reshape(2, 3, 24) * weight
    assert found.dtype == dtype and error(found, wanted) < (1e-6 if dtype == mx.float32 else 1e-2)
