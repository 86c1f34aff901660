"""What the host writes for a GPU with memory of its own is copied there once, in one piece."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msl.accuracy import kernels_run
from msl.spans import span_of
from smelt.kernels import launch, pages, pages_kernel, resident
from smelt.kernels.pages import Rows
from smelt.kernels.resident import PAIR, pieces_of
from smelt.models import paging
from smelt.models.paging import REWIND
from smelt.models.state import Memory


@pytest.fixture
def copies(monkeypatch):
    """On CUDA: what was copied there."""
    made = []

    def copied(x):
        made.append(x.tolist())
        return x * 1

    monkeypatch.setattr(launch, "machine", lambda: "cuda")
    monkeypatch.setattr(resident, "resident", copied)
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
    spans = (span_of(0, ((128, 70),)), span_of(5, ((5, 20),)))
    found = Rows(spans, 320).addresses(2, 320)
    assert len(copies) == 1
    assert found.where.tolist() == [320, 2, 68, 23, 0, 68, 0, 23, 196, 197, 23, 24, 2, 0, 3, 0]
    assert found.rows == 2 and found.pages == 2
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
        assert geometry.addresses(3, 640).position.tolist() == geometry.position(3).tolist() == [100, 0]


def test_what_grows_alike_is_added_to_where_it_is(copies):
    growing = resident.Growing()

    def told(settled, at, by):
        made = np.array([settled, at], np.int32), np.array([0, by], np.int32)
        return growing(settled, [at], by, lambda: made).tolist()

    for step in range(5):
        assert told(7, 10 + 2 * step, 2) == [7, 10 + 2 * step]
    assert copies == [[7, 10], [0, 2]]  # the first numbers, and the growth
    assert told(8, 20, 2) == [8, 20]
    assert told(8, 22, 2) == [8, 22]
    assert told(8, 23, 2) == [8, 23]  # not so far as it should be
    assert told(8, 24, 1) == [8, 24]
    assert told(8, 25, 1) == [8, 25]
    assert told(8, 20, 1) == [8, 20]
    assert copies[2:] == [[8, 20], [8, 23], [8, 24], [0, 1], [8, 20]]


def test_addresses_are_right_whether_copied_or_grown(copies):
    """Over page borders, joining and leaving rows, prompts in between, and going back."""
    memory, plain = (Memory([pages.Pages(1, 32, mx.float32), pages.Pages(1, 32, mx.float32, window=32)]) for _ in range(2))

    def step(numbers, new):
        given, plainly = (m.step([r[i] for i in numbers], new) for m, r in ((memory, rows), (plain, others)))
        for window, geometry in plainly.rows.items():
            fresh = Rows(geometry.spans, geometry.slots).addresses(new, 640)
            found = given.rows[window].addresses(new, 640)
            assert found.where.tolist() == fresh.where.tolist()

    rows, others = [memory.open() for _ in range(3)], [plain.open() for _ in range(3)]
    step([0], 60)
    step([1], 9)
    for _ in range(70):
        step([0, 1], 1)
    uploaded = len(copies)
    for _ in range(30):
        step([0, 1], 1)
    assert len(copies) < uploaded + 80  # of which 60 are those of the fresh addresses
    step([2], 5)
    for numbers in ([0, 1], [0, 1, 2], [1, 2], [1, 2], [0]):
        step(numbers, 1)
    memory.rewind(rows[0], 1)
    plain.rewind(others[0], 1)
    step([0], 1)
    step([0], 4)


def assert_addresses(found, memory, window, rows, new):
    """Each is where the row's own pages say."""
    first, end = memory.paging[window].first, [row.length for row in rows]
    table, slots = found.table.tolist(), found.slots.tolist()
    assert found.position.tolist() == [e - new for e in end] == found.bounds[:, 1].tolist()
    for i, row in enumerate(rows):
        extent, begin = row.extents[window], found.bounds[i, 0].item()
        seen = range(max(extent.base, first(end[i] - new)), end[i])
        places = [divmod(p - begin, pages.PAGE) for p in seen]
        assert [table[i][page] * pages.PAGE + slot for page, slot in places] == [extent.slot(p) for p in seen]
        assert slots[i * new : i * new + new] == [extent.slot(p) for p in range(end[i] - new, end[i])]


STEPS = st.tuples(
    st.sampled_from([[0], [1], [0, 1], [0, 1, 2]]),
    st.sampled_from([1, 2, 7, 8, 60, 130]),
    st.sampled_from([1, 2, 5, 12]),  # times
    st.sampled_from([None, None, 3, REWIND, "another"]),  # before: the first of the rows goes back, or is another sequence
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=10))
@example(steps=[([0], 60, 1, None), ([1], 60, 1, None), ([0, 1], 7, 3, None)])  # over a border to pages that do not follow
@example(steps=[([0], 7, 1, None), ([1], 7, 1, None), ([0], 1, 1, None), ([0], 8, 1, "another")])
def test_addresses_are_those_of_the_pages_whatever_came_before(steps):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(launch, "machine", lambda: "cuda")
        patched.setattr(pages_kernel, "covers", lambda _: None)  # pages may lie anywhere
        patched.setattr(paging, "SPARE", 1)
        memory = Memory([pages.Pages(1, 32, mx.float32), pages.Pages(1, 32, mx.float32, window=100)])
        rows = [memory.open() for _ in range(3)]
        for which, new, times, before in steps:
            if before == "another":
                again, rows[which[0]] = rows[which[0]], memory.open()
                memory.step([rows[which[0]]], max(1, again.length))
                memory.close(again)
            elif before:
                memory.rewind(rows[which[0]], min(before, rows[which[0]].length))
            for _ in range(times):
                step = memory.step([rows[i] for i in which], new)
                for window, geometry in step.rows.items():
                    assert_addresses(geometry.addresses(new, 640), memory, window, [rows[i] for i in which], new)


@pytest.mark.parametrize("count", [3, 8, 9, 64])
@pytest.mark.parametrize("dtype", [mx.uint32, mx.float32])
def test_what_the_host_reads_comes_in_pairs(count, dtype):
    x = (mx.arange(count) * 7 + 1).astype(dtype)
    with kernels_run():
        pieces = pieces_of(x)
    assert all(piece.size <= PAIR and piece.dtype == dtype for piece in pieces)
    assert [value for piece in pieces for value in piece.tolist()] == x.tolist()
