"""Memory, launches and graphs by CUDA's driver, on one that is faked: what it is told, and that nothing is left over."""

import mlx.core as mx
import numpy as np
import pytest
from cuda_fake import SHARED, Driver
from smelt.kernels import launch
from smelt.kernels.cuda_driver import DriverError, Graph, Launcher, Memory, raw

COPY = launch.Kernel("copy", ("x",), ("y",))
FLOATS = [mx.float32]


@pytest.fixture
def driver(monkeypatch):
    return Driver(cost=lambda name, template: 3.0).install(monkeypatch)


def launcher(staged: int = 0) -> Launcher:
    return Launcher(COPY, FLOATS, FLOATS, {"STAGED": staged}, (4, 2, 1), 64)


@pytest.mark.parametrize("dtype", (mx.float32, mx.bfloat16, mx.uint8, mx.bool_))
def test_memory_has_an_arrays_bytes(driver, dtype):
    x = mx.arange(24).reshape(4, 6).astype(dtype).T  # as kernels get it: its rows one after another
    memory = Memory.of(raw(x))
    assert driver.bytes_at(memory.pointer.value) == bytes(np.ascontiguousarray(raw(x))) and memory.bytes == x.nbytes
    copy = memory.copy()
    assert copy.pointer.value != memory.pointer.value
    assert driver.bytes_at(copy.pointer.value) == driver.bytes_at(memory.pointer.value)
    del memory, copy
    assert not driver.buffers


@pytest.mark.parametrize("staged", (0, 3000, 3001, 8000))
def test_a_launch_is_what_was_said(driver, staged):
    memories, one = [Memory(64), Memory(64)], launcher(staged)
    graph = Graph(lambda stream: [one.launch(stream, order) for order in (memories, memories[::-1])])
    first, second = driver.captured[0]
    assert (first.name, first.groups, first.threads, first.shared) == ("copy", (4, 2, 1), 64, 16 * staged)
    assert first.pointers == tuple(m.pointer.value for m in memories) == second.pointers[::-1]
    assert (driver.allowed == {}) is (16 * staged <= 48000)
    assert graph.replay() == pytest.approx(6.0)


def test_what_a_device_has_no_room_for_is_an_error(driver):
    with pytest.raises(DriverError, match="cuFuncSetAttribute failed with 1"):
        launcher(SHARED // 16 + 1)
    assert not driver.alive


def test_an_error_within_a_graph_ends_its_recording(driver):
    one, memory = launcher(), Memory(64)
    one.memory = SHARED  # more than was asked for
    with pytest.raises(DriverError, match="cuLaunchKernel failed with 1") as caught:
        Graph(lambda stream: one.launch(stream, [memory, memory]))
    del caught
    assert driver.recording is None and set(driver.alive.values()) == {"module"}


def test_the_time_is_the_median_of_what_follows_two_replays(driver, monkeypatch):
    one, memory = launcher(), Memory(64)
    graph = Graph(lambda stream: one.launch(stream, [memory, memory]))
    costs = iter([90.0, 80.0, 5.0, 70.0, 4.0, 6.0, 5.0])
    monkeypatch.setattr(driver, "cost", lambda name, template: next(costs))
    assert graph.replay_us(repeats=5) == pytest.approx(5.0)
    assert next(costs, None) is None


def test_a_graph_keeps_what_it_launches_and_leaves_nothing(driver):
    def recorded() -> Graph:
        one, memory = launcher(), Memory(64)
        return Graph(lambda stream: one.launch(stream, [memory, memory]))

    graph = recorded()
    assert "module" in driver.alive.values() and len(driver.buffers) == 1
    assert graph.replay_us() == pytest.approx(3.0)
    del graph
    assert not driver.alive and not driver.buffers
