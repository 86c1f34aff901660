"""The gated delta rule: a state for each head that decays by a number, and is corrected towards a value at a key.

    q, k    = q / |q| / sqrt(Dk), k / |k|              |x| = sqrt(sum x^2 + 1e-6)
    g_t     = -rate softplus(a_t + dt_bias),  beta_t = sigmoid(b_t)
    S'_t    = exp(g_t) S_{t-1}                         S [Dv, Dk]
    S_t     = S'_t + beta_t (v_t - S'_t k_t) k_t^T
    y_t     = S_t q_t

Yang, Kautz & Hatamizadeh 2024 (Gated Delta Networks). qkv [B, T, 2 Hk Dk + Hv Dv] are q, k and v side by side, Hk heads
of q and k, each for Hv / Hk neighbouring heads of v; a, b [B, T, Hv]; rate, dt_bias [Hv] float32, rate > 0; state
[B, Hv, Dv, Dk] float32. All of it is computed in float32; y [B, T, Hv, Dv] has qkv's dtype.

Up to STEPS tokens go one by one, whatever else is in the batch. More of them go in chunks (section 3 of the paper; the
UT transform is of Joffrain et al. 2006). In a chunk that starts with state S, w_ts = exp(g_{s+1} + ... + g_t) for s <= t
and w_t = exp(g_1 + ... + g_t):

    X    = (I + L)^-1,      L_ts = beta_t w_ts (k_t . k_s)  for s < t, else 0
    E    = X (beta v) - X (beta w k) S^T               the corrections of all tokens, [C, Dv]
    y_t  = w_t S q_t + sum_{s <= t} w_ts (q_t . k_s) E_s
    S'   = w_C S + sum_s w_Cs E_s k_s^T

which is matrix products, and holds Hv C^2 weights for CHUNKS chunks at once however long the prompt is. The kernel walks
token by token whatever T is.
"""

import mlx.core as mx

from . import gated_delta_kernel, launch
from .activations import compiled
from .columns import Wide, array
from .gated_delta_kernel import STEPS
from .gated_norm import gated_norm
from .mamba2 import running_products
from .norm import Norm

CHUNK = 64  # tokens, a power of two; as in the reference implementations, not tuned on a GPU yet
CHUNKS = 16  # whose weights and inverses are made together, before the states go through them in turn

Scan = tuple[mx.array, mx.array, mx.array | None]


def gated_delta(
    qkv: mx.array,
    a: Wide,
    b: Wide,
    state: mx.array,
    *,
    rate: mx.array,
    dt_bias: mx.array,
    keep: bool = False,
    gate: Wide | None = None,
    norm: Norm | None = None,
) -> Scan:
    """-> y [B, T, Hv, Dv], the state after T tokens, and with `keep` the states after each token [B, T, Hv, Dv, Dk].

    With gate [B, T, Hv Dv] and norm, y is what `gated_norm` makes of it.
    """
    assert not keep or qkv.shape[1] <= STEPS, f"{qkv.shape[1]} states cannot be kept, {STEPS} can"
    if launch.on_cpu("gated_delta"):
        return reference(qkv, a, b, state, rate=rate, dt_bias=dt_bias, keep=keep, gate=gate, norm=norm)
    refusal = gated_delta_kernel.covers(qkv, a, b, state, rate, dt_bias, gate, norm)
    if not launch.uses_kernel("gated_delta", gated_delta_kernel.case(qkv, state), refusal):
        return reference(qkv, a, b, state, rate=rate, dt_bias=dt_bias, keep=keep, gate=gate, norm=norm)
    if qkv.shape[1] <= STEPS:
        return gated_delta_kernel.fused(qkv, a, b, state, rate, dt_bias, keep, gate, norm)
    y, state, _ = gated_delta_kernel.fused(qkv, a, b, state, rate, dt_bias, False, None, None)
    return ended(y, gate, norm), state, None


def ended(y, gate, norm):
    return y if gate is None else gated_norm(y, mx.unflatten(array(gate), -1, y.shape[2:]), norm)


def reference(qkv, a, b, state, *, rate, dt_bias, keep=False, gate=None, norm=None) -> Scan:
    y, state, trail = recurrence(qkv, array(a), array(b), state, rate, dt_bias, keep)
    return ended(y, gate, norm), state, trail


def recurrence(qkv, a, b, state, rate, dt_bias, keep) -> Scan:
    if qkv.shape[1] <= STEPS:
        y, state, trail = scanned(step_by_step, qkv, a, b, state, rate, dt_bias)
        return y, state, trail if keep else None
    ys, size = [], CHUNK * CHUNKS
    for start in range(0, qkv.shape[1], size):
        # Most of a piece needs no state, and MLX would compute that of all pieces before the first state; and every y
        # that nobody waits for would stay in float32.
        parts = mx.depends([x[:, start : start + size] for x in (qkv, a, b)], [state, *ys[-1:]])
        y, state, _ = scanned(chunk_by_chunk, *parts, state, rate, dt_bias)
        ys.append(y)
    return ys[0] if len(ys) == 1 else mx.concatenate(ys, axis=1), state, None


