"""packed_attention's kernel, on the emulator or on this machine's GPU, against float64 over the heads that the pages hold."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from msl.spans import span_of
from smelt.kernels import attention as op
from smelt.kernels import launch, packed_attention_kernel
from smelt.kernels.coding import MODES, coding
from smelt.kernels.pages import PAGE, Pages, Rows

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


class Problem:
    """Rows that already hold `lengths` tokens, packed, in pages scattered over a pool with garbage in between."""

    def __init__(self, mode, dtype, heads, kv_heads, head_dim, lengths, new=1, window=None, cap=None):
        self.rng = np.random.default_rng()
        self.dtype, self.lengths, self.new, self.window = dtype, lengths, new, window
        self.rest = {"scale": head_dim**-0.5, "cap": cap}
        self.pages = Pages(kv_heads, head_dim, dtype, window)
        self.pages.pack(coding(mode, head_dim))
        self.kept = [self.draw(2, kv_heads, max(1, n), head_dim) for n in lengths]
        self.q = self.draw(len(lengths), heads, new, head_dim)
        self.k, self.v = (self.draw(len(lengths), kv_heads, new, head_dim) for _ in range(2))

    def draw(self, *shape):
        return mx.array(self.rng.normal(size=shape).astype(np.float32)).astype(self.dtype)

    def placed(self, which, spare):
        """The rows `which`, their pages dealt out at random; grids of what is not theirs are no numbers."""
        firsts = [0 if self.window is None else max(0, self.lengths[b] - self.window + 1) for b in which]
        ends = [self.lengths[b] + self.new for b in which]
        counts = [-(-end // PAGE) - first // PAGE for first, end in zip(firsts, ends, strict=True)]
        order, slots = iter(self.rng.permutation(sum(counts) + spare).tolist()), (sum(counts) + spare) * PAGE
        heads = self.pages.kv_heads
        pools = [
            self.rng.integers(0, 2**32, (heads, slots, width), np.uint32) if kind == mx.uint32
            else np.full((heads, slots, width), np.nan, np.float32)
            for width, kind in self.pages.layout
        ]  # fmt: skip
        spans = []
        for b, first, end, count in zip(which, firsts, ends, counts, strict=True):
            bounds = [first, *range((first // PAGE + 1) * PAGE, end, PAGE), end]
            runs = []
            for at, stop in zip(bounds, bounds[1:]):
                slot, known = next(order) * PAGE + at % PAGE, max(0, min(stop, self.lengths[b]) - at)
                runs.append((slot, stop - at))
                for pool, coded in zip(pools, self.coded(b), strict=True):
                    pool[:, slot : slot + known] = coded[:, at : at + known]
            spans.append(span_of(first, tuple(runs)))
            assert len(runs) == count
        self.pages.clear()
        self.pages.hold([mx.array(p) if p.dtype == np.uint32 else mx.array(p).astype(self.dtype) for p in pools])
        return Rows(tuple(spans), slots)

    def coded(self, b):
        (k_words, k_grids), (v_words, v_grids) = (self.pages.coding.encode(x) for x in self.kept[b])
        return [np.array(k_words), np.array(v_words), *(np.array(g.astype(F32)) for g in (k_grids, v_grids))]

    def run(self, which=None, spare=3, order="forward"):
        """What the kernels give, what plain ops make of the same pages, and the truth about these."""
        which = list(range(len(self.lengths))) if which is None else which
        rows, pages = self.placed(which, spare), self.pages
        q, k, v = (x[mx.array(which)] for x in (self.q, self.k, self.v))
        with kernels_run(order):
            o = op.attention(q, k, v, pages, rows, **self.rest)
            mx.eval(o)
            plain = op.unpacked_reference(q, pages, rows, **self.rest)
            held = [pages.raw(span.runs) for span in rows.spans]
        return o, plain, np.stack([self.truth(*each) for each in zip(q, held, rows.spans, strict=True)])

    def truth(self, q, held, span):
        code, q = self.pages.coding, wide(q)
        k, v = (unpacked(code, *pair) for pair in (held[::2], held[1::2]))
        matrix = np.array(code.turn(mx.eye(q.shape[-1])), np.float64) if code.turned else np.eye(q.shape[-1])
        k, v = (np.repeat(x @ matrix.T, len(q) // len(x), 0) for x in (k, v))
        scores = q @ k.swapaxes(1, 2) * self.rest["scale"]
        cap = self.rest["cap"]
        scores = cap * np.tanh(scores / cap) if cap else scores
        distance = (span.end - self.new + np.arange(self.new))[:, None] - np.arange(span.first, span.end)[None]
        scores = np.where((distance >= 0) & (distance < (self.window or 10**9)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(self.new, -1)


def unpacked(code, words, grids):
    """[KV, S, d] float64 of words and grids."""
    shifts = np.arange(0, 32, code.bits, dtype=np.uint32)
    codes = (np.array(words)[..., None] >> shifts & np.uint32(2**code.bits - 1)).reshape(*words.shape[:2], -1, code.group)
    scale, bias = wide(grids)[..., ::2, None], wide(grids)[..., 1::2, None]
    return (scale * codes + bias).reshape(*words.shape[:2], -1)


CASES = {
    "one token": (4, 2, 64, (0, 63, 64, 130), 1, None, None),
    "heads of 128": (8, 2, 128, (200,), 1, None, None),
    "groups of 32": (3, 1, 96, (70, 5), 3, None, None),
    "a window": (4, 2, 64, (300, 20), 1, 100, None),
    "a window, a cap, eight tokens": (2, 2, 256, (129,), 8, 64, 50.0),
    "heads of 512": (2, 1, 512, (65,), 2, None, 30.0),
    "many heads of a group": (10, 1, 32, (100, 40, 64, 130), 4, None, None),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("case", CASES)
def test_every_form(mode, dtype, case):
    got, plain, truth = Problem(mode, dtype, *CASES[case]).run(order="random")
    assert_accurate(got, plain, truth)


def same(a, b):
    return np.array_equal(np.array(a.astype(F32)), np.array(b.astype(F32)))


@pytest.mark.parametrize("head_dim", [64, 256])
@pytest.mark.parametrize("mode", ["8", "turbo4"])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_a_larger_pool(mode, head_dim):
    problem = Problem(mode, BF16, 4, 2, head_dim, (150, 0, 70, 200))
    together = problem.run()[0]
    for b in range(4):
        assert same(problem.run([b], spare=9)[0][0], together[b])


@pytest.mark.parametrize("head_dim", [64, 512])
@pytest.mark.parametrize("mode", ["4", "turbo2"])
def test_a_token_has_the_same_bits_decoded_and_verified(mode, head_dim):
    """Four tokens at once, or the last of them after the first three were kept."""
    many = Problem(mode, BF16, 2, 1, head_dim, (100,), new=4)
    together = many.run()[0]
    for t in range(4):
        one = Problem(mode, BF16, 2, 1, head_dim, (100 + t,))
        one.kept = [mx.concatenate([many.kept[0], mx.stack([many.k[0, :, :t], many.v[0, :, :t]])], axis=2)]
        one.q, one.k, one.v = (x[:, :, t : t + 1] for x in (many.q, many.k, many.v))
        assert same(one.run()[0][0, 0], together[0, t])


def test_dense_reading_goes_to_plain_ops_and_says_so(monkeypatch):
    monkeypatch.setattr(launch, "_ways", {})
    problem = Problem("4", F32, 2, 1, 64, (10,))
    problem.pages.pack(coding("4", 64, "dense"))
    got, plain, _ = problem.run()
    assert same(got, plain)
    assert [way.why for way in launch._ways.values() if way.op == "packed_attention"] == ["dense reading is asked for"]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("head_dim", range(32, 513, 32))
def test_knobs_suit_every_head(bits, head_dim):
    mode = {2: "turbo2", 4: "4", 8: "8"}[bits]
    for rows in (1, 5, 64):
        knobs = packed_attention_kernel.chosen_knobs(coding(mode, head_dim), rows)
        lanes = packed_attention_kernel.lanes_of(head_dim, knobs["chunk"])
        share, together = knobs["span"] * PAGE // knobs["simds"], 32 // lanes * knobs["batch"]
        assert head_dim % (lanes * knobs["chunk"]) == 0 and share % together == 0 and PAGE % together == 0
        assert 4 * knobs["tile"] * head_dim * (knobs["simds"] + 1) <= 30 << 10  # of the 32 KiB that Metal has
