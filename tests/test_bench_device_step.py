"""The device's time of a step, found on a device and a clock that are faked, and by MLX on this machine."""

import time

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smelt.bench import device_step, engines, packed, same_bits
from smelt.bench.checkpoints import SHAPES
from smelt.bench.device_step import PAIRS, Decoding, DeviceStep
from smelt.kernels import launch

CALL, WAKE = 20e-6, 50e-6  # seconds that it takes to submit a blocker, and to notice that all is done


class Fake:
    """A device and its clock.

    host, step   seconds of submitting a step, and of the step
    most         steps behind a blocker before the host is held back
    unit         seconds of the shortest blocker
    slow         seconds that the host takes longer for the steps of these numbers
    """

    def __init__(self, host=2e-3, step=1e-3, most=100, unit=1e-4, slow=None):
        self.host, self.cost, self.most, self.unit, self.slow = host, step, most, unit, slow or {}
        self.now, self.free, self.length, self.submitted, self.ends = 0.0, 0.0, 1, 0, []
        self.queues = []  # of each blocker: its end, and when the last step behind it was there

    def clock(self) -> float:
        return self.now

    def resize(self, length):
        self.length = length

    def run(self, seconds):
        self.free = max(self.free, self.now) + seconds
        self.ends.append(self.free)

    def block(self):
        self.now += CALL
        self.run(self.unit * self.length)
        self.queues.append([self.free, None])

    def step(self):
        self.now += self.host + self.slow.get(self.submitted, 0.0)
        self.submitted += 1
        under_way = [end for end in self.ends if end > self.now]
        if len(under_way) > self.most:
            self.now = under_way[0]
        self.run(self.cost)
        if self.queues:
            self.queues[-1][1] = self.now

    def wait(self):
        self.now, self.ends = max(self.now, self.free) + WAKE, []


def found_by(device: Fake) -> float | None:
    return DeviceStep(device, device.clock).seconds()


def test_the_devices_time_is_found_where_the_host_is_slower():
    assert found_by(Fake(host=2e-3, step=1e-3)) == pytest.approx(1e-3)


@given(
    host=st.floats(1e-5, 2e-2), step=st.floats(1e-5, 2e-2), unit=st.floats(1e-6, 5e-3), most=st.integers(2, 20),
    slow=st.dictionaries(st.integers(0, 60), st.floats(0.0, 0.3), max_size=2),
)  # fmt: skip
def test_whatever_host_and_device_are_like(host, step, unit, most, slow):
    """Two slow moments of the host, whenever they come, are less than the pairs that may be in vain."""
    found = found_by(Fake(host, step, most, unit, slow))
    assert found == pytest.approx(step, rel=1e-6)


def test_what_counts_was_submitted_before_the_blocker_ended():
    device = Fake(host=3e-3, step=1e-3, slow={20: 0.5})
    assert found_by(device) == pytest.approx(1e-3)
    late = [there > end for end, there in device.queues if there]
    assert late.count(True) == 1 and len(late) == 2 * (PAIRS + 1), "the one slow moment, whose pair was measured again"


def test_the_blocker_is_no_longer_than_it_needs_be():
    device = Fake(host=1e-3, unit=1e-4)
    finder = DeviceStep(device, device.clock)
    finder.seconds()
    long = finder.length
    assert 12e-3 <= long * device.unit <= 24e-3 + 1e-4
    device.host = 1e-4
    assert finder.seconds() == pytest.approx(1e-3) and finder.length < long / 4


@pytest.mark.parametrize(("most", "steps"), [(4, 4), (3, 3), (2, 2)])
def test_fewer_steps_are_queued_where_the_host_is_held_back(most, steps):
    device = Fake(most=most)
    assert found_by(device) == pytest.approx(1e-3)
    before = device.submitted
    assert DeviceStep(device, device.clock).differences(steps) != []
    assert device.submitted - before == 3 * steps + PAIRS * (1 + steps), "none in vain"


def test_where_not_even_two_steps_can_be_queued_nothing_is_said():
    device = Fake(most=1)
    assert found_by(device) is None
    assert device.submitted < engines.QUEUED


def test_noise_goes_by_the_median(monkeypatch):
    device, noise = Fake(), iter([3e-3, 0.0, 1e-4, -1e-4, 0.0])
    finder, queue = DeviceStep(device, device.clock), DeviceStep.queue

    def noisy(self, steps):
        submitted, whole = queue(self, steps)
        return submitted, whole + (next(noise) if steps == 4 else 0.0)

    monkeypatch.setattr(DeviceStep, "queue", noisy)
    assert finder.seconds() == pytest.approx(1e-3) and next(noise, None) is None


# ---- MLX


class Products:
    """Stands for a scheduler whose steps are a product: as few operations as MLX lets queue up on a CPU."""

    def __init__(self, size: int, host_s: float = 0.0):
        self.weights, self.tokens, self.steps, self.host_s = mx.eye(size), mx.ones((size, size)), 0, host_s
        mx.eval(self.weights, self.tokens)

    def decode(self):
        time.sleep(self.host_s)
        self.tokens = self.tokens @ self.weights
        mx.async_eval(self.tokens)
        self.steps += 1


@pytest.fixture
def on_cpu():
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


def test_a_product_takes_as_long_behind_a_blocker_as_by_the_clock(on_cpu):
    scheduler = Products(280, host_s=2e-3)
    found = DeviceStep(Decoding(scheduler)).seconds()
    scheduler.host_s, begin = 0.0, time.perf_counter()
    for _ in range(10):
        scheduler.decode()
    mx.synchronize()
    by_the_clock = (time.perf_counter() - begin) / 10
    assert found == pytest.approx(by_the_clock, rel=0.8), "loosely: other programs run on this machine"
    assert mx.array_equal(scheduler.tokens, mx.ones((280, 280)))


def test_the_engines_steps_behind_a_blocker_draw_what_they_draw_alone(tmp_path, monkeypatch):
    """On a CPU MLX holds back a step that has over a hundred operations: nothing can be found there."""
    monkeypatch.setattr(device_step, "ATTEMPTS", 1)
    engine = engines.Smelt(packed.write(tmp_path, SHAPES["tiny"], dtype=mx.float32))
    prompts = [engines.prompt(9 + i, engine.vocab, i) for i in range(2)]
    with engine.decoding(prompts, engines.QUEUED):
        found = engine.device_step.seconds()
        engine.scheduler.tick()
        drawn = [list(sequence.generated) for sequence in engine.scheduler.running]
    assert found is None or found > 0
    assert len(drawn) == 2 and min(map(len, drawn)) > 2 * sum(device_step.STEPS)
    assert same_bits.drawn(engine, prompts[:1], len(drawn[0])) == drawn[:1]
    assert engine.device_step_s(prompts) is None or launch.machine() != "cpu"
    assert engine.scheduler.idle, "and nothing goes on"


def test_nothing_left_to_decode_is_an_error():
    scheduler = Products(8)
    scheduler.decode = lambda: None
    with pytest.raises(AssertionError, match="nothing left to decode"):
        DeviceStep(Decoding(scheduler)).seconds()


def test_more_steps_are_kept_ready_than_are_ever_queued():
    pairs = device_step.PAIRS + device_step.ATTEMPTS
    assert sum(3 * n + pairs * (1 + n) for n in device_step.STEPS) < engines.QUEUED
