"""self_attention's kernel, on the emulator or on this machine's GPU: the bits of the two kernels that it stands for."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import kernels_run
from msl.emulator import RUNS_HERE, Emulator
from msl.inputs import handed_over
from msl.spans import span_of
from smelt.kernels import launch
from smelt.kernels import self_attention as op
from smelt.kernels.attention import attention
from smelt.kernels.norm import Norm
from smelt.kernels.pages import PAGE, Pages, Rows
from smelt.kernels.qk_norm_rope import Rope, qk_norm_rope

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
EVERY = ("pages", "qk_norm_rope", "attention", "self_attention")


class Problem:
    def __init__(self, dtype, heads, kv_heads, head_dim, lengths, new, rope, norms="qk", window=None, cap=None, same=False):
        self.rng = np.random.default_rng()
        self.heads, self.kv_heads, self.head_dim, self.lengths, self.new = heads, kv_heads, head_dim, lengths, new
        self.dtype, self.window, self.rope = dtype, window, rope
        given = {f"{n}_norm": Norm(self.draw(head_dim) + 1, 1e-6) if n in norms else None for n in "qkv"}
        self.norms, self.rest = given, {"scale": head_dim**-0.5, "cap": cap}
        self.qkv = self.draw(len(lengths), new, (heads + (1 if same else 2) * kv_heads) * head_dim)
        self.past = [self.draw(2, kv_heads, max(1, n), head_dim) for n in lengths]
        self.position = mx.array(lengths, mx.int32)

    def draw(self, *shape):
        return mx.array(self.rng.normal(size=shape).astype(np.float32)).astype(self.dtype)

    def home(self, which):
        """Pages that hold the rows' past, one row after another, and where the rows stand after the step."""
        pages = Pages(self.kv_heads, self.head_dim, self.dtype, self.window)
        spans, start, parts = [], 0, []
        for b in which:
            first = 0 if self.window is None else max(0, self.lengths[b] - self.window + 1)
            base, end = first // PAGE * PAGE, self.lengths[b] + self.new
            size = -(-(end - base) // PAGE) * PAGE
            kept = self.past[b][:, :, base : self.lengths[b]]
            fill = mx.full((2, self.kv_heads, size - kept.shape[2], self.head_dim), float("nan"), self.dtype)
            parts.append(mx.concatenate([kept, fill], axis=2))
            spans.append(span_of(first, ((start + first - base, end - first),)))
            start += size
        pages.keys, pages.values = (mx.contiguous(mx.concatenate([p[i] for p in parts], axis=1)) for i in (0, 1))
        mx.eval(pages.keys, pages.values)
        return pages, Rows(tuple(spans), start)

    def run(self, fused, which=None, order="forward"):
        which = list(range(len(self.lengths))) if which is None else which
        pages, rows = self.home(which)
        qkv, position = self.qkv[mx.array(which)], self.position[mx.array(which)]
        with kernels_run(order), launch.only(*EVERY[: 4 if fused else 3]):
            if fused:
                o = op.self_attention(qkv, self.rope, pages, rows, heads=self.heads, **self.norms, **self.rest)
            else:
                shape = {"heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim}
                q, k, v = qk_norm_rope(qkv, position, self.rope, **shape, **self.norms, pages=pages, rows=rows)
                o = attention(q, k, v, pages, rows, **self.rest)
            mx.eval(o)
            pools = [pool for span in rows.spans for pool in pages.read(span)]
            mx.eval(pools)
        return o, pools


def same_bits(a, b):
    return np.array_equal(np.array(a.astype(F32)), np.array(b.astype(F32)), equal_nan=True)


CASES = {
    "one token": (4, 2, 64, (0, 63, 64, 130, 300), 1, Rope(64, 1e6), {}),
    "heads of 128": (8, 2, 128, (200, 5), 1, Rope(128, 1e6), {}),
    "several tokens over a page's end": (8, 2, 64, (60, 126, 3), 6, Rope(64), {}),
    "a window, a cap, every norm": (2, 2, 256, (129, 40), 4, Rope(64), {"norms": "qkv", "window": 64, "cap": 50.0}),
    "keys are values": (4, 1, 64, (70,), 2, Rope(64), {"same": True, "norms": "qkv"}),
    "many heads of a group": (10, 1, 32, (100,), 3, replace(Rope(32), scale=0.125, magnitude=1.2), {"norms": "k"}),
    "neighbours turn, and half of a head": (4, 2, 96, (65, 2), 2, Rope(48, interleaved=True), {"norms": ""}),
    "nothing turns": (2, 1, 512, (65,), 1, None, {}),
}  # fmt: skip


def assert_bits_of_two_kernels(problem, order):
    ours, pools = problem.run(True, order=order)
    theirs, expected = problem.run(False)
    assert same_bits(ours, theirs)
    assert all(same_bits(a, b) for a, b in zip(pools, expected, strict=True))


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_the_two_kernels(case, dtype):
    *shape, more = CASES[case]
    assert_bits_of_two_kernels(Problem(dtype, *shape, **more), "random")


TILED = {
    "one token": (4, 2, 64, (0, 63, 64, 130, 300), 1, Rope(64, 1e6), {}),
    "heads of 128": (8, 2, 128, (200, 5), 1, Rope(128, 1e6), {}),
    "several tokens over a page's end": (8, 2, 128, (60, 126, 3), 6, Rope(128), {}),
    "eight tokens over a turn's end": (8, 1, 64, (10, 127), 8, Rope(64), {}),
    "a window, a cap, every norm": (2, 2, 128, (129, 40, 300), 4, Rope(64), {"norms": "qkv", "window": 64, "cap": 50.0}),
    "keys are values": (4, 1, 64, (70,), 2, Rope(64), {"same": True, "norms": "qkv"}),
    "nothing turns": (2, 1, 64, (65,), 1, None, {"norms": ""}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("case", TILED)
@pytest.mark.parametrize("order", ["reverse", "random"])
def test_bits_on_tiles_are_those_of_the_two_kernels(order, case, dtype):
    *shape, more = TILED[case]
    with launch.forced("attention", {"walk": "tiles"}):
        assert_bits_of_two_kernels(Problem(dtype, *shape, **more), order)


@pytest.mark.parametrize("simds", [1, 4])
def test_bits_on_tiles_are_those_of_the_two_kernels_over_several_turns(simds):
    with launch.forced("attention", {"walk": "tiles", "simds": simds}):
        assert_bits_of_two_kernels(Problem(BF16, 4, 2, 64, (37, 122, 200), 7, Rope(64), window=50), "random")


@pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")
@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("walk", ["lanes", "tiles"])
def test_both_joins_have_the_same_bits_and_one_is_one_launch(walk, order):
    problem = Problem(BF16, 8, 2, 64, (150, 3, 70, 300), 5, Rope(64), window=200)
    found, run = {}, Emulator(order) if launch.machine() == "cpu" else launch.RUN[launch.machine()]
    main = {"lanes": "self_attention", "tiles": "self_attention_tiles"}[walk]
    for join, launches in (("merge", [main, "attention_merge"]), ("last", ["workspace", main])):  # a pass has one workspace
        launched = []

        def counting(kernel, *rest, launched=launched):
            launched.append(kernel.name)
            return run(kernel, *rest)

        with launch.through(counting), launch.forced("attention", {"walk": walk, "join": join}):
            pages, rows = problem.home(range(4))
            found[join] = op.self_attention(
                problem.qkv, problem.rope, pages, rows, heads=8, **problem.norms, **problem.rest
            )
        mx.eval(found[join])
        assert launched == ["rotation", *launches]  # a step's first layer turns for all
    assert same_bits(found["merge"], found["last"])


@pytest.mark.parametrize("walk", ["lanes", "tiles"])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(walk):
    problem = Problem(BF16, 4, 2, 64, (150, 0, 70, 300), 1, Rope(64))
    with launch.forced("attention", {"walk": walk}):
        together, _ = problem.run(True)
        for b in range(4):
            assert same_bits(problem.run(True, [b])[0][0], together[b])


def test_a_launch_takes_a_steps_addresses_once():
    """Each input of a launch costs MLX time: nothing stands for what there is not, and no part of the addresses is cut out."""
    problem = Problem(BF16, 4, 2, 64, (150, 3), 1, Rope(64), norms="")
    pages, rows = problem.home(range(2))
    with handed_over() as launched, launch.forced("attention", {"join": "last"}):
        op.self_attention(problem.qkv, problem.rope, pages, rows, heads=4, scale=1.0)
    (rotation, _), _, (kernel, taken) = launched
    assert rotation.outputs == ("turns",)
    assert list(taken) == ["qkv", "where", "turns", "keys", "values", "room"] and kernel.outputs == ("o",)
    where = taken["where"]
    assert where is rows.addresses(1, rows.slots).where and where.shape == (2 + 2 * (1 + 2 + 1 + 4),)


def test_what_does_not_fit_goes_the_other_way():
    problem = Problem(F32, 2, 1, 512, (3,), 8, Rope(512))
    with kernels_run():
        pages, rows = problem.home([0])
        mx.eval(op.self_attention(problem.qkv, problem.rope, pages, rows, heads=2, scale=1.0))
    assert any("do not fit" in way.why for way in launch.report() if way.op == "self_attention")
