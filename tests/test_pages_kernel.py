"""Pages that kernels write in place: on the emulator, or on this machine's GPU, what every row reads back."""

import random

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import kernels_run
from smelt.kernels import ahead, launch
from smelt.kernels.pages import Pages
from smelt.models.paging import REWIND
from smelt.models.state import Memory

HEADS, DIM = 2, 32


def tokens(rng, count, dtype):
    made = np.array([rng.gauss(0, 1) for _ in range(2 * HEADS * count * DIM)], np.float32)
    return mx.array(made.reshape(2, HEADS, count, DIM)).astype(dtype)


def read(memory, row):
    """Keys and values that the pages hold for a row, from the first position that is still needed."""
    pages = memory.pages[0]
    span = memory.paging[pages.window].span(row.extents[pages.window], max(0, row.length - REWIND), row.length)
    return span.first, mx.stack(pages.read(span))


def agree(memory, row, kept):
    first, found = read(memory, row)
    return mx.array_equal(found, kept[:, :, first:]).item()


@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_rows_read_what_they_wrote_through_growth_moves_rewinds_and_snapshots(window, dtype):
    rng = random.Random(17 if window else 4)
    with kernels_run():
        memory = Memory([Pages(HEADS, DIM, dtype, window)])
        pages = memory.pages[0]
        assert pages.in_place
        rows = [[memory.open(), mx.zeros((2, HEADS, 0, DIM), dtype)] for _ in range(3)]
        for _ in range(14):
            chosen = rng.sample(rows, rng.randint(1, len(rows)))
            count = rng.choice([1, 1, 6, 100])
            step = memory.step([row for row, _ in chosen], count)
            new = [tokens(rng, count, dtype) for _ in chosen]
            pages.write(*(mx.stack([made[i] for made in new]) for i in (0, 1)), step.rows[window])
            for each, made in zip(chosen, new, strict=True):
                each[1] = mx.concatenate([each[1], made], axis=2)
            if rng.random() < 0.4:
                each = rng.choice(rows)
                back = min(REWIND, each[0].length, each[1].shape[2])
                memory.rewind(each[0], back)
                each[1] = each[1][:, :, : each[1].shape[2] - back]
            assert all(agree(memory, row, kept) for row, kept in rows if row.length)
        row, kept = rows[0]
        again = memory.restore(memory.snapshot(row))
        memory.close(row)
        assert agree(memory, again, kept)


def test_a_snapshot_does_not_change_with_what_is_written_later():
    rng = random.Random(1)
    with kernels_run():
        memory = Memory([Pages(HEADS, DIM, mx.float16)])
        pages, row = memory.pages[0], memory.open()

        def write(count):
            made = tokens(rng, count, mx.float16)
            pages.write(*(made[i][None] for i in (0, 1)), memory.step([row], count).rows[None])
            return made

        first = write(20)
        snapshot = memory.snapshot(row)
        memory.rewind(row, 5)
        write(5)
        again = memory.restore(snapshot)
        where, found = read(memory, again)
        assert mx.array_equal(found, first[:, :, where:])


def test_a_pool_grows_and_moves_after_what_is_still_to_be_written(monkeypatch):
    """A write that MLX has not run yet would go to the memory that the pool had before."""
    rng, done = random.Random(5), []
    with kernels_run():
        memory = Memory([Pages(HEADS, DIM, mx.float16)])
        pages, row = memory.pages[0], memory.open()
        pages.write(*tokens(rng, 20, mx.float16)[:, None], memory.step([row], 20).rows[None])
        awaited, evaluate = pages.written, mx.eval
        monkeypatch.setattr(mx, "eval", lambda *given: (done.append(given), evaluate(*given)))
        monkeypatch.setattr("smelt.kernels.pages.moved", lambda pool, moves: (done.append("moved"), pool)[1])
        pages.prepare(memory.step([row], 1000).rows[None])
    assert done[0] == ([awaited],) and "moved" in done


def test_pieces_of_any_length_are_written_by_one_text():
    """Each is compiled where it is met first, while a prompt waits."""
    rng, memory = random.Random(2), Memory([Pages(HEADS, DIM, mx.float16)])
    with ahead.noted() as variants:
        for count, rows in ((9, 1), (30, 1), (31, 2)):
            opened = [memory.open() for _ in range(rows)]
            new = mx.stack([tokens(rng, count, mx.float16) for _ in opened], axis=1)
            memory.pages[0].write(*new, memory.step(opened, count).rows[None])
    assert len(variants) == 3 and len({repr((v[0].name, v[3:])) for v in variants}) == 1


def test_a_write_waits_for_what_was_gathered_and_that_for_the_write_before():
    """A window's pages are given back while the piece of the prompt that reads them may still be on its way."""
    launched = []

    def noting(kernel, inputs, outputs, template, groups, threads):
        made = [mx.zeros(shape, dtype) for shape, dtype in outputs]
        launched.append((kernel.name, inputs[-1], made[-1]))
        return made

    rng, memory = random.Random(3), Memory([Pages(HEADS, DIM, mx.float16, 70)])
    row, pages = memory.open(), memory.pages[0]
    with launch.through(noting):
        for _ in range(2):
            step = memory.step([row], 100)
            pages.write(*tokens(rng, 100, mx.float16)[:, None], step.rows[70])
            pages.read(step.rows[70].spans[0])
    assert [name for name, *_ in launched] == ["pages_append", "pages_gather"] * 2
    assert all(after is made for (_, _, made), (_, after, _) in zip(launched, launched[1:]))
