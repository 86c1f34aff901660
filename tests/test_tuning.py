"""What can be tuned: calls that are noted and made again, results that are right or wrong, chains that time them."""

from dataclasses import dataclass
from types import SimpleNamespace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smelt.kernels import timing, tuning
from smelt.kernels.linear import pack
from smelt.kernels.norm import Norm
from smelt.kernels.tuning import Call, Space


def call_of(rows=1, width=64):
    norm = Norm(mx.ones((width,)), 1e-5)
    return Call((mx.ones((rows, width)), pack(mx.ones((32, width)))), {"norm": norm, "act": None})


def test_a_call_is_copied_with_all_its_arrays_and_nothing_else():
    call = call_of()
    double = call.each(lambda a: a * 2 if a.dtype == mx.float32 else a)
    assert double.args[0].tolist() == (call.args[0] * 2).tolist() and double.kwargs["norm"].weight[0].item() == 2
    assert double.args[1].bits == 4 and double.kwargs["act"] is None and double.kwargs["norm"].eps == 1e-5
    assert call.args[0][0, 0].item() == 1 and call.kwargs["norm"].weight[0].item() == 1
    assert len(call.arrays) == 4


def test_objects_that_a_kernel_writes_to_are_copied_too():
    from smelt.kernels.pages import Pages

    pages = Pages(1, 32, mx.float32)
    pages.keys = pages.values = mx.zeros((1, 64, 32))
    copied = Call((mx.zeros(1), pages), {}).each(lambda a: a + 1).args[1]
    assert copied is not pages and copied.keys.sum().item() == 2048 and pages.keys.sum().item() == 0
    assert (copied.head_dim, copied.window) == (32, None)


def test_calls_of_one_variant_have_one_signature():
    assert call_of().signature == call_of().each(lambda a: a + 1 if a.dtype == mx.float32 else a).signature
    assert call_of().signature != call_of(rows=2).signature
    assert call_of().signature != Call(call_of().args, {**call_of().kwargs, "act": "relu2"}).signature


def double(x, scale):
    return x * scale


MODULE = SimpleNamespace(fused=double)
SPACE = Space("double", MODULE, lambda x, scale: x * scale)


def test_recording_notes_each_variant_once_and_restores_the_module():
    found = {}
    with tuning.recording([SPACE], found):
        for rows in (1, 1, 2):
            assert MODULE.fused(mx.ones((rows, 4)), 3.0).tolist() == [[3.0] * 4] * rows
    with tuning.recording([SPACE], found):
        MODULE.fused(mx.ones((2, 4)), 3.0)
    assert MODULE.fused is double
    assert [call.args[0].shape for call in found["double"]] == [(1, 4), (2, 4)]


def wrong(how):
    def fused(x, scale):
        y = x * scale
        if how == "one element":
            y[0, 3] = 0.5 * y[0, 3] + 1
        if how == "NaN":
            y[0, 0] = float("nan")
        if how == "shape":
            y = y.T
        if how == "raises":
            raise RuntimeError("no such instruction")
        return y

    return Space("double", SimpleNamespace(fused=fused), double)


@pytest.mark.parametrize("dtype", (mx.float32, mx.float16, mx.bfloat16))
@pytest.mark.parametrize(
    "how, words",
    [("", None), ("one element", "largest element away"), ("NaN", "away"), ("shape", "not"), ("raises", "no such")],
)
def test_a_wrong_result_is_found_in_every_type(dtype, how, words):
    space, call = wrong(how), Call((mx.random.normal((1, 16), key=mx.random.key(3)).astype(dtype), 3.0), {})
    why = tuning.fault(space, call, tuning.exact(space, call))
    assert why is None if words is None else words in why


def test_whole_numbers_must_be_equal():
    assert tuning.distance(mx.array([1, 2]), mx.array([1, 2])) == 0
    assert tuning.distance(mx.array([1, 2]), mx.array([1, 3])) == 1


class Clock:
    """Time that passes only when something says so."""

    now = 0.0

    def __call__(self):
        return self.now


@dataclass
class Slow:
    """A kernel that takes some microseconds of a clock."""

    clock: Clock
    us: float

    def __call__(self, call):
        self.clock.now += self.us * 1e-6
        return [call.args[0] + 1]


