"""The bookkeeping of pages, against a plain list of what every position should hold."""

import random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.kernels.pages import PAGE, Pages, gathered
from smelt.models.paging import REWIND, Pool
from smelt.models.state import Memory, Recurrent


def memory(*windows):
    return Memory([Pages(1, 1, mx.float32, window) for window in windows])


def put(m, rows, values):
    """Write one number a position; returns the step."""
    step = m.step(rows, len(values[0]))
    for pages in m.pages:
        new = mx.array(values, mx.float32)[:, None, :, None]
        pages.write(new, new, step.rows[pages.window])
    return step


def held(m, step, row):
    """What each layer sees of one row: (first position, values)."""
    seen = []
    for pages in m.pages:
        span = step.rows[pages.window].spans[row]
        seen.append((span.first, np.array(gathered(pages.keys, span.runs)[0, :, 0]).tolist()))
    return seen


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_rows_see_their_own_tokens_through_growth_moves_and_reuse(seed):
    rng = random.Random(seed)
    m = memory(None, 40, 100)
    rows: dict[int, tuple] = {}
    for turn in range(40):
        action = rng.random()
        if action < 0.25 or not rows:
            rows[turn] = (m.open(rng.choice([0, 10, 300])), [])
        elif action < 0.35:
            m.close(rows.pop(rng.choice(list(rows)))[0])
        elif action < 0.45:
            row, tokens = rng.choice(list(rows.values()))
            back = rng.randint(0, min(REWIND, len(tokens)))
            m.rewind(row, back)
            del tokens[len(tokens) - back :]
        else:
            chosen = rng.sample(list(rows.values()), rng.randint(1, len(rows)))
            new = rng.choice([1, 1, 1, 7, 130])
            values = [[float(turn * 1000 + 300 * i + j) for j in range(new)] for i in range(len(chosen))]
            step = put(m, [row for row, _ in chosen], values)
            for i, (_, tokens) in enumerate(chosen):
                before = len(tokens)
                tokens += values[i]
                for pages, (first, seen) in zip(m.pages, held(m, step, i), strict=True):
                    assert seen == tokens[first:]
                    assert first <= (0 if pages.window is None else max(0, before - pages.window + 1))
    for row, _ in rows.values():
        m.close(row)
    assert all(sum(size for _, size in pool.free) == pool.pages for pool in (p.pool for p in m.paging.values()))


def test_a_sliding_layer_does_not_grow_with_the_sequence():
    m = memory(128)
    row = m.open()
    for _ in range(200):
        put(m, [row], [[0.0] * 50])
    assert m.nbytes <= 8 * 4 * (128 + REWIND + 50 + PAGE)  # the run, half as much to move into, and page borders


def test_appending_copies_a_bounded_number_of_times(monkeypatch):
    """Moves double the room: one stream of 4,000 tokens is copied a handful of times, two that interleave not much more."""
    m = memory(None)
    rows, moves = [m.open(), m.open()], 0
    for _ in range(2000):
        moves += len(m.step(rows, 1).rows[None].moves)
    assert moves <= 16


@pytest.mark.parametrize("windows", [(None,), (64,), (None, 64)])
def test_row_bytes_cover_what_a_row_takes(windows):
    m = memory(*windows)
    row = m.open()
    put(m, [row], [[0.0] * 500])
    put(m, [row], [[0.0]])
    pages = sum(extent.pages for extent in row.extents.values())
    assert pages * PAGE * 8 <= m.row_bytes(501) + 3 * PAGE * 8 + 8 * 500  # the last chunk's room is still held


def test_pool_joins_what_is_given_back():
    pool = Pool()
    a, b, c = pool.take(2), pool.take(3), pool.take(1)
    pool.give(a, 2)
    pool.give(c, 1)
    pool.give(b, 3)
    assert pool.free == [(0, 6)] and pool.pages == 6
    assert pool.take(6) == 0 and pool.free == []


def test_layers_that_were_asked_for_other_steps_have_pools_of_one_size():
    """A prompt is read some layers at a time, with steps of other rows in between: one size is told for all layers."""
    m = memory(None, None)
    row = m.open()
    for new, asked in ((640, 2), (60, 1), (132, 2)):
        rows = m.step([row], new).rows[None]
        for pages in m.pages[:asked]:
            pages.prepare(rows)
    assert m.pages[0].keys.shape == m.pages[1].keys.shape


def test_rewind_is_bounded():
    m = memory(None)
    row = m.open()
    put(m, [row], [[0.0] * 20])
    with pytest.raises(AssertionError, match="cannot go back 9"):
        m.rewind(row, REWIND + 1)


def stepped(m, rows, values, keep):
    """Recurrent states whose value is the last token's."""
    step = m.step(rows, len(values[0]), keep)
    (state,) = m.states
    state.read(step)
    trail = {"x": mx.array(values, mx.float32)[..., None]} if keep else None
    state.write(step, {"x": mx.array([row[-1:] for row in values], mx.float32)}, trail)


def test_other_rows_steps_leave_what_a_draft_kept():
    """A prompt is read between a draft and the verdict on it; only the row's own next step ends that."""
    m = Memory([Recurrent({"x": ((1,), mx.float32)})])
    (state,) = m.states
    one, two = m.open(), m.open()
    stepped(m, [one], [[1, 2, 3, 4]], keep=True)
    stepped(m, [two], [[9, 8]], keep=False)
    m.rewind(one, 2)
    assert state.take(one.slot)["x"].item() == 2 and state.take(two.slot)["x"].item() == 8
    stepped(m, [one], [[5]], keep=False)
    with pytest.raises(AssertionError, match="did not keep its states"):
        m.rewind(one, 1)
    stepped(m, [one, two], [[1, 2], [3, 4]], keep=True)
    m.forget_kept()
    assert not state.trail and m.nbytes == 8


def test_a_drafter_sees_what_the_last_token_saw():
    m = memory(None, 8)
    row = m.open()
    put(m, [row], [list(map(float, range(20)))])
    step = m.behind([row])
    assert held(m, step, 0) == [(0, list(range(20))), (12, list(range(12, 20)))]
    assert step.position.tolist() == [20] and row.length == 20


def test_what_a_step_was_given_is_let_go_before_pools_grow():
    """Kept, the old pools of all layers would stay beside the new ones."""
    memory = Memory([Pages(2, 64, mx.float32), Pages(2, 64, mx.float32, window=64)])
    row = memory.open(100)
    found = memory.prepared(memory.step([row], 10).rows)
    assert memory.prepared(memory.step([row], 1).rows) is found, "as long as they are the same"
    assert found.capacity[None] == memory.pages[0].keys.shape[1]
    later = memory.step([row], 5000)
    memory.pages[0].prepare(later.rows[None])
    assert memory.pools is None
    again = memory.prepared(later.rows)
    assert again.capacity[None] == memory.pages[0].keys.shape[1] >= 5000
    memory.pages[0].clear()
    assert memory.pools is None


def test_memories_of_the_same_pages_are_all_told():
    pages = Pages(2, 64, mx.float32)
    one, two = Memory([pages]), Memory([pages])
    for memory in (one, two):
        memory.prepared(memory.step([memory.open()], 3).rows)
    pages.prepare(one.step([one.open()], 1000).rows[None])
    assert one.pools is None and two.pools is None