def scanned(scan, qkv, a, b, state, rate, dt_bias) -> Scan:
    q, k, v = split(qkv, state)
    heads = k.shape[2]
    decay, beta = (mx.unflatten(x, -1, (heads, -1)) for x in gates(a, b, rate, dt_bias))
    y, after, trail = scan(q, k, v, decay, beta, mx.unflatten(state, 1, (heads, -1)))
    return y.flatten(2, 3).astype(qkv.dtype), after.flatten(1, 2), None if trail is None else trail.flatten(2, 3)


def split(qkv, state):
    """q, k [B, T, Hk, 1, Dk] of length 1/sqrt(Dk) and 1, v [B, T, Hk, Hv/Hk, Dv]; float32."""
    _, v_heads, v_dim, k_dim = state.shape
    k_width = (qkv.shape[-1] - v_heads * v_dim) // 2
    q, k, v = mx.split(qkv.astype(mx.float32), [k_width, 2 * k_width], axis=-1)
    q, k = (unit(mx.unflatten(x, -1, (-1, 1, k_dim))) for x in (q, k))
    return q * k_dim**-0.5, k, mx.unflatten(v, -1, (k.shape[2], -1, v_dim))


def unit(x: mx.array) -> mx.array:
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


@compiled
def gates(a, b, rate, dt_bias):
    """The logarithm of the decay, and beta."""
    return -rate * mx.logaddexp(a.astype(mx.float32) + dt_bias, 0), mx.sigmoid(b.astype(mx.float32))


# ---- one by one. R stands for Hv / Hk


def step_by_step(q, k, v, decay, beta, state) -> Scan:
    ys, states = [], []
    for t in range(q.shape[1]):
        state = advance(state, k[:, t], v[:, t], decay[:, t], beta[:, t])
        ys.append((state @ q[:, t, ..., None]).squeeze(-1))
        states.append(state)
    return mx.stack(ys, axis=1), state, mx.stack(states, axis=1)


@compiled
def advance(state, k, v, decay, beta):
    """state [B, Hk, R, Dv, Dk], k [B, Hk, 1, Dk], v [B, Hk, R, Dv], decay and beta [B, Hk, R]."""
    state = mx.exp(decay)[..., None, None] * state
    error = beta[..., None] * (v - (state @ k[..., None]).squeeze(-1))
    return state + error[..., None] * k[..., None, :]


# ---- in chunks. N of them have C tokens each


def chunk_by_chunk(q, k, v, decay, beta, state) -> Scan:
    count = q.shape[1]
    y, state = piece(*(chunked(x) for x in (q, k, v, decay, beta)), state)
    return mx.moveaxis(y[..., :count, :], -2, 1), state, None


def chunked(x: mx.array) -> mx.array:
    """[B, T, Hk, R, ...] -> [B, Hk, R, N, C, ...], filled up with zeros: such tokens change no state."""
    fill = -x.shape[1] % CHUNK
    x = mx.pad(x, [(0, 0), (0, fill), *[(0, 0)] * (x.ndim - 2)]) if fill else x
    return mx.moveaxis(mx.moveaxis(mx.unflatten(x, 1, (-1, CHUNK)), 3, 1), 4, 2)


def piece(q, k, v, decay, beta, state) -> tuple[mx.array, mx.array]:
    """N chunks -> y [B, Hk, R, N C, Dv] and the state after them."""
    beta, since = beta[..., None], mx.exp(mx.cumsum(decay, axis=-1))[..., None]
    weights = running_products(decay)
    inverse = inverse_of_unit_lower(mx.tril(beta * weights * (k @ k.swapaxes(-1, -2)), -1))
    values, reads = inverse @ (beta * v), inverse @ (beta * since * k)
    within, before = weights * (q @ k.swapaxes(-1, -2)), since * q
    after, total = weights[..., -1, :, None] * k, since[..., -1:, :]
    ys = []
    for n in range(v.shape[3]):
        errors = values[..., n, :, :] - reads[..., n, :, :] @ state.swapaxes(-1, -2)
        ys.append(before[..., n, :, :] @ state.swapaxes(-1, -2) + within[..., n, :, :] @ errors)
        state = total[..., n, :, :] * state + errors.swapaxes(-1, -2) @ after[..., n, :, :]
    return mx.concatenate(ys, axis=-2), state


def inverse_of_unit_lower(lower: mx.array) -> mx.array:
    """(I + lower)^-1 of [..., C, C] with zeros on and above the diagonal; C a power of two.

    By halves: [[A, 0], [M, D]] has the inverse [[A^-1, 0], [-D^-1 M A^-1, D^-1]]. Powers of `lower`, which would need no
    halves, cancel badly where keys are equal.
    """
    if lower.shape[-1] <= 2:
        return mx.eye(lower.shape[-1]) - lower
    half = lower.shape[-1] // 2
    top, bottom = lower[..., :half, :half], lower[..., half:, half:]
    top, bottom = inverse_of_unit_lower(mx.stack([top, bottom]))
    corner = -(bottom @ lower[..., half:, :half] @ top)
    rows = [mx.concatenate([top, mx.zeros_like(top)], axis=-1), mx.concatenate([corner, bottom], axis=-1)]
    return mx.concatenate(rows, axis=-2)
