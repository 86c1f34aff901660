"""The gated delta rule against its formula in float64: steps, chunks, and states kept on the way."""

import mlx.core as mx
import numpy as np
import pytest
from smelt.kernels import gated_delta as module
from smelt.kernels.gated_delta import CHUNK, CHUNKS, STEPS, gated_delta, inverse_of_unit_lower

B, HK, HV, DK, DV = 2, 2, 4, 16, 24


def numbers(*shape, seed):
    return mx.random.normal(shape, key=mx.random.key(seed))


def case(new, dtype=mx.float32, seed=0, slow=False, repeated=False):
    """slow: hardly any decay; repeated: the same key at every token."""
    qkv = numbers(B, new, 2 * HK * DK + HV * DV, seed=seed)
    if repeated:
        qkv[:, :, HK * DK : 2 * HK * DK] = qkv[:, :1, HK * DK : 2 * HK * DK]
    a, b = numbers(B, new, HV, seed=seed + 1), 2 * numbers(B, new, HV, seed=seed + 2) + (4 if repeated else 0)
    state = numbers(B, HV, DV, DK, seed=seed + 3)
    rate, dt_bias = mx.exp(numbers(HV, seed=seed + 4)) * (1e-4 if slow else 1), numbers(HV, seed=seed + 5)
    return [x.astype(dtype) for x in (qkv, a, b)] + [state], {"rate": rate, "dt_bias": dt_bias}


def formula(qkv, a, b, state, rate, dt_bias):
    """y, and the states after each token."""
    qkv, a, b, state, rate, dt_bias = (
        np.array(x.astype(mx.float32), dtype=np.float64) for x in (qkv, a, b, state, rate, dt_bias)
    )
    new = qkv.shape[1]
    q, k, v = np.split(qkv, [HK * DK, 2 * HK * DK], axis=-1)
    q, k = (x.reshape(B, new, HK, DK).repeat(HV // HK, axis=2) for x in (q, k))
    q, k = (x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6) for x in (q, k))
    v, q = v.reshape(B, new, HV, DV), q / np.sqrt(DK)
    decay, beta = np.exp(-rate * np.log1p(np.exp(a + dt_bias))), 1 / (1 + np.exp(-b))
    ys, states = [], []
    for t in range(new):
        state = decay[:, t, :, None, None] * state
        error = beta[:, t, :, None] * (v[:, t] - np.einsum("bhvk,bhk->bhv", state, k[:, t]))
        state = state + error[..., None] * k[:, t, :, None]
        ys.append(np.einsum("bhvk,bhk->bhv", state, q[:, t]))
        states.append(state)
    return np.stack(ys, axis=1), np.stack(states, axis=1)


def error(ours, truth):
    return np.abs(np.array(ours.astype(mx.float32)) - truth).max() / np.abs(truth).max()


@pytest.mark.parametrize("new", [1, 2, STEPS, STEPS + 1, CHUNK - 1, CHUNK, CHUNK + 1, 200])
def test_formula(new):
    arrays, gates = case(new)
    y, state, trail = gated_delta(*arrays, **gates)
    truth, states = formula(*arrays, **gates)
    assert y.shape == (B, new, HV, DV) and trail is None and state.dtype == mx.float32
    assert error(y, truth) < 1e-5 and error(state, states[:, -1]) < 1e-5


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_equal_keys_and_no_decay_lose_nothing_in_chunks(slow, repeated):
    """A prompt that repeats one token: the rows of L are then equal, and its powers are huge."""
    arrays, gates = case(130, slow=slow, repeated=repeated)
    y, state, _ = gated_delta(*arrays, **gates)
    truth, states = formula(*arrays, **gates)
    assert error(y, truth) < 2e-5 and error(state, states[:, -1]) < 2e-5


def test_decays_to_nothing():
    arrays, gates = case(100)
    gates["rate"] = mx.full((HV,), 300.0)
    y, state, _ = gated_delta(*arrays, **gates)
    truth, states = formula(*arrays, **gates)
    assert error(y, truth) < 1e-5 and error(state, states[:, -1]) < 1e-5


def test_more_than_a_piece(monkeypatch):
    monkeypatch.setattr(module, "CHUNKS", 2)
    assert CHUNKS > 2
    arrays, gates = case(300)
    y, state, _ = gated_delta(*arrays, **gates)
    truth, states = formula(*arrays, **gates)
    assert error(y, truth) < 1e-5 and error(state, states[:, -1]) < 1e-5


def test_memory_grows_by_input_and_output_only():
    """What is made on the way is that of one piece."""

    def peak(new):
        arrays, gates = case(new, mx.bfloat16)
        mx.eval(arrays, gates)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        y, state, _ = gated_delta(*arrays, **gates)
        mx.eval(y, state)
        return mx.get_peak_memory() - before - 2 * y.nbytes

    piece = CHUNK * CHUNKS
    assert peak(4 * piece) < 1.25 * peak(piece)


@pytest.mark.parametrize("new", [1, 4, STEPS])
def test_states_after_every_token(new):
    arrays, gates = case(new)
    y, state, trail = gated_delta(*arrays, **gates, keep=True)
    assert error(trail, formula(*arrays, **gates)[1]) < 1e-5 and mx.array_equal(trail[:, -1], state)
    one, _, _ = gated_delta(arrays[0][:, :1], arrays[1][:, :1], arrays[2][:, :1], arrays[3], **gates)
    assert mx.array_equal(one, y[:, :1])


def test_too_many_states_to_keep():
    arrays, gates = case(STEPS + 1)
    with pytest.raises(AssertionError, match="states cannot be kept"):
        gated_delta(*arrays, **gates, keep=True)


@pytest.mark.parametrize("new", [3, 70])
def test_a_row_does_not_depend_on_its_neighbours(new):
    arrays, gates = case(new)
    y, state, _ = gated_delta(*arrays, **gates)
    alone = gated_delta(*(x[1:] for x in arrays), **gates)
    assert mx.allclose(alone[0], y[1:], atol=1e-6) and mx.allclose(alone[1], state[1:], atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(mx.bfloat16, 4e-3), (mx.float16, 5e-4)])
@pytest.mark.parametrize("new", [1, 80])
def test_16_bits_are_only_rounded_at_the_end(dtype, tolerance, new):
    arrays, gates = case(new, dtype)
    y, state, _ = gated_delta(*arrays, **gates)
    truth, states = formula(*arrays, **gates)
    assert y.dtype == dtype and error(y, truth) < tolerance and error(state, states[:, -1]) < 1e-5


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_inverse(size):
    lower = mx.tril(numbers(3, size, size, seed=1), -1) / size**0.5
    found = np.array(inverse_of_unit_lower(lower), dtype=np.float64)
    assert np.abs(found @ (np.eye(size) + np.array(lower)) - np.eye(size)).max() < 1e-4
