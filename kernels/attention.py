"""Attention of new tokens over the keys and values of their own sequence, which live in pages of a pool.

    o_t = sum_s softmax_s(cap(q_t k_s scale)) v_s      over s <= t, and s > t - window where there is one

Vaswani et al. 2017; grouped heads: Ainslie et al. 2023; soft-cap: cap(x) = c tanh(x / c), Gemma 2 report 2024; pages:
Kwon et al. 2023. A pool holds the keys of all sequences of a layer as [kv_heads, slots, head_dim]; a page is PAGE
consecutive slots. With the slots behind the heads, a sequence whose pages follow one another is a strided view of
the pool, so a single stream reads it without a copy.
"""

from dataclasses import dataclass

import mlx.core as mx

from . import attention_kernel, launch
from .activations import soft_cap

PAGE = 64  # slots

# Scores held at once by one call of the reference, in elements: 2^24 float32 are 64 MiB.
SCORES = 1 << 24

Runs = tuple[tuple[int, int], ...]  # (first slot, slots), in the order of positions


@dataclass(frozen=True)
class Span:
    """One sequence's slots after a step's tokens were added: positions `first`.. `first` + slots of `runs`."""

    first: int
    runs: Runs

    @property
    def end(self) -> int:
        return self.first + sum(count for _, count in self.runs)

    @property
    def pages(self) -> list[int]:
        """The pages that hold the span. All runs but the first begin with a page, all but the last end with one."""
        return [page for slot, size in self.runs for page in range(slot // PAGE, -(-(slot + size) // PAGE))]

    def tail(self, count: int) -> Runs:
        """The runs of the last `count` positions."""
        found = []
        for slot, size in reversed(self.runs):
            taken = min(size, count)
            found.append((slot + size - taken, taken))
            count -= taken
            if not count:
                break
        return tuple(reversed(found))


@dataclass(frozen=True)
class Addresses:
    """The same spans for a kernel: table [B, N] pages of each row (0 past its last); bounds [B, 2] the positions of the
    table's first slot and of the first new token; slots [B T] of the new tokens; size [2] slots of the pool, N. int32.
    """

    table: mx.array
    bounds: mx.array
    slots: mx.array
    size: mx.array


@dataclass(frozen=True)
class Rows:
    """Where the B rows of a step stand: their spans, the slots a layer's pool must have, and runs to move first."""

    spans: tuple[Span, ...]
    slots: int
    moves: tuple[tuple[Runs, int], ...] = ()  # (old runs, first new slot)
    addressed: Addresses | None = None  # in a traced step, which knows no spans and finds the moves done

    def addresses(self, new: int, capacity: int) -> Addresses:
        """For `new` tokens a row, in a pool of `capacity` slots. N is a power of two, so that few shapes occur."""
        if self.addressed is not None:
            return self.addressed
        tables = [span.pages for span in self.spans]
        count = 1 << (max(map(len, tables)) - 1).bit_length()
        bounds = [(span.first - span.runs[0][0] % PAGE, span.end - new) for span in self.spans]
        slots = [slot + i for span in self.spans for slot, n in span.tail(new) for i in range(n)]
        return Addresses(
            mx.array([table + [0] * (count - len(table)) for table in tables], mx.int32),
            mx.array(bounds, mx.int32),
            mx.array(slots, mx.int32),
            mx.array([capacity, count], mx.int32),
        )


class Pages:
    """One layer's pool: keys and values [kv_heads, slots, head_dim], replaced by every write.

    window   positions that a token sees, itself included; None: all before it
    """

    def __init__(self, kv_heads: int, head_dim: int, dtype: mx.Dtype, window: int | None = None):
        self.kv_heads, self.head_dim, self.dtype, self.window = kv_heads, head_dim, dtype, window
        self.keys = self.values = None

    def clear(self) -> None:
        self.keys = self.values = None

    @property
    def slot_bytes(self) -> int:
        return 2 * self.kv_heads * self.head_dim * self.dtype.size

    @property
    def arrays(self) -> list[mx.array]:
        return [] if self.keys is None else [self.keys, self.values]

    def hold(self, arrays: list[mx.array]) -> None:
        self.keys, self.values = arrays

    def release(self) -> None:
        """Let go of the pool, so that whoever has it now can write in place."""
        self.keys = self.values = None

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None else self.keys.nbytes + self.values.nbytes

    def write(self, k: mx.array, v: mx.array, rows: Rows) -> None:
        """k, v [B, kv_heads, T, head_dim] go to the last T slots of each row."""
        if rows.addressed is not None:
            self.keys, self.values = (put(x, new, rows.addressed.slots) for x, new in ((self.keys, k), (self.values, v)))
            return
        self.prepare(rows)
        self.keys = self._written(self.keys, k, rows)
        self.values = self._written(self.values, v, rows)

    def prepare(self, rows: Rows) -> None:
        """Make the pool as large as the rows need, and move the runs that must move."""
        self.keys, self.values = (self._moved(self._grown(pool, rows.slots), rows) for pool in (self.keys, self.values))

    def _moved(self, pool, rows):
        for runs, slot in rows.moves:
            old = gathered(pool, runs)
            pool[:, slot : slot + old.shape[1]] = old
        return pool

    def _written(self, pool, new, rows):
        for row, span in zip(new, rows.spans, strict=True):
            done = 0
            for slot, count in span.tail(new.shape[2]):
                pool[:, slot : slot + count] = row[:, done : done + count]
                done += count
        return pool

    def _grown(self, pool, slots):
        have = 0 if pool is None else pool.shape[1]
        if have >= slots:
            return pool
        wanted = max(slots, have + have // 4)  # each growth copies the pool: a constant share keeps that rare
        more = mx.zeros((self.kv_heads, wanted - have, self.head_dim), self.dtype)
        return more if pool is None else mx.concatenate([pool, more], axis=1)


def put(pool: mx.array, new: mx.array, slots: mx.array) -> mx.array:
    """The pool [KV, slots, d] with new [B, KV, T, d] at `slots` [B T]; in place, when nothing else holds the pool."""
    flat = new.swapaxes(0, 1).reshape(pool.shape[0], -1, pool.shape[2])
    if flat.shape[1] == 1:
        return mx.slice_update(pool, flat, slots, axes=(1,))
    pool[:, slots] = flat
    return pool


def gathered(pool: mx.array, runs: Runs) -> mx.array:
    """The slots of `runs`, in order: a view where there is one run."""
    parts = [pool[:, slot : slot + count] for slot, count in runs]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)


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
    if launch.on_cpu("attention") and rows.addressed is None:
        return reference(q, pages.keys, pages.values, rows, scale=scale, window=pages.window, cap=cap)
    refusal = attention_kernel.covers(q, pages)
    if launch.uses_kernel("attention", attention_kernel.case(q, pages.kv_heads, pages.window), refusal):
        addresses = rows.addresses(q.shape[2], pages.keys.shape[1])
        return attention_kernel.fused(
            q, pages.keys, pages.values, addresses, page=PAGE, scale=scale, window=pages.window, cap=cap
        )
    if rows.addressed is not None:
        return paged_reference(q, pages.keys, pages.values, rows.addressed, scale=scale, window=pages.window, cap=cap)
    return reference(q, pages.keys, pages.values, rows, scale=scale, window=pages.window, cap=cap)


def paged_reference(q, keys, values, addresses, *, scale, window=None, cap=None) -> mx.array:
    """All rows at once over the pages of the table: what a traced step does where the kernel does not cover the shape."""
    batch, heads, new, _ = q.shape
    index = (addresses.table[:, :, None] * PAGE + mx.arange(PAGE)).reshape(batch, -1)
    k, v = (pool[:, index].swapaxes(0, 1) for pool in (keys, values))
    at = addresses.bounds[:, :1] + mx.arange(index.shape[1])
    distance = addresses.bounds[:, 1:, None] + mx.arange(new)[:, None] - at[:, None]
    seen = (distance >= 0) & (distance < (window or 1 << 30))
    o = attend_masked(q, k, v, scale, seen[:, None], cap)
    return o.swapaxes(1, 2).reshape(batch, new, -1)


def reference(q, keys, values, rows, *, scale, window=None, cap=None) -> mx.array:
    """Row by row over gathered keys, so that a row's result does not depend on its neighbours."""
    outputs = [
        attend(q[b : b + 1], gathered(keys, span.runs)[None], gathered(values, span.runs)[None], span.first,
               scale=scale, window=window, cap=cap)
        for b, span in enumerate(rows.spans)
    ]  # fmt: skip
    o = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)
    return o.swapaxes(1, 2).reshape(o.shape[0], o.shape[2], -1)


def attend(q, k, v, first, *, scale, window=None, cap=None) -> mx.array:
    """One row: q [1, H, T, d] are the last T of the positions first..first+S of k, v [1, KV, S, d].

    Queries go in tiles that hold at most SCORES scores at once, each tile over the keys that it can see.
    """
    total, new, heads = k.shape[2], q.shape[2], q.shape[1]
    tile = max(1, min(new, SCORES // (heads * total)))
    outputs = []
    for start in range(0, new, tile):
        stop = min(start + tile, new)
        last = total - new + stop  # keys up to here are visible to the tile
        begin = 0 if window is None else max(0, last - (stop - start) - window + 1)
        outputs.append(
            attend_tile(q[:, :, start:stop], k[:, :, begin:last], v[:, :, begin:last], scale, window, cap)
        )
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


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
