"""Attention of new tokens over the keys and values of their own sequence, which live in pages of a pool (pages.py).

    o_t = sum_s softmax_s(cap(q_t k_s scale)) v_s      over s <= t, and s > t - window where there is one

Vaswani et al. 2017; grouped heads: Ainslie et al. 2023; soft-cap: cap(x) = c tanh(x / c), Gemma 2 report 2024.
"""

import mlx.core as mx

from . import attention_kernel, launch, packed_attention_kernel
from .activations import soft_cap
from .pages import PAGE, Pages, Rows

# Scores held at once by one call of the reference, in elements: 2^24 float32 are 64 MiB.
SCORES = 1 << 24
FLASH_HEADS = (64, 80, 128)  # head sizes of which MLX holds no scores for whole prompts on a GPU


def attention(
    q: mx.array,
    k: mx.array | None,
    v: mx.array | None,
    pages: Pages,
    rows: Rows,
    *,
    scale: float,
    cap: float | None = None,
) -> mx.array:
    """q [B, heads, T, head_dim], k and v [B, kv_heads, T, head_dim] -> [B, T, heads head_dim]; extends `pages`.

    Without k and v, `pages` hold them already: another layer of the same step wrote them.
    """
    if k is not None:
        pages.write(k, v, rows)
    if pages.coding is not None:
        return over_packed(q, pages, rows, scale=scale, cap=cap)
    if launch.on_cpu("attention") and rows.addressed is None:
        return reference(q, pages, rows, scale=scale, cap=cap)
    refusal = attention_kernel.covers(q, pages)
    if launch.uses_kernel("attention", attention_kernel.case(q, pages.kv_heads, pages.window), refusal):
        return attention_kernel.fused(q, pages, rows.addresses(q.shape[2], pages.keys.shape[1]), scale=scale, cap=cap)
    if rows.addressed is not None:
        return paged_reference(q, *pages.held, rows.addressed, scale=scale, window=pages.window, cap=cap)
    return reference(q, pages, rows, scale=scale, cap=cap)


def over_packed(q, pages: Pages, rows: Rows, *, scale, cap) -> mx.array:
    """Where heads are packed (coding.py): a kernel reads them as they lie, or what the rows see is unpacked first."""
    if not launch.on_cpu("packed_attention"):
        refusal = packed_attention_kernel.covers(q, pages)
        if launch.uses_kernel("packed_attention", packed_attention_kernel.case(q, pages), refusal):
            addresses = rows.addresses(q.shape[2], pages.keys.shape[1])
            return packed_attention_kernel.fused(q, pages, addresses, scale=scale, cap=cap)
    return unpacked_reference(q, pages, rows, scale=scale, cap=cap)


def unpacked_reference(q, pages: Pages, rows: Rows, *, scale, cap=None) -> mx.array:
    turned = pages.coding.turn(q).astype(q.dtype)
    if rows.addressed is None:
        o = reference(turned, pages, rows, scale=scale, cap=cap)
    else:
        keys, values = pages.paged(rows.addressed)
        o = attend_paged(turned, keys, values, rows.addressed, scale=scale, window=pages.window, cap=cap)
    heads = mx.unflatten(o, -1, (q.shape[1], -1))
    return pages.coding.turn_back(heads).astype(q.dtype).reshape(o.shape)


def paged_reference(q, keys, values, addresses, *, scale, window=None, cap=None) -> mx.array:
    """All rows at once over the pages of the table: what a traced step does where the kernel does not cover the shape."""
    index = (addresses.table[:, :, None] * PAGE + mx.arange(PAGE)).reshape(len(q), -1)
    k, v = (pool[:, index].swapaxes(0, 1) for pool in (keys, values))
    return attend_paged(q, k, v, addresses, scale=scale, window=window, cap=cap)


