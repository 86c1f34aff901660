"""What the host writes for a GPU with memory of its own is copied there once, in one piece."""

import mlx.core as mx
import pytest
from smelt.kernels import launch, pages, resident
from smelt.kernels.pages import Rows, Span
from smelt.models.state import Memory


@pytest.fixture
def copies(monkeypatch):
    made = []

    def copied(x):
        made.append(x)
        return x * 1

    monkeypatch.setattr(pages, "resident", copied)
    return made


def test_only_cuda_has_memory_of_its_own(monkeypatch):
    x = mx.array([1, 2])
    for machine, same in (("cpu", True), ("metal", True), ("cuda", False)):
        monkeypatch.setattr(launch, "machine", lambda machine=machine: machine)
        assert (resident.resident(x) is x) == same
        assert resident.resident(x).tolist() == [1, 2]


def test_a_constant_is_made_once():
    assert resident.constant((3, 4), mx.int32) is resident.constant((3, 4), mx.int32)
    assert resident.constant((3, 4), mx.int32).tolist() == [3, 4]


def test_all_addresses_of_a_step_are_one_copy(copies):
    spans = (Span(0, ((128, 70),)), Span(5, ((5, 20),)))
    found = Rows(spans, 320).addresses(2, 320)
    assert len(copies) == 1
    assert found.table.tolist() == [[2, 3], [0, 0]]
    assert found.bounds.tolist() == [[0, 68], [0, 23]]
    assert found.slots.tolist() == [196, 197, 23, 24]
    assert found.size.tolist() == [320, 2]
    assert found.position.tolist() == [68, 23]


def test_the_position_of_a_step_is_that_of_its_addresses():
    memory = Memory([pages.Pages(1, 32, mx.float32), pages.Pages(1, 32, mx.float32, window=32)])
    rows = [memory.open(), memory.open()]
    memory.step(rows[:1], 100)
    step = memory.step(rows, 3)
    assert step.position.tolist() == [100, 0]
    for geometry in step.rows.values():
        assert geometry.addresses(3, 640).position.tolist() == [100, 0]
