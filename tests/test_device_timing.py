"""The tuner's timer on CUDA, on a driver that is faked: what is launched, over which memory, how often; and what it finds."""

from types import SimpleNamespace

import checkpoints
import mlx.core as mx
import pytest
from cuda_fake import Driver
from msl.emulator import RUNS_HERE
from smelt import models
from smelt.engine import tune
from smelt.kernels import cuda, device_timing, launch, linear_kernel, tuning_spaces
from smelt.kernels.cuda_driver import DriverError, raw
from smelt.kernels.device_timing import DeviceTimer
from smelt.kernels.linear import pack
from smelt.kernels.timing import Chain, Timer
from smelt.kernels.tuning import Call, Space
from test_tune import LANES, SPEC, Device, best_at
from test_tuning import Clock

FIRST = launch.Kernel("first", ("x", "w"), ("h", "done"))
SECOND = launch.Kernel("second", ("h", "x", "after"), ("y",), written=("x",))
W = mx.arange(256 * 256).reshape(256, 256).astype(mx.float32)


def two(x, w):
    """Two launches; the second takes what the first makes, and a view of it."""
    size = launch.knobs("two", "*", {"size": 1})["size"]
    h, done = FIRST([x, w], [(x.shape, x.dtype), ((1,), mx.uint8)], template={"SIZE": size}, groups=(3, 1, 1), threads=32)
    return SECOND([h, x, done], [(x.shape, x.dtype)], template={"STAGED": size}, groups=(1, 2, 1), threads=64)


SPACE = Space("two", SimpleNamespace(fused=two), two)
RUN = Chain(SPACE.fused)


@pytest.fixture
def driver(monkeypatch):
    return Driver(cost=lambda name, template: {"first": 2.0, "second": 5.0}[name]).install(monkeypatch)


def call_of(rows=1, w=W) -> Call:
    return Call((mx.ones((rows, 256)), w), {})


def timer_of(**settings) -> DeviceTimer:
    return DeviceTimer(**{"rotated": 1, "calls": 4, "rounds": 3, "clock": Clock(), **settings})


def test_a_calls_launches_follow_each_other_and_hand_on_their_results(driver):
    timer, call = timer_of(), call_of()
    run = timer.chained(RUN, timer.rotation([call]))
    (launched,) = driver.captured
    assert [each.name for each in launched] == 4 * ["first", "second"], "whole rounds of two, up to four calls"
    first, second = launched[:2]
    assert (first.groups, first.threads, second.groups, second.threads) == ((3, 1, 1), 32, (1, 2, 1), 64)
    x, w, h, done = first.pointers
    assert second.pointers[:3] == (h, x, done) and second.pointers[3] not in first.pointers
    assert [driver.bytes_at(at) for at in (x, w)] == [bytes(raw(a)) for a in call.arrays]
    assert len(driver.bytes_at(h)) == 1024 and len(driver.bytes_at(done)) == 1 and run() > 0


def test_the_time_is_a_calls_on_the_device(driver):
    timer = timer_of()
    rotation = timer.rotation([call_of()])
    assert timer.chained(RUN, rotation)() == pytest.approx(7.0) and timer.link_us(rotation) == 0.0


def test_products_whose_threadgroups_share_k_find_their_places_there(monkeypatch):
    knobs = {"kernel": "bytes", "simds": 1, "slice": 2, "outs": 16, "depth": 1, "resident": 1, "together": 2, "turn": 1}
    monkeypatch.setattr(linear_kernel, "chosen_knobs", lambda *_: knobs)
    driver = Driver().install(monkeypatch)
    call = Call((mx.ones((3, 256), mx.bfloat16), pack(mx.ones((40, 256), mx.bfloat16))), {})
    timer, fused = timer_of(), Chain(lambda call: [linear_kernel.fused(*call.args, None, None, None, None)])
    run = timer.chained(fused, timer.rotation([call]))
    (launched,) = driver.captured
    assert {each.name for each in launched} == {"linear_bytes"}, "and do not make them, as most in a model do not"
    x, *_, places, y = launched[0].pointers
    assert driver.bytes_at(places) == 256 * 4 * b"\xff" and x != y and run() > 0


def test_what_stands_where_there_is_nothing_is_not_handed_over(driver, monkeypatch):
    """The variant is the one that MLX launches, which is compiled already."""
    one, built = launch.Kernel("first", ("x", "w", "bias", "gain"), ("y",), optional=("bias", "gain")), []
    real = driver.build
    monkeypatch.setattr(cuda, "build", lambda *variant: built.append(variant[-1]) or real(*variant))

    def fused(call):
        x, w = call.args
        return one([x, w, x, w[0]], [(x.shape, x.dtype)], template={}, groups=(1, 1, 1), threads=32)

    timer = timer_of()
    timer.chained(Chain(fused), timer.rotation([call_of()]))
    assert built == [(0, 1, 0, 3)] and {len(each.pointers) for each in driver.captured[0]} == {4}


def test_weights_rotate_through_more_than_the_cache_and_calls_share_none(driver):
    timer, calls = timer_of(rotated=5 * W.nbytes, calls=16), [call_of(1), call_of(2)]
    timer.chained(RUN, timer.rotation(calls))
    firsts = [each for each in driver.captured[0] if each.name == "first"]
    weights = [each.pointers[1] for each in firsts]
    assert len(firsts) == 18 and len(set(weights)) == 6 and weights[:6] == weights[6:12] == weights[12:]
    assert all(driver.bytes_at(at) == bytes(raw(W)) for at in set(weights))
    assert len({each.pointers[0] for each in firsts}) == 2, "small arrays stay in the cache in a decode step, too"


