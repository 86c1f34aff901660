"""packed_attention's kernel, on the emulator or on this machine's GPU, against float64 over the heads that the pages hold."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from msl.emulator import RUNS_HERE, Emulator
from msl.inputs import handed_over
from msl.spans import span_of
from smelt.kernels import attention as op
from smelt.kernels import launch, packed_attention_kernel, workspace
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


JOINS = ("last", "merge")


def joining(join, **knobs):
    return launch.forced("packed_attention", {"join": join, **knobs})


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("case", CASES)
def test_every_form(mode, dtype, case, join):
    with joining(join):
        got, plain, truth = Problem(mode, dtype, *CASES[case]).run(order="random")
    assert_accurate(got, plain, truth)


def same(a, b):
    return np.array_equal(np.array(a.astype(F32)), np.array(b.astype(F32)))


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("head_dim", [64, 256])
@pytest.mark.parametrize("mode", ["8", "turbo4"])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_a_larger_pool(mode, head_dim, join):
    problem = Problem(mode, BF16, 4, 2, head_dim, (150, 0, 70, 200))
    with joining(join):
        together = problem.run()[0]
        for b in range(4):
            assert same(problem.run([b], spare=9)[0][0], together[b])


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize(("head_dim", "length"), [(64, 100), (512, 100), (64, 126), (128, 300)])
@pytest.mark.parametrize("mode", ["4", "turbo2"])
def test_a_token_has_the_same_bits_decoded_and_verified(mode, head_dim, length, join):
    """Four tokens at once, or each of them after those before it were kept."""
    many = Problem(mode, BF16, 2, 1, head_dim, (length,), new=4)
    with joining(join):
        together = many.run()[0]
        for t in range(4):
            one = Problem(mode, BF16, 2, 1, head_dim, (length + t,))
            one.kept = [mx.concatenate([many.kept[0], mx.stack([many.k[0, :, :t], many.v[0, :, :t]])], axis=2)]
            one.q, one.k, one.v = (x[:, :, t : t + 1] for x in (many.q, many.k, many.v))
            assert same(one.run()[0][0, 0], together[0, t])


# ---- parts, and who joins them

IN_PARTS = {
    "eight rows": (4, 2, 64, (0, 63, 300, 513, 127, 128, 40, 255), 1, None, None),
    "several tiles of q, tokens of one row in different parts": (10, 2, 64, (122, 300), 8, None, None),
    "groups of 32, a cap": (3, 1, 96, (260, 5), 3, None, 20.0),
    "a window that begins behind the first parts": (2, 1, 128, (400, 20), 3, 100, None),
    "heads of 256, a window, a cap": (4, 2, 256, (129, 200), 2, 90, 50.0),
    "more parts than a simdgroup has lanes": (2, 1, 32, (4500, 70), 2, None, None),
}  # fmt: skip


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(("mode", "dtype"), [("8", F16), ("4", F32), ("turbo4", BF16), ("turbo2", BF16)])
@pytest.mark.parametrize("case", IN_PARTS)
def test_both_joins_have_the_same_bits(case, mode, dtype, order):
    problem = Problem(mode, dtype, *IN_PARTS[case])
    with joining("merge"):
        expected, plain, truth = problem.run()
    assert_accurate(expected, plain, truth)
    with joining("last"):
        assert same(problem.run(order=order)[0], expected)


@pytest.mark.parametrize(
    "knobs",
    [{"span": 1, "simds": 4}, {"span": 2, "simds": 1, "batch": 1}, {"span": 1, "simds": 2, "tile": 1}, {"span": 2, "simds": 16, "tile": 8, "chunk": 16}],
    ids=str,
)  # fmt: skip
def test_both_joins_have_the_same_bits_whatever_the_knobs(knobs):
    problem = Problem("turbo4", BF16, 8, 2, 64, (257, 90, 128), 3, window=150)
    with joining("merge", **knobs):
        expected, plain, truth = problem.run()
    with joining("last", **knobs):
        assert same(problem.run(order="random")[0], expected)
    assert_accurate(expected, plain, truth)


def attended(problem, join):
    """By the kernel, of pages that hold the new tokens."""
    rows, pages = problem.placed(range(len(problem.lengths)), 3), problem.pages
    pages.write(problem.k, problem.v, rows)
    addresses = rows.addresses(problem.new, rows.slots)
    with joining(join):
        return packed_attention_kernel.fused(problem.q, pages, addresses, **problem.rest)


@pytest.mark.skipif(not RUNS_HERE or launch.machine() != "cpu", reason="launches are caught by the emulator, which needs Linux and g++")
@pytest.mark.parametrize("order", ["forward", "random"])
def test_the_last_threadgroup_joins_within_the_launch_and_leaves_the_workspace_as_it_was(order):
    """Calls of many threadgroups and of few, of many parts and of few, in the same room."""
    problems = [Problem("turbo4", BF16, *IN_PARTS[case]) for case in ("eight rows", "heads of 256, a window, a cap", "eight rows")]
    with launch.through(emulator := Emulator(order)):
        own = workspace.Workspace(problems[0].q)
        for i, problem in enumerate(problems):
            found = {}
            for join, launches in (("merge", ["packed_attention", "attention_merge"]), ("last", ["packed_attention"])):
                with workspace.within(own):
                    emulator.launches.clear()
                    found[join] = attended(problem, join)
                names = [kernel.name for kernel, *_ in emulator.launches if kernel.name != "packed_pages"]
                assert names == (["workspace"] if join == "last" and i == 0 else []) + launches  # a pass makes its room once
            assert same(found["last"], found["merge"])
            assert not mx.any(own.sums.array[: own.sums.kept]) and own.letters.array is None


def test_a_launch_takes_a_steps_addresses_once_and_has_one_output():
    problem = Problem("4", BF16, 4, 2, 64, (150, 3))
    rows, pages, space = problem.placed(range(2), 3), problem.pages, workspace.Workspace(problem.q)
    addresses = rows.addresses(1, rows.slots)
    with handed_over() as launched, joining("last"), workspace.within(space):
        packed_attention_kernel.fused(problem.q, pages, addresses, **problem.rest)
        o = space.sums.after
        packed_attention_kernel.fused(problem.q, pages, addresses, **problem.rest)
    (fill, _), (first, taken), (second, then) = launched
    assert fill is workspace.FILL and first is second and first.outputs == ("o",)
    held = ["keys", "values", "key_grids", "value_grids"]
    assert list(taken) == ["q", *held, "where", "room"] and taken["where"] is addresses.where
    assert list(then) == [*taken, "since"] and then["since"] is o and then["room"] is taken["room"]


@pytest.mark.parametrize(("chip", "join"), [("sm_90", "last"), ("applegpu_g16s", "merge")])
def test_who_joins_is_decided_as_for_plain_pages(monkeypatch, chip, join):
    monkeypatch.setattr(launch, "chip", lambda: (chip, ""))
    assert {packed_attention_kernel.chosen_knobs(coding(mode, 128), rows)["join"] for mode in MODES for rows in (1, 8)} == {join}


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