def attend_paged(q, k, v, addresses, *, scale, window=None, cap=None) -> mx.array:
    """k, v [B, KV, N PAGE, d]: all slots of the pages of the table."""
    batch, _, new, _ = q.shape
    at = addresses.bounds[:, :1] + mx.arange(k.shape[2])
    distance = addresses.bounds[:, 1:, None] + mx.arange(new)[:, None] - at[:, None]
    seen = (distance >= 0) & (distance < (window or 1 << 30))
    o = attend_masked(q, k, v, scale, seen[:, None], cap)
    return o.swapaxes(1, 2).reshape(batch, new, -1)


def reference(q, pages: Pages, rows: Rows, *, scale, cap=None) -> mx.array:
    """Row by row over its own keys, so that a row's result does not depend on its neighbours."""
    outputs = []
    for b, span in enumerate(rows.spans):
        k, v = (x[None] for x in pages.read(span))
        outputs.append(attend(q[b : b + 1], k, v, scale=scale, window=pages.window, cap=cap))
    o = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)
    return o.swapaxes(1, 2).reshape(o.shape[0], o.shape[2], -1)


def attend(q, k, v, *, scale, window=None, cap=None) -> mx.array:
    """One row: q [1, H, T, d] are the last T of the S positions of k, v [1, KV, S, d].

    Where MLX holds all scores, queries go in tiles that hold at most SCORES, each over the keys that it can see.
    """
    total, new, heads = k.shape[2], q.shape[2], q.shape[1]
    flash = cap is None and (window is None or total <= window) and holds_no_scores(q, v)
    tile = new if flash else max(1, min(new, SCORES // (heads * total)))
    outputs = []
    for start in range(0, new, tile):
        stop = min(start + tile, new)
        last = total - new + stop  # keys up to here are visible to the tile
        begin = 0 if window is None else max(0, last - (stop - start) - window + 1)
        outputs.append(
            attend_tile(q[:, :, start:stop], k[:, :, begin:last], v[:, :, begin:last], scale, window, cap)
        )
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def holds_no_scores(q, v) -> bool:
    """MLX's fused attention for prompts, where a mask is no array: on a GPU, 16-bit, these heads."""
    on_gpu = mx.default_device().type != mx.DeviceType.cpu
    return on_gpu and q.shape[3] == v.shape[3] and q.shape[3] in FLASH_HEADS and q.dtype != mx.float32


def attend_tile(q, k, v, scale, window, cap):
    return attend_masked(q, k, v, scale, visible(q.shape[2], k.shape[2], window), cap)


def attend_masked(q, k, v, scale, mask, cap):
    if cap is None:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return attend_capped(q, k, v, scale, mask, cap)


def visible(new: int, total: int, window: int | None) -> mx.array | str | None:
    """What the last `new` of `total` positions see: None is all, "causal" is all up to oneself."""
    if window is None or total <= window:
        return "causal" if new > 1 else None
    if new == 1 and total <= window:
        return None
    distance = mx.arange(total - new, total)[:, None] - mx.arange(total)[None]
    return (distance >= 0) & (distance < window)


def attend_capped(q, k, v, scale, mask, cap):
    """With soft-capped scores, which MLX's fused attention does not know."""
    batch, heads, new, d = q.shape
    grouped = q.reshape(batch, k.shape[1], -1, new, d) * scale
    scores = soft_cap(grouped @ k[:, :, None].swapaxes(-1, -2), cap)
    if mask is not None:
        mask = visible_array(new, k.shape[2]) if isinstance(mask, str) else mask
        mask = mask if mask.ndim < 4 else mask[:, :, None]  # one for all heads of a group
        scores = mx.where(mask, scores, mx.array(-mx.inf, scores.dtype))
    weights = mx.softmax(scores, axis=-1, precise=True)
    return (weights @ v[:, :, None]).reshape(batch, heads, new, d)


def visible_array(new: int, total: int) -> mx.array:
    return mx.arange(total - new, total)[:, None] >= mx.arange(total)[None]