def test_a_matrix_larger_than_the_cache_is_there_twice(driver):
    timer = timer_of(rotated=1)
    timer.chained(RUN, timer.rotation([call_of()]))
    assert len({each.pointers[1] for each in driver.captured[0] if each.name == "first"}) == 2


def test_calls_that_turn_share_their_memory(driver):
    turned = lambda call, i: Call((call.args[0] + i, call.args[1]), {})  # noqa: E731
    space = Space("two", SPACE.module, two, reads=lambda call: 4, turned=turned)
    timer = timer_of(rotated=12)
    timer.chained(RUN, timer.rotation([call_of()], space))
    firsts = [each for each in driver.captured[0] if each.name == "first"]
    assert [driver.bytes_at(each.pointers[0]) for each in firsts] == [bytes(raw(mx.ones((1, 256)) + i)) for i in range(3)] * 2
    assert len({each.pointers[1] for each in firsts}) == 1


def test_what_plain_ops_make_has_memory_as_long_as_the_chain(driver):
    def viewed(call):
        x, w = call.args
        return two(x, w.view(mx.uint32))

    timer = timer_of()
    rotation = timer.rotation([call_of()])
    kept = timer.chained(RUN, rotation)
    before = set(driver.buffers)
    run = timer.chained(Chain(viewed), rotation)
    views = {each.pointers[1] for each in driver.captured[1] if each.name == "first"}
    assert len(views) == 2 and not views & before and all(driver.bytes_at(at) == bytes(raw(W)) for at in views)
    del run
    assert set(driver.buffers) == before and kept() == pytest.approx(7.0)


def test_memory_of_a_rotation_goes_with_it(driver):
    timer = timer_of()
    timer.chained(RUN, timer.rotation([call_of()]))
    timer.rotation([call_of()])
    assert not driver.buffers and not driver.alive


def test_after_idling_the_device_is_warmed_up(driver, monkeypatch):
    monkeypatch.setattr(device_timing, "WARM_UP", 280.0)
    clock = Clock()
    timer = timer_of(clock=clock)
    run = timer.chained(RUN, timer.rotation([call_of()]))
    counts = []
    for seconds in (0.0, 0.05, 0.2):
        clock.now += seconds
        driver.replayed.clear()
        run()
        counts.append(len(driver.replayed))
    assert counts == [10 + 9, 9, 10 + 9]


def test_on_cuda_the_tuner_times_so(monkeypatch):
    found = {}
    for machine in ("cuda", "metal", "cpu"):
        monkeypatch.setattr(launch, "machine", lambda machine=machine: machine)
        found[machine] = device_timing.tuning_timer(5, clock=Clock())
    assert [type(timer) for timer in found.values()] == [DeviceTimer, Timer, Timer]
    assert {timer.rounds for timer in found.values()} == {5}


# ---- the search


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("SMELT_HOME", str(tmp_path))
    monkeypatch.setattr(tuning_spaces, "LINEAR", {"lanes": LANES})
    monkeypatch.setattr(tuning_spaces, "ATTENTION", {"lanes": {"span": (2,), "simds": (1, 4), "batch": (1,), "tile": (4,)}})
    monkeypatch.setattr(tune, "ROWS", (1, 2))
    monkeypatch.setattr(tune, "CONTEXT", 20)
    monkeypatch.delenv("SMELT_TUNE", raising=False)
    yield models.load(checkpoints.make(tmp_path, "qwen3", quantization=SPEC, num_hidden_layers=1))
    launch.use_table(None)


def searched(model, host: Device, ops=()):
    with launch.through(host):
        return tune.tune(model, timer_of(calls=2, clock=host.clock), 600.0, ops)


@pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")
def test_the_search_goes_by_the_device_whatever_the_host_takes(model, monkeypatch):
    Driver(cost=best_at(simds=1)).install(monkeypatch)
    found = searched(model, Device(lambda name, template: 1000.0 * template.get("SIMDS", 1) ** -1))
    assert {f.op for f in found} == {"linear", "attention", "sample"}
    for result in found:
        assert result.tried == result.candidates and not result.wrong and result.knobs["simds"] == 1
        assert 9.99 < result.us < result.before_us < 50, "microseconds of the device"


@pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")
def test_a_candidate_that_the_device_refuses_is_wrong_and_the_search_goes_on(model, monkeypatch):
    driver = Driver(cost=best_at(simds=1)).install(monkeypatch)
    real = linear_kernel.LANES

    class Greedy(launch.Kernel):
        """More threadgroup memory than there is, with one simdgroup."""

        def __call__(self, inputs, outputs, *, template, **how):
            staged = 1 << 20 if template["SIMDS"] == 1 else 0
            return super().__call__(inputs, outputs, template={**template, "STAGED": staged}, **how)

    greedy = Greedy(real.name, real.inputs, real.outputs, optional=real.optional)
    monkeypatch.setattr(linear_kernel, "LANES", greedy)
    monkeypatch.setitem(linear_kernel.KERNELS, "lanes", greedy)
    for result in searched(model, Device(lambda name, template: 1.0), ("linear",)):
        assert result.tried == result.candidates
        assert {knobs["simds"] for knobs, _ in result.wrong} == {1}
        assert all("cannot be timed: CUDA driver: cuFuncSetAttribute failed" in why for _, why in result.wrong)
        assert result.knobs is None or result.knobs["simds"] != 1
    assert driver.recording is None


def test_an_error_of_the_driver_says_what_failed(driver, monkeypatch):
    monkeypatch.setattr(driver, "cuGraphLaunch", lambda graph, stream: 700, raising=False)
    timer = timer_of()
    with pytest.raises(DriverError, match="cuGraphLaunch failed with 700"):
        timer.chained(RUN, timer.rotation([call_of()]))()
