"""attention's two kernels: on the emulator, or on this machine's GPU, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from msl.spans import span_of
from smelt.kernels import attention as op
from smelt.kernels import attention_kernel, launch
from smelt.kernels.pages import PAGE, Pages, Rows

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
WALKS = ("lanes", "tiles")


def walking(walk, **knobs):
    return launch.forced("attention", {"walk": walk, **knobs})


class Problem:
    """Rows that already hold `lengths` tokens, in pages scattered over a pool with garbage in between."""

    def __init__(self, dtype, heads, kv_heads, head_dim, lengths, new=1, window=None, cap=None, seed=None):
        self.seed = int(np.random.SeedSequence().entropy % 2**32) if seed is None else seed
        print("seed", self.seed)
        self.rng = np.random.default_rng(self.seed)
        self.dtype, self.new, self.window, self.cap, self.lengths = dtype, new, window, cap, lengths
        self.scale = head_dim**-0.5
        self.kept = [self.draw(2, kv_heads, n, head_dim) for n in lengths]
        self.q = self.draw(len(lengths), heads, new, head_dim)
        self.k, self.v = (self.draw(len(lengths), kv_heads, new, head_dim) for _ in range(2))
        self.pages = Pages(kv_heads, head_dim, dtype, window)

    def draw(self, *shape):
        return mx.array(self.rng.normal(size=shape).astype(np.float32)).astype(self.dtype)

    def placed(self, which, spare=3):
        """The rows `which`, their pages dealt out at random; what is not theirs is not a number."""
        firsts = [0 if self.window is None else max(0, self.lengths[b] - self.window + 1) for b in which]
        counts = [-(-(self.lengths[b] + self.new) // PAGE) - first // PAGE for b, first in zip(which, firsts, strict=True)]
        order = iter(self.rng.permutation(sum(counts) + spare).tolist())
        slots = (sum(counts) + spare) * PAGE
        pool = np.full((2, self.pages.kv_heads, slots, self.pages.head_dim), np.nan, np.float32)
        spans = []
        for b, first, count in zip(which, firsts, counts, strict=True):
            runs, at = [], first
            for _ in range(count):
                slot = next(order) * PAGE + at % PAGE
                size = min(PAGE - at % PAGE, self.lengths[b] + self.new - at)
                known = max(0, min(size, self.lengths[b] - at))
                pool[:, :, slot : slot + known] = np.array(self.kept[b].astype(F32))[:, :, at : at + known]
                runs.append((slot, size))
                at += size
            spans.append(span_of(first, tuple(runs)))
        self.pages.clear()
        self.pages.keys, self.pages.values = (mx.array(half).astype(self.dtype) for half in pool)
        return Rows(tuple(spans), slots)

    def run(self, which=None, spare=3, order="forward", new=None):
        which = list(range(len(self.lengths))) if which is None else which
        rows = self.placed(which, spare)
        with kernels_run(order):
            o = op.attention(self.q[mx.array(which)], self.k[mx.array(which)], self.v[mx.array(which)], self.pages, rows,
                             scale=self.scale, cap=self.cap)  # fmt: skip
            mx.eval(o)
        return o

    def plain(self):
        rows = self.placed(range(len(self.lengths)))
        self.pages.write(self.k, self.v, rows)
        return op.reference(self.q, self.pages, rows, scale=self.scale, cap=self.cap)

    def truth(self):
        outputs = []
        for b, length in enumerate(self.lengths):
            k, v = (np.concatenate([wide(self.kept[b][i]), wide(x[b])], axis=1) for i, x in ((0, self.k), (1, self.v)))
            group = self.q.shape[1] // k.shape[0]
            k, v, q = np.repeat(k, group, 0), np.repeat(v, group, 0), wide(self.q[b])
            scores = q @ k.swapaxes(1, 2) * self.scale
            scores = self.cap * np.tanh(scores / self.cap) if self.cap else scores
            distance = (length + np.arange(self.new))[:, None] - np.arange(length + self.new)[None]
            seen = (distance >= 0) & (distance < (self.window or 10**9))
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            o = weights / weights.sum(-1, keepdims=True) @ v
            outputs.append(o.swapaxes(0, 1).reshape(self.new, -1))
        return np.stack(outputs)


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, lengths, new, window, cap",
    [
        (4, 2, 64, (0, 63, 64, 130), 1, None, None),
        (8, 2, 128, (200,), 1, None, None),
        (3, 1, 96, (70, 5), 3, None, None),
        (4, 2, 64, (300, 20), 1, 100, None),
        (2, 2, 256, (129,), 8, 64, 50.0),
        (2, 1, 512, (65,), 2, None, 30.0),
        (10, 1, 32, (100,), 4, None, None),
    ],
)
def test_every_form(dtype, heads, kv_heads, head_dim, lengths, new, window, cap):
    problem = Problem(dtype, heads, kv_heads, head_dim, lengths, new, window, cap)
    got = problem.run(order="random")
    assert_accurate(got, problem.plain(), problem.truth())


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, lengths, new, window, cap",
    [
        (4, 2, 64, (0, 63, 64, 130), 1, None, None),
        (32, 8, 128, (200, 15, 16), 1, None, None),
        (2, 2, 128, (127, 300), 8, None, None),
        (8, 1, 64, (70, 5), 8, None, None),
        (6, 2, 128, (60, 129), 2, None, None),
        (4, 2, 64, (300, 20), 1, 100, None),
        (2, 2, 128, (129,), 8, 64, 50.0),
        (4, 1, 64, (65, 350), 3, 17, 30.0),
        (3, 1, 64, (140, 0, 64, 127, 128, 3, 90, 31), 5, None, None),
    ],
)
def test_every_form_on_tiles(dtype, heads, kv_heads, head_dim, lengths, new, window, cap):
    problem = Problem(dtype, heads, kv_heads, head_dim, lengths, new, window, cap)
    with walking("tiles"):
        got = problem.run(order="random")
    assert_accurate(got, problem.plain(), problem.truth())


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize(
    "knobs",
    [
        {"span": 2, "simds": 1},  # eight turns, over two pages
        {"span": 2, "simds": 4, "tile": 4},
        {"span": 1, "simds": 2, "tile": 2},
        {"span": 1, "simds": 8, "tile": 1},
        {"span": 2, "simds": 2, "tile": 6},
    ],
    ids=str,
)
def test_tiles_take_any_split(knobs, order):
    problem = Problem(BF16, 8, 2, 64, (257, 90), 3, window=150)
    with walking("tiles", **knobs):
        got = problem.run(order=order)
    assert_accurate(got, problem.plain(), problem.truth())


def same(a, b):
    return (np.array(a.astype(F32)) == np.array(b.astype(F32))).all()


@pytest.mark.parametrize("walk", WALKS)
def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_a_larger_pool(walk):
    problem = Problem(BF16, 4, 2, 64, (150, 0, 70, 200, 63, 64, 65, 1))
    with walking(walk):
        together = problem.run()
        for b in range(8):
            assert same(problem.run([b], spare=9)[0], together[b])


@pytest.mark.parametrize(
    ("walk", "heads", "head_dim", "window"),
    [("lanes", 8, 64, None), ("lanes", 4, 256, None), ("tiles", 8, 64, None), ("tiles", 4, 128, None), ("tiles", 8, 64, 37)],
)
@pytest.mark.parametrize("new", [2, 4, 7, 8])
def test_a_token_has_the_same_bits_decoded_and_verified(walk, heads, head_dim, window, new):
    """Some tokens at once, or each of them after those before it were kept."""
    many = Problem(BF16, heads, 2, head_dim, (124,), new, window, seed=7)
    with walking(walk):
        together = many.run()
        for t in range(new):
            one = Problem(BF16, heads, 2, head_dim, (124 + t,), 1, window, seed=7)
            one.kept = [mx.concatenate([many.kept[0], mx.stack([many.k[0, :, :t], many.v[0, :, :t]])], axis=2)]
            one.q, one.k, one.v = (x[:, :, t : t + 1] for x in (many.q, many.k, many.v))
            assert same(one.run()[0, 0], together[0, t])


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 160, 256, 512])
@pytest.mark.parametrize("walk", WALKS)
def test_how_keys_are_split_does_not_depend_on_the_number_of_rows(walk, head_dim):
    with walking(walk):
        splits = [attention_kernel.chosen_knobs(head_dim, BF16, rows) for rows in (1, 2, 4, 8, 64)]
    assert len({tuple(v for name, v in knobs.items() if name != "tile") for knobs in splits}) == 1


def test_which_walk_a_head_takes(monkeypatch):
    monkeypatch.setattr(launch, "chip", lambda: ("sm_90", "NVIDIA H200"))
    chosen = {(d, t): attention_kernel.chosen_knobs(d, t, 8)["walk"] for d in (64, 96, 128, 256) for t in (F16, BF16, F32)}
    assert {key for key, walk in chosen.items() if walk == "tiles"} == {(64, F16), (64, BF16), (128, F16), (128, BF16)}
    monkeypatch.setattr(launch, "chip", lambda: ("applegpu_g16s", "Apple M4 Max"))
    assert attention_kernel.chosen_knobs(128, BF16, 8)["walk"] == "lanes"
    with walking("tiles"):
        assert attention_kernel.chosen_knobs(128, BF16, 8)["walk"] == "tiles"
        assert attention_kernel.chosen_knobs(128, F32, 8) == attention_kernel.DEFAULT["lanes"] | {"join": "merge"}


def test_the_last_threadgroup_joins_where_a_fence_is_known_to_be(monkeypatch):
    for chip, join in (("sm_90", "last"), ("applegpu_g16s", "merge")):
        monkeypatch.setattr(launch, "chip", lambda chip=chip: (chip, ""))
        assert {attention_kernel.chosen_knobs(d, F32, 1)["join"] for d in (64, 96)} == {join}


@pytest.mark.parametrize(
    ("chip", "macos", "joins"),
    [("sm_90", "", ("last", "merge")), ("cpu", "", ("merge", "last")), ("applegpu_g16s", "26.1", ("merge", "last")),
     ("applegpu_g16s", "15.0", ("merge", "last")), ("applegpu_g13g", "14.7.1", ("merge",))],
)  # fmt: skip
def test_ways_to_join_are_those_that_the_system_has_a_fence_for(monkeypatch, chip, macos, joins):
    monkeypatch.setattr(launch, "chip", lambda: (chip, ""))
    monkeypatch.setattr(attention_kernel.platform, "mac_ver", lambda: (macos, ("", "", ""), ""))
    assert attention_kernel.joins() == joins


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, lengths, new, window",
    [
        (4, 2, 64, (0, 63, 300, 513, 127, 128, 40, 255), 1, None),
        (8, 2, 64, (122, 300), 8, None),  # several tiles of q, tokens of one row in different parts
        (2, 1, 128, (300, 20), 3, 100),
    ],
)
def test_both_joins_have_the_same_bits(heads, kv_heads, head_dim, lengths, new, window, walk, order):
    problem = Problem(BF16, heads, kv_heads, head_dim, lengths, new, window)
    with walking(walk, join="merge"):
        expected = problem.run()
    with walking(walk, join="last"):
        for _ in range(2):
            assert same(problem.run(order=order), expected)


def test_the_last_threadgroup_joins_more_parts_than_a_simdgroup_has_lanes():
    problem = Problem(BF16, 2, 1, 64, (4500, 70), 2)
    with walking("tiles", join="merge"):
        expected = problem.run()
    with walking("tiles", join="last"):
        assert same(problem.run(order="random"), expected)
    assert_accurate(expected, problem.plain(), problem.truth())


def test_what_is_not_covered_goes_to_the_reference():
    problem = Problem(F32, 2, 1, 48, (10,))
    assert_accurate(problem.run(), problem.plain(), problem.truth())
