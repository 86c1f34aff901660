"""qk_norm_rope's kernel: on the emulator, or on this machine's GPU, against float64."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from msl.inputs import handed_over
from msl.spans import span_of
from smelt.kernels import qk_norm_rope as op
from smelt.kernels.norm import Norm, together, weights_of
from smelt.kernels.pages import PAGE, Pages, Rows
from smelt.kernels.qk_norm_rope import Rope

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


def truth_of_head(x, norm, rope, position):
    """x [B, T, heads, d] in float64."""
    if norm is not None:
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps) * (1 if norm.weight is None else wide(norm.weight))
    if rope is None:
        return x
    n = rope.dims
    periods = rope.base ** (np.arange(0, n, 2) / n) if rope.periods is None else wide(rope.periods)
    at = (position[:, None] + np.arange(x.shape[1])).astype(np.float64) * rope.scale
    angle = at[:, :, None, None] / periods
    c, s, x = np.cos(angle), np.sin(angle), x.copy()
    first, second = (np.s_[..., :n:2], np.s_[..., 1:n:2]) if rope.interleaved else (np.s_[..., : n // 2], np.s_[..., n // 2 : n])
    a, b = x[first] * rope.magnitude, x[second] * rope.magnitude
    x[first], x[second] = a * c - b * s, a * s + b * c
    return x


def check(dtype, heads, kv_heads, head_dim, rope, batch=2, new=1, norms="qk", same=False, order="forward"):
    rng = np.random.default_rng()
    copies = 0 if not kv_heads else (1 if same else 2)
    shape = (batch, new, (heads + copies * kv_heads) * head_dim)
    qkv = mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)
    position = mx.array(rng.integers(0, 3000, batch), mx.int32)
    given = {
        f"{n}_norm": Norm(mx.array(1 + 0.2 * rng.normal(size=head_dim)).astype(dtype), 1e-6) if n in norms else None
        for n in "qkv"
    }
    arguments = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, **given}
    pages = Pages(kv_heads, head_dim, dtype) if kv_heads else None
    rows = Rows(tuple(span_of(0, ((b * PAGE + 3, new),)) for b in range(batch)), batch * PAGE)
    with kernels_run(order):
        q, *rest = op.qk_norm_rope(qkv, position, rope, **arguments, pages=pages, rows=rows)
        assert rest == [None, None]
        ours = [q, *([mx.stack(x) for x in zip(*map(pages.read, rows.spans))] if kv_heads else rest)]
        mx.eval(*[x for x in ours if x is not None])
    plain = op.reference(qkv, position, rope, **arguments)
    split = wide(qkv).reshape(batch, new, -1, head_dim)
    heads_of = {"q": split[:, :, :heads], "k": split[:, :, heads : heads + kv_heads], "v": split[:, :, -kv_heads:]}
    for name, got, reference in zip("qkv", ours, plain, strict=True):
        if name != "q" and not kv_heads:
            assert got is None and reference is None
            continue
        turned = rope if name != "v" else None
        truth = truth_of_head(heads_of[name], given[f"{name}_norm"], turned, np.array(position)).swapaxes(1, 2)
        if turned is None or dtype != F32:
            assert_accurate(got, reference, truth)
            continue
        # Both turn by float32 angles, each with a rounding of its own: at thousands of radians that is the error.
        largest = float(position.max()) + new
        error, theirs = (np.abs(wide(x) - truth).max() for x in (got, reference))
        assert error <= 2 * theirs + largest * 2**-23 * np.abs(truth).max()


LLAMA3 = Rope(64, periods=mx.array(np.geomspace(1, 5e5, 32).astype(np.float32)))


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, rope, norms",
    [
        (4, 2, 128, Rope(128, 1e6), "qk"),
        (8, 2, 64, LLAMA3, ""),
        (3, 1, 256, Rope(64, 1e4), "qkv"),
        (2, 2, 96, Rope(48, 1e4, interleaved=True), "q"),
        (2, 1, 32, replace(Rope(32), scale=0.125, magnitude=1.2), "k"),
        (2, 1, 512, Rope(512, periods=mx.array([1.0] * 64 + [np.inf] * 192)), "qk"),
        (5, 1, 64, None, "qk"),
        (2, 1, 64, Rope(64), "kv"),
        (2, 1, 64, Rope(64), "qv"),
    ],
)
def test_every_form(dtype, heads, kv_heads, head_dim, rope, norms):
    check(dtype, heads, kv_heads, head_dim, rope, norms=norms)


@pytest.mark.parametrize("batch, new", [(1, 1), (3, 5), (2, 8)])
def test_rows_and_tokens(batch, new):
    check(BF16, 4, 2, 64, Rope(64), batch=batch, new=new, order="random")


def test_keys_as_values_and_queries_alone():
    check(F32, 4, 2, 64, Rope(64), same=True, norms="qkv")
    check(F32, 4, 0, 64, Rope(64), norms="q")


@pytest.mark.parametrize("rope, norm", [(None, None), (Rope(64), Norm(mx.ones((64,)), 1e-6))])
def test_of_queries_alone_only_what_there_is_is_handed_over(rope, norm):
    shape = {"heads": 4, "kv_heads": 0, "head_dim": 64, "q_norm": norm}
    with handed_over() as launched:
        op.qk_norm_rope(mx.ones((1, 1, 256)), mx.array([3], mx.int32), rope, **shape)
    ((_, found),) = launched
    assert set(found) == {"qkv", "position"} | ({"periods"} if rope else set()) | ({"gains"} if norm else set())


@pytest.mark.parametrize("norms", ["qk", "qkv", "kv", "qv"])
def test_norms_that_are_together_are_one_input_and_no_new_array(norms):
    given = together([Norm(mx.full((64,), i + 1.0), 1e-6) if n in norms else None for i, n in enumerate("qkv")])
    pages, rows = Pages(1, 64, F32), Rows((span_of(0, ((0, 1),)),), PAGE)
    with handed_over() as launched:
        op.qk_norm_rope(
            mx.ones((1, 1, 256)), mx.array([3], mx.int32), None, heads=2, kv_heads=1, head_dim=64, pages=pages, rows=rows,
            **dict(zip(("q_norm", "k_norm", "v_norm"), given, strict=True)),
        )  # fmt: skip
    found, rows = launched[-1][1]["gains"], [norm.rows for norm in given if norm]
    assert all(found is each for each in rows) and found[:, 0].tolist() == ["qkv".index(n) + 1 for n in norms]


def test_weights_are_taken_together_in_the_order_asked_for():
    a, b, c = (Norm(mx.full((4,), float(i)), 1e-6) for i in range(3))
    first, _, none, second = together([a, None, Norm(None, 1e-6), b])
    assert none.rows is None and weights_of([first, None, none, second]) is first.rows is second.rows
    assert weights_of([first]) is a.weight and weights_of([None, none]) is None
    for norms in ([second, first], [first, c], [c, second], [a, b]):
        assert mx.array_equal(weights_of(norms), mx.stack([norm.weight for norm in norms]))
    assert together([a, None]) == [a, None] and together([a, Norm(mx.ones((4,), BF16), 1e-6)])[0] is a