def test_a_chain_takes_what_its_calls_take():
    clock = Clock()
    timer = timing.Timer(rotated=1, calls=8, rounds=5, clock=clock)
    rotation = timer.rotation([Call((mx.ones((1, 4)),), {})])
    runs = [timer.chained(timing.Chain(Slow(clock, us)), rotation) for us in (5.0, 7.0)]
    assert timer.link_us(rotation) == 0.0
    assert [[round(t, 6) for t in times] for times in timer.rounds_of(runs)] == [[5.0] * 5, [7.0] * 5]


def test_each_call_of_a_chain_waits_for_the_one_before(tmp_path):
    links = []

    def run(call):
        mx.export_to_dot(str(tmp_path / "graph.dot"), call.args[0])
        links.append((tmp_path / "graph.dot").read_text().count('"Multiply"'))
        return [call.args[0] + 1]

    timer = timing.Timer(rotated=1, calls=4, rounds=1)
    timer.chained(timing.Chain(run), timer.rotation([Call((mx.zeros((1,)),), {})]))
    assert links == [1, 2, 3, 4]


class Writer:
    """As pages do, it keeps what was written last for the next call to wait for."""

    __module__ = "smelt.kernels"
    last = None


def test_chains_are_traced_one_after_another_with_objects_that_keep_arrays(monkeypatch):
    def run(call):
        x, writer = call.args
        writer.last = x + (0 if writer.last is None else writer.last)
        return [writer.last, writer.last * 2]

    monkeypatch.setattr(timing.launch, "machine", lambda: "metal")  # so that it traces
    timer = timing.Timer(rotated=1, calls=4, rounds=1)
    rotation = timer.rotation([Call((mx.ones((1,)), Writer()), {})])
    for _ in range(2):
        assert timer.chained(timing.Chain(run), rotation)() > 0
    assert rotation[0].args[1].last is None


def test_all_results_of_a_call_are_computed(tmp_path):
    timer, dots = timing.Timer(rotated=1, calls=2, rounds=1), []

    def run(call):
        mx.export_to_dot(str(tmp_path / "graph.dot"), call.args[0])
        dots.append((tmp_path / "graph.dot").read_text())
        return [call.args[0] + 1, mx.exp(call.args[0])]

    timer.chained(timing.Chain(run), timer.rotation([Call((mx.zeros((1,)),), {})]))
    assert '"Exp"' not in dots[0] and '"Exp"' in dots[1]


def test_weights_rotate_through_more_than_the_cache():
    weight = mx.ones((256, 256))
    timer = timing.Timer(rotated=3 * weight.nbytes - 1, calls=16)
    rotation = timer.rotation([Call((mx.ones((1, 256)), weight), {})])
    assert len({id(call.args[1]) for call in rotation}) == 3 and rotation[0].args[1] is weight
    assert timer.length(rotation) == 18, "whole rounds"
    assert len({id(call.args[0]) for call in rotation}) == 1, "small arrays stay in the cache in a decode step, too"


def test_a_chain_of_huge_weights_is_short(monkeypatch):
    monkeypatch.setattr(timing, "CHAIN", 1 << 20)
    timer = timing.Timer(rotated=1, calls=64)
    assert timer.length([Call((mx.ones((1,)), mx.zeros((256, 256))), {})]) == timing.LEAST_CALLS


@pytest.mark.parametrize(
    "times, than, is_faster",
    [
        ([90, 91, 92], [100, 101, 102], True),
        ([98, 98, 98], [100, 100, 100], False),  # by too little
        ([80, 99, 120], [98, 104, 106], False),  # within the spread
        ([50, 50, 200], [100, 100, 100], False),
        ([50, 50, 50, 50, 200], [100, 100, 100, 100, 100], True),  # one outlier
    ],
)
def test_faster_is_more_than_a_share_and_more_than_the_spread(times, than, is_faster):
    assert timing.faster(times, than, 0.03) is is_faster


@given(st.lists(st.floats(1, 1000), min_size=3, max_size=9))
def test_nothing_is_faster_than_itself(times):
    assert not timing.faster(times, times, 0.0)


def test_a_call_takes_some_time_however_noisy_its_link():
    assert timing.net(10.0, 4.0) == 6.0 and timing.net(10.0, 12.0) == 0.5
