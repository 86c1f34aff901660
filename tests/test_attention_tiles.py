"""Attention on the matrix units with as much threadgroup memory as NVIDIA's GPUs have: eight simdgroups, of which four share the
keys of a page. On Apple's there is room for one or two."""

import functools

import mlx.core as mx
import pytest
import test_attention_kernel
import test_self_attention_kernel
from msl import accuracy
from msl.accuracy import assert_accurate
from msl.emulator import Emulator
from smelt.kernels import attention_kernel, launch, self_attention
from smelt.kernels.qk_norm_rope import Rope
from test_attention_kernel import same, walking

F16, BF16 = mx.float16, mx.bfloat16
MEMORY = 227 << 10


@pytest.fixture(autouse=True)
def much_memory(monkeypatch):
    if launch.machine() == "metal":
        pytest.skip("Apple's GPUs have 32 KiB of threadgroup memory")
    monkeypatch.setattr(accuracy, "Emulator", functools.partial(Emulator, threadgroup_memory=MEMORY))
    monkeypatch.setattr(attention_kernel, "SHARED", MEMORY - (16 << 10))
    monkeypatch.setattr(self_attention, "SHARED", 2 * MEMORY)


@pytest.fixture
def walked_by(monkeypatch):
    """So many threadgroups share the parts of a tile of q: fewer than parts, and each walks through several."""
    original = attention_kernel.walkers
    return lambda count: monkeypatch.setattr(
        attention_kernel, "walkers", lambda *given: original(*given) if count is None else min(count, given[1])
    )


def test_simdgroups_share_regions():
    with walking("tiles"):
        assert {attention_kernel.chosen_knobs(d, BF16, rows)["simds"] for d in (64, 128) for rows in (1, 4, 64)} == {8}
    with walking("tiles", simds=16, span=2):
        assert attention_kernel.chosen_knobs(64, BF16, 4)["simds"] == 8  # no more than a part has turns


@pytest.mark.parametrize("walkers", [1, 3, None])
@pytest.mark.parametrize(
    ("knobs", "heads", "kv_heads", "head_dim", "lengths", "new", "window"),
    [
        ({}, 8, 2, 128, (0, 15, 63, 64, 127, 128, 300), 1, None),
        ({}, 2, 2, 64, (700, 5, 321), 8, None),
        ({}, 4, 1, 128, (500, 20, 126), 3, 100),
        ({"span": 1}, 4, 2, 64, (63, 60, 250), 5, None),  # two copiers, one region
        ({"simds": 4, "tile": 4}, 6, 1, 128, (123, 400), 2, 37),  # two rounds of a region each
        ({"simds": 2}, 4, 2, 64, (200, 31, 127), 4, 70),  # four rounds of half a page
        ({"simds": 1}, 3, 1, 128, (140,), 7, None),
        ({"simds": 16, "span": 2}, 7, 1, 64, (257, 3), 1, None),
    ],
    ids=str,
)
def test_every_sharing_is_accurate(knobs, heads, kv_heads, head_dim, lengths, new, window, walkers, walked_by):
    problem = test_attention_kernel.Problem(BF16, heads, kv_heads, head_dim, lengths, new, window)
    walked_by(walkers)
    with walking("tiles", join="last", **knobs):
        got = problem.run(order="random")
    assert_accurate(got, problem.plain(), problem.truth())


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_row_has_the_same_bits_however_parts_are_walked(head_dim, order, walked_by):
    problem = test_attention_kernel.Problem(F16, 8, 2, head_dim, (700, 0, 130, 63, 127, 333), 2, window=350)
    with walking("tiles", join="merge"):
        expected = problem.run()
    for count in (1, 2, 4):
        walked_by(count)
        for join in ("last", "merge"):
            with walking("tiles", join=join):
                assert same(problem.run(order=order), expected)
    for b in range(6):
        with walking("tiles", join="last"):
            assert same(problem.run([b], spare=9)[0], expected[b])


@pytest.mark.parametrize("walkers", [1, None])
@pytest.mark.parametrize("new", range(2, 9))
def test_a_token_has_the_same_bits_decoded_and_verified(new, walkers, walked_by):
    walked_by(walkers)
    with walking("tiles", join="last"):
        many = test_attention_kernel.Problem(BF16, 4, 2, 64, (124,), new, seed=7)
        together = many.run()
        for t in range(new):
            one = test_attention_kernel.Problem(BF16, 4, 2, 64, (124 + t,), 1, seed=7)
            one.kept = [mx.concatenate([many.kept[0], mx.stack([many.k[0, :, :t], many.v[0, :, :t]])], axis=2)]
            one.q, one.k, one.v = (x[:, :, t : t + 1] for x in (many.q, many.k, many.v))
            assert same(one.run()[0, 0], together[0, t])


@pytest.mark.parametrize("walkers", [1, 2, None])
@pytest.mark.parametrize(
    ("group", "new", "head_dim", "window"),
    [(1, 1, 128, None), (2, 3, 64, None), (3, 8, 128, 90), (4, 1, 128, None), (4, 1, 128, 200), (5, 2, 64, None), (8, 1, 64, 40),
     (6, 4, 128, None), (7, 6, 64, None), (8, 8, 128, None), (4, 5, 128, 129), (4, 7, 64, None)],
)  # fmt: skip
def test_rows_of_qkv_have_the_bits_of_the_two_kernels(group, new, head_dim, window, walkers, walked_by):
    lengths = (300, 0, 62, 127, 128, 190)
    problem = test_self_attention_kernel.Problem(
        BF16, 2 * group, 2, head_dim, lengths, new, Rope(head_dim), window=window
    )
    with walking("tiles", join="last"):
        expected, pools = problem.run(False)
        walked_by(walkers)
        for order in ("reverse", "random"):
            found, written = problem.run(True, order=order)
            assert same(found, expected)
            assert all(test_self_attention_kernel.same_bits(a, b) for a, b in zip(written, pools, strict=True))
        alone, _ = problem.run(True, [3])
        assert same(alone[0], expected[3])


def test_so_many_threadgroups_as_cores_have_room_for(monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 132)
    for machine, shared in (("cuda", [8, 8, 4, 1]), ("metal", [8, 8, 8, 8])):
        monkeypatch.setattr(launch, "machine", lambda machine=machine: machine)
        assert [attention_kernel.walkers(tiles, 8, 2) for tiles in (8, 32, 64, 1000)] == shared
