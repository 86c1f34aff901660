"""Mamba-2: a state for each head that decays by a number, and is written and read by vectors shared within a group.

    dt_t = clip(softplus(dt_t + dt_bias), limit)
    S_t  = exp(dt_t a) S_{t-1} + dt_t x_t b_t^T          S [d, N], a < 0
    y_t  = S_t c_t + D x_t

Dao & Gu 2024 (Transformers are SSMs). xbc [B, T, H d + 2 G N] are x, b and c side by side: H heads of x, and G of b and
c, one for each H/G of them; dt [B, T, H] before bias and softplus; a, D, dt_bias [H] float32; state [B, H, d, N] float32.
All sums are float32, y [B, T, H, d] has x's dtype.

Up to STEPS tokens go one by one, whatever else is in the batch. More of them go in chunks (the paper's section 6): in
a chunk of L tokens with start state S, and w_ts = exp(sum of dt a over s+1..t) for s <= t,

    y_t = sum_s w_ts (c_t . b_s) dt_s x_s + w_t0 S c_t + D x_t
    S'  = w_L0 S + sum_s w_Ls dt_s x_s b_s^T

which is matrix products, and holds H L^2 weights at once however long the prompt is. The kernel walks token by token
whatever T is.
"""

import mlx.core as mx

from . import launch, mamba2_kernel
from .activations import compiled
from .columns import Wide, array
from .mamba2_kernel import STEPS

CHUNK = 128  # of 64..256 tokens; the published models were trained with 128 and 256

Limit = tuple[float, float]
Scan = tuple[mx.array, mx.array, mx.array | None]


def mamba2(
    xbc: mx.array,
    dt: Wide,
    state: mx.array,
    *,
    a: mx.array,
    d: mx.array,
    dt_bias: mx.array,
    limit: Limit = (0.0, float("inf")),
    keep: bool = False,
) -> Scan:
    """-> y [B, T, H, d], the state after T tokens, and with `keep` the states after each token [B, T, H, d, N]."""
    assert not keep or xbc.shape[1] <= STEPS, f"{xbc.shape[1]} states cannot be kept, {STEPS} can"
    if launch.on_cpu("mamba2"):
        return reference(xbc, dt, state, a=a, d=d, dt_bias=dt_bias, limit=limit, keep=keep)
    refusal = mamba2_kernel.covers(xbc, dt, state, a, d, dt_bias)
    if launch.uses_kernel("mamba2", mamba2_kernel.case(xbc, state), refusal):
        return mamba2_kernel.fused(xbc, dt, state, a, d, dt_bias, limit, keep)
    return reference(xbc, dt, state, a=a, d=d, dt_bias=dt_bias, limit=limit, keep=keep)


def reference(xbc, dt, state, *, a, d, dt_bias, limit=(0.0, float("inf")), keep=False) -> Scan:
    dt = time_steps(array(dt), dt_bias, mx.array(limit[0]), mx.array(limit[1]))
    x, b, c = split(xbc.astype(mx.float32), state)
    wide = x, dt, b, c
    y, state, trail = step_by_step(*wide, state, a, keep) if x.shape[1] <= STEPS else chunk_by_chunk(*wide, state, a)
    return (y + d[:, None] * x).astype(xbc.dtype), state, trail


def split(xbc, state):
    """x [B, T, H, d], b and c [B, T, G, N]."""
    _, heads, width, size = state.shape
    end = heads * width
    x, b, c = mx.split(xbc, [end, (xbc.shape[-1] + end) // 2], axis=-1)
    return mx.unflatten(x, -1, (heads, width)), *(mx.unflatten(v, -1, (-1, size)) for v in (b, c))


@compiled
def time_steps(dt, bias, low, high):
    return mx.clip(mx.logaddexp(dt.astype(mx.float32) + bias, 0), low, high)


def step_by_step(x, dt, b, c, state, a, keep: bool) -> Scan:
    ys, states = [], []
    for t in range(x.shape[1]):
        state = advance(state, x[:, t], dt[:, t], a, per_head(b[:, t], x.shape[2]))
        ys.append((state @ per_head(c[:, t], x.shape[2])[..., None])[..., 0])
        states.append(state)
    return mx.stack(ys, axis=1), state, mx.stack(states, axis=1) if keep else None


@compiled
def advance(state, x, dt, a, b):
    """state [B, H, d, N], x [B, H, d], dt [B, H], b [B, H, N]."""
    return mx.exp(dt * a)[..., None, None] * state + (dt[..., None] * x)[..., None] * b[..., None, :]


def per_head(v: mx.array, heads: int) -> mx.array:
    """[B, G, N] -> [B, H, N]."""
    return mx.repeat(v, heads // v.shape[1], axis=1)


def chunk_by_chunk(x, dt, b, c, state, a) -> Scan:
    ys = [state]
    for start in range(0, x.shape[1], CHUNK):
        # Only when the chunk before is done: MLX would hold the weights of all chunks until the outputs are joined.
        parts = mx.depends([v[:, start : start + CHUNK] for v in (x, dt, b, c)], [ys[-1], state])
        y, state = chunk(*parts, state, a)
        ys.append(y)
    return mx.concatenate(ys[1:], axis=1), state, None


def chunk(x, dt, b, c, state, a) -> tuple[mx.array, mx.array]:
    """One chunk of the same; inside, heads are [G, H/G] so that b and c are not repeated."""
    batch, count, heads, width = x.shape
    b, c = (v.swapaxes(1, 2)[:, :, None] for v in (b, c))  # [B, G, 1, L, N]
    split = (batch, b.shape[1], heads // b.shape[1])
    decay = mx.swapaxes(dt * a, 1, 2).reshape(*split, count)
    weights = running_products(decay)
    moved = mx.swapaxes(dt[..., None] * x, 1, 2).reshape(*split, count, width)
    state = state.reshape(*split, width, -1)
    since = mx.exp(mx.cumsum(decay, axis=-1))[..., None]
    y = (weights * (c @ mx.swapaxes(b, -1, -2))) @ moved + since * (c @ mx.swapaxes(state, -1, -2))
    after = since[..., -1:, :] * state + mx.swapaxes(moved * weights[..., -1, :, None], -1, -2) @ b
    return y.reshape(batch, heads, count, width).swapaxes(1, 2), after.reshape(batch, heads, width, -1)


def running_products(decay: mx.array) -> mx.array:
    """decay [..., L] -> [..., t, s]: exp(decay_{s+1} + ... + decay_t) for s <= t, else 0.

    Summed for each s on its own: the difference of two running sums loses the small decays behind large ones.
    """
    count = decay.shape[-1]
    spread = mx.tril(mx.broadcast_to(decay[..., None], (*decay.shape, count)), -1)
    return mx.tril(mx.exp(mx.cumsum(spread, axis=-2)))
