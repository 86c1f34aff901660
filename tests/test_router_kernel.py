"""The router's kernel: on the emulator, or on this machine's GPU, against numpy in float64."""

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import kernels_run
from msl.inputs import handed_over
from smelt.kernels import launch
from smelt.kernels.columns import Columns
from smelt.kernels.router import Routed, Routing, reference, route
from test_router import loop

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


def drawn(rows, experts, dtype, biased=True):
    rng = np.random.default_rng()
    logits = mx.array(2 * rng.normal(size=(rows, experts)).astype(np.float32)).astype(dtype)
    if not biased:
        return logits, None, None
    return logits, mx.array(rng.normal(size=experts).astype(np.float32)), mx.array(rng.uniform(0.5, 2, experts)).astype(dtype)


def routed(logits, routing, bias=None, scale=None, order="forward"):
    with kernels_run(order):
        indices, weights = route(logits, routing, bias, scale)
        mx.eval(indices, weights)
    assert indices.dtype == mx.uint32 and weights.dtype == F32
    return np.array(indices), np.array(weights)


def check(routing, rows, experts, dtype, biased):
    logits, bias, scale = drawn(rows, experts, dtype, biased)
    indices, weights = routed(logits, routing, bias, scale, order="random")
    more = [np.zeros(experts), np.ones(experts)]
    more = more if not biased else [np.array(array.astype(F32)).astype(np.float64) for array in (bias, scale)]
    for row in range(rows):
        theirs = loop(np.array(logits[row].astype(F32)), routing, *more)
        ours = dict(zip(indices[row].tolist(), weights[row].tolist(), strict=True))
        assert ours.keys() == theirs.keys()
        assert all(abs(ours[e] - theirs[e]) < 1e-5 * max(1, abs(theirs[e])) for e in ours)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    "experts, routing",
    [
        (128, Routing(8)),
        (512, Routing(10, normalise=False)),
        (32, Routing(1, "sigmoid", normalise=False)),
        (8, Routing(2)),
        (60, Routing(16, "sigmoid", eps=1e-6, scale=2.5)),
        (256, Routing(8, "sigmoid", groups=(8, 4), eps=1e-20, scale=2.5)),
        (64, Routing(3, groups=(32, 2))),
        (16, Routing(16, groups=(1, 1))),
        (12, Routing(3, groups=(12, 3))),
    ],
    ids=str,
)
def test_every_form(experts, routing, biased):
    check(routing, 3, experts, F32, biased)


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_every_type(dtype):
    """In few bits scores are equal now and then: with a bias that no two share, worths are not."""
    check(Routing(6, "sigmoid"), 4, 96, dtype, biased=True)


def test_of_equals_the_lower_index_comes_first():
    indices, weights = routed(mx.zeros((1, 70)), Routing(5))
    assert indices.tolist() == [[0, 1, 2, 3, 4]] and np.allclose(weights, 0.2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_whatever_the_logits_are_experts_are_different_and_exist(value):
    """The kernels after it read matrices by these numbers."""
    indices, _ = routed(mx.full((1, 40), value), Routing(8))
    assert len(set(indices[0].tolist())) == 8 and indices.max() < 40


def test_a_row_has_the_same_bits_among_others():
    logits, bias, scale = drawn(9, 128, BF16)
    routing = Routing(8, "sigmoid", eps=1e-20)
    indices, weights = routed(logits, routing, bias, scale)
    for row in range(9):
        alone = routed(logits[row : row + 1], routing, bias, scale)
        assert (alone[0][0] == indices[row]).all() and (alone[1][0] == weights[row]).all()


def test_columns_of_a_wider_array():
    logits, bias, scale = drawn(3, 40, F32)
    wider = Columns(mx.concatenate([logits + 1, logits, logits[:, :1]], axis=-1), 40, 40)
    for whole, cut in zip(routed(logits, Routing(4), bias, scale), routed(wider, Routing(4), bias, scale), strict=True):
        assert (whole == cut).all()


def test_it_keeps_leading_dimensions():
    logits, _, _ = drawn(6, 16, F32, biased=False)
    indices, _ = routed(logits.reshape(2, 3, 16), Routing(2))
    assert indices.shape == (2, 3, 2)


def test_it_gives_one_array_of_which_indices_and_weights_are_views():
    logits, bias, scale = drawn(6, 40, F32)
    with kernels_run():
        made = route(logits.reshape(2, 3, 40), Routing(4), bias, scale)
    (words,) = made.arrays
    assert words.dtype == mx.uint32 and words.shape == (2, 2, 3, 4) and made.words is words and made.shape == (2, 3, 4)
    mx.eval(words)
    start = np.array(words, copy=False).ctypes.data
    assert [np.array(x, copy=False).ctypes.data - start for x in made] == [0, words.nbytes // 2]


def test_words_of_what_the_reference_gives_are_the_same():
    logits, bias, scale = drawn(3, 40, F32)
    pair = reference(logits, Routing(4), bias, scale)
    joined = Routed(pair).joined()
    assert joined.whole and joined.words.shape == (2, 3, 4) and joined.types == Routed(pair).types
    assert all(mx.array_equal(a, b) for a, b in zip(joined, pair, strict=True))


@pytest.mark.parametrize("names", [(), ("bias",), ("scale",), ("bias", "scale")])
def test_only_what_there_is_is_handed_over(names):
    logits, bias, scale = drawn(2, 40, BF16)
    given = {name: array for name, array in (("bias", bias), ("scale", scale)) if name in names}
    with handed_over() as launched:
        route(logits, Routing(4), **given)
    ((_, found),) = launched
    assert set(found) == {"logits", *names} and found["logits"] is logits


REFUSED = {
    "more than 512 experts": lambda: route(mx.zeros((1, 513)), Routing(2)),
    "more than 32 experts chosen, or groups": lambda: route(mx.zeros((1, 64)), Routing(33)),
    "bias is mlx.core.int32": lambda: route(mx.zeros((1, 64)), Routing(3), mx.zeros((64,), mx.int32)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_does_not_cover_falls_to_the_reference_and_says_why(why):
    with kernels_run():
        mx.eval(REFUSED[why]())
    assert why in {way.why for way in launch.report() if way.op == "router"}
