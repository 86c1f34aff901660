"""Pages that rows and snapshots share, against plain lists of what each of them should hold."""

import random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from smelt.kernels.pages import PAGE, Pages, gathered
from smelt.models.paging import REWIND
from smelt.models.shares import Shares
from smelt.models.state import Memory

WINDOWS = [(None,), (40,), (None, 100), (None, 40, 200)]
ROOM = 300  # tokens that a row may be given room for


def memory(*windows):
    return Memory([Pages(1, 1, mx.float32, window) for window in windows])


class Program:
    """A memory, and what its rows and snapshots should hold: lists of one number a position."""

    def __init__(self, seed, *windows, scattered=False):
        self.rng, self.memory = random.Random(seed), memory(*windows)
        for paging in self.memory.paging.values():
            place = paging.place
            paging.place = lambda rows, new, in_place, place=place: place(rows, new, scattered)
        self.rows, self.snapshots, self.written = [], [], 0

    def open(self):
        self.rows.append((self.memory.open(self.rng.choice([0, 10, ROOM])), []))

    def extend(self):
        chosen = self.rng.sample(self.rows, self.rng.randint(1, len(self.rows)))
        new = self.rng.choice([1, 1, 1, 5, 64, 130])
        step = self.memory.step([row for row, _ in chosen], new)
        values = [[float(self.written + new * i + j) for j in range(new)] for i in range(len(chosen))]
        self.written += new * len(chosen)
        for pages in self.memory.pages:
            made = mx.array(values)[:, None, :, None]
            pages.write(made, made, step.rows[pages.window])
        for (_, tokens), added in zip(chosen, values, strict=True):
            tokens += added

    def rewind(self):
        row, tokens = self.rng.choice(self.rows)
        back = self.rng.randint(0, min(REWIND, len(tokens)))
        self.memory.rewind(row, back)
        del tokens[len(tokens) - back :]

    def close(self):
        self.memory.close(self.rows.pop(self.rng.randrange(len(self.rows)))[0])

    def keep(self):
        row, tokens = self.rng.choice(self.rows)
        if tokens:
            self.snapshots.append((self.memory.snapshot(row), list(tokens)))

    def resume(self):
        snapshot, tokens = self.rng.choice(self.snapshots)
        length = self.rng.choice([len(tokens), self.rng.randint(1, len(tokens))])
        if self.memory.resumes(snapshot, length):
            row = self.memory.restore(snapshot, length, self.rng.choice([0, ROOM]))
            self.rows.append((row, tokens[:length]))

    def shorten(self):
        i = self.rng.randrange(len(self.snapshots))
        snapshot, tokens = self.snapshots[i]
        length = self.rng.randint(1, len(tokens))
        if self.memory.resumes(snapshot, length):
            self.snapshots[i] = (self.memory.shortened(snapshot, length), tokens[:length])

    def drop(self):
        self.memory.drop(self.snapshots.pop(self.rng.randrange(len(self.snapshots)))[0])

    def run(self, turns):
        for _ in range(turns):
            able = ["open"]
            able += ["extend", "extend", "extend", "rewind", "keep", "close"] if self.rows else []
            able += ["resume", "resume", "shorten", "drop"] if self.snapshots else []
            getattr(self, self.rng.choice(able))()
            self.check()
        return self

    def check(self):
        for row, tokens in self.rows:
            assert row.length == len(tokens)
            for pages in self.memory.pages:
                if tokens:
                    paging, extent = self.memory.paging[pages.window], row.extents[pages.window]
                    span = paging.span(extent, max(0, row.length - REWIND), row.length)
                    assert np.array(gathered(pages.keys, span.runs))[0, :, 0].tolist() == tokens[span.first :]
        for paging in self.memory.paging.values():
            self.count(paging)

    def count(self, paging):
        """Every page is free, or held by exactly those that have it."""
        rows = [page for row, _ in self.rows for page in pages_of(row.extents[paging.window])]
        kept = [page for snapshot, _ in self.snapshots for page in pages_of(snapshot.extents[paging.window])]
        free = [page for start, count in paging.pool.free for page in range(start, start + count)]
        assert len(free) == len(set(free)) and not set(free) & {*rows, *kept}
        assert {*free, *rows, *kept} == set(range(paging.pool.pages))
        for page, held in paging.shares.pages.items():
            assert (held.rows, held.snapshots) == (rows.count(page), kept.count(page))
        assert paging.shares.kept == len({*kept} - {*rows})
        assert paging.shares.repeated == len(rows) - len({*rows})


