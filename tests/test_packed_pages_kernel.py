"""The kernel that packs keys and values into their pages: on the emulator, or on this machine's GPU, what every row reads."""

import random

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from smelt.kernels import ahead
from smelt.kernels.coding import MODES, coding
from smelt.kernels.pages import Pages
from smelt.models.paging import REWIND
from smelt.models.state import Memory

HEADS = 2


def made(mode, dtype=mx.float16, head_dim=64, window=None):
    pages = Pages(HEADS, head_dim, dtype, window)
    pages.pack(coding(mode, head_dim))
    return pages


def tokens(count, dtype, head_dim=64):
    return mx.array(np.random.default_rng().normal(size=(2, 1, HEADS, count, head_dim)).astype(np.float32)).astype(dtype)


def span_of(memory, row):
    window = memory.pages[0].window
    return memory.paging[window].span(row.extents[window], max(0, row.length - REWIND), row.length)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("head_dim, count", [(32, 3), (64, 70), (96, 5), (256, 1)])
def test_words_and_grids_are_those_of_the_coding(mode, dtype, head_dim, count):
    x, pages = tokens(count, dtype, head_dim), made(mode, dtype, head_dim)
    with kernels_run("random"):
        memory = Memory([pages])
        row = memory.open()
        pages.write(*x, memory.step([row], count).rows[None])
        assert pages.in_place
        held = pages.raw(memory.step([row], 1).rows[None].spans[0].runs)
    held, code = [part[:, :count] for part in held], pages.coding
    for given, pair in zip(x[:, 0], (held[::2], held[1::2]), strict=True):
        plain, truth = code.encode(given), wide(code.turn(given))
        assert_accurate(code.decode(*pair), code.decode(*plain), truth)
        assert np.mean(np.array(pair[0]) != np.array(plain[0])) < 0.05  # of equal distance, or nearly so, is either code


@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("mode", ["8", "turbo2"])
def test_rows_read_what_they_wrote_through_growth_moves_rewinds_and_snapshots(window, mode):
    """What a row holds is what a row of its own holds that was given the same at once."""
    rng = random.Random(17 if window else 4)
    with kernels_run():
        memory = Memory([made(mode, window=window)])
        pages, rows = memory.pages[0], [[memory.open(), mx.zeros((2, 1, HEADS, 0, 64), mx.float16)] for _ in range(3)]
        for _ in range(10):
            chosen, count = rng.sample(rows, rng.randint(1, len(rows))), rng.choice([1, 1, 6, 100])
            new = [tokens(count, mx.float16) for _ in chosen]
            step = memory.step([row for row, _ in chosen], count)
            pages.write(*mx.concatenate(new, axis=1), step.rows[window])
            for each, given in zip(chosen, new, strict=True):
                each[1] = mx.concatenate([each[1], given], axis=3)
            if rng.random() < 0.4:
                each = rng.choice(rows)
                back = min(REWIND, each[0].length)
                memory.rewind(each[0], back)
                each[1] = each[1][:, :, :, : each[0].length]
            assert all(agree(memory, row, kept, mode) for row, kept in rows if row.length)
        row, kept = rows[0]
        again = memory.restore(memory.snapshot(row))
        memory.close(row)
        assert agree(memory, again, kept, mode)


def agree(memory, row, kept, mode):
    span = span_of(memory, row)
    alone = Memory([made(mode)])
    alone.pages[0].write(*kept[:, :, :, span.first :], alone.step([alone.open()], row.length - span.first).rows[None])
    other = alone.pages[0].raw(((0, row.length - span.first),))
    return all(mx.array_equal(a, b).item() for a, b in zip(memory.pages[0].raw(span.runs), other, strict=True))


def test_pieces_of_any_length_are_written_by_one_text():
    """Each is compiled where it is met first, while a prompt waits."""
    memory = Memory([made("turbo4")])
    with ahead.noted() as variants:
        for count in (9, 30, 31):
            memory.pages[0].write(*tokens(count, mx.float16), memory.step([memory.open()], count).rows[None])
    assert len(variants) == 3 and len({repr((v[0].name, v[3:])) for v in variants}) == 1


def test_bytes_are_those_that_are_held():
    pages, plain = made("4", mx.bfloat16, 128), Pages(HEADS, 128, mx.bfloat16)
    memory = Memory([pages])
    pages.write(*tokens(64, mx.bfloat16, 128), memory.step([memory.open()], 64).rows[None])
    assert pages.nbytes == memory.paging[None].slots * pages.slot_bytes
    assert pages.slot_bytes / plain.slot_bytes == (4 + 2 * 16 / 64) / 16