def pages_of(extent):
    return [page for start, count in extent.runs for page in range(start, start + count)]


@settings(max_examples=60, deadline=None)
@example(seed=29711720, windows=(40,), scattered=False)  # a snapshot of a row that had gone back
@given(seed=st.integers(0, 10**9), windows=st.sampled_from(WINDOWS), scattered=st.booleans())
def test_rows_and_snapshots_hold_their_own_whatever_others_do(seed, windows, scattered):
    program = Program(seed, *windows, scattered=scattered).run(50)
    for row, _ in program.rows:
        program.memory.close(row)
    for snapshot, _ in program.snapshots:
        program.memory.drop(snapshot)
    assert all(sum(size for _, size in p.pool.free) == p.pool.pages for p in program.memory.paging.values())
    assert all(not p.shares.pages for p in program.memory.paging.values())


def filled(m, tokens):
    row = m.open(tokens)
    step = m.step([row], tokens)
    for pages in m.pages:
        new = mx.zeros((1, 1, tokens, 1))
        pages.write(new, new, step.rows[pages.window])
    return row


def test_a_prefix_of_many_rows_is_held_once():
    m = memory(None)
    row = filled(m, 50 * PAGE)
    snapshot = m.snapshot(row)
    others = [m.restore(snapshot, expected=50 * PAGE + 10) for _ in range(8)]
    assert m.paging[None].pool.pages <= 50 + 8 * 2
    assert m.repeated_bytes == 8 * 50 * PAGE * 8 and m.snapshot_bytes == 0
    for each in (row, *others):
        m.close(each)
    assert (m.snapshot_bytes, m.repeated_bytes) == (50 * PAGE * 8, 0)
    m.drop(snapshot)
    assert m.snapshot_bytes == 0


def test_what_goes_on_alone_follows_on_in_place():
    """The usual conversation: the next turn begins with all of the last one, which has ended."""
    m = memory(None)
    row = filled(m, 100)
    snapshot = m.snapshot(row)
    m.close(row)
    again = m.restore(snapshot, expected=500)
    assert len(again.extents[None].runs) == 1
    assert not m.step([again], 200).rows[None].moves and len(again.extents[None].runs) == 1


def test_pages_that_kernels_read_anywhere_never_move():
    paging = memory(None).paging[None]
    rows, moves = [paging.open(0), paging.open(0)], 0
    for length in range(0, 4000, 10):
        moves += sum(len(paging.place([(extent, length)], 10, scattered=True).moves) for extent in rows)
    assert moves == 0 and all(extent.end >= 4000 and len(extent.runs) <= 8 for extent in rows)
    assert paging.pool.pages <= 2 * (4000 // PAGE + 8)


def test_only_one_row_goes_on_in_the_last_page():
    m = memory(None)
    snapshot = m.snapshot(filled(m, 100))
    first, second = m.restore(snapshot), m.restore(snapshot)  # the row that made the page is still there
    shared = set(pages_of(first.extents[None])) & set(pages_of(second.extents[None]))
    assert shared == set(pages_of(snapshot.extents[None])[:1])


def test_a_window_resumes_where_its_pages_reach():
    m = memory(64)
    snapshot = m.snapshot(filled(m, 500))
    assert m.resumes(snapshot, 500) and not m.resumes(snapshot, 300) and not m.resumes(snapshot, 501)
    early = m.snapshot(filled(m, 60))
    assert all(m.resumes(early, n) for n in range(1, 61)) and not m.resumes(early, 0)


def test_what_is_given_back_twice_is_told():
    shares = Shares()
    shares.count(3, snapshots=1)
    assert shares.freed([3], rows=1) == [] and shares.kept == 1
    assert shares.freed([3], snapshots=1) == [3]
    with pytest.raises(AssertionError, match="page 3 was given back twice"):
        shares.freed([3], rows=2)
