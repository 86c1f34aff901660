"""Rows whose next token must fit: the forward never waits for the mask, and other rows are none the wiser."""

import copy

import checkpoints
import checkpoints_lfm2
import mlx.core as mx
import pytest
from runner import Run, run
from smelt import models
from smelt.engine import scheduler as module
from smelt.engine.errors import EngineFailed
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.sequence import Done, Lost
from smelt.engine.step import TracedStep
from test_scheduler import MIXED, PROMPT, fresh, syncs  # noqa: F401

VOCAB = 320


class Stairs:
    """Token t may be followed by those that are t + 1 modulo 5. `until`: then it ends; `free`: no rule before so many."""

    def __init__(self, until=None, free=0, empty_after=None):
        self.until, self.free, self.empty_after, self.ended = until, free, empty_after, False
        self.seen, self.masks = [], 0

    def fork(self):
        other = copy.copy(self)
        other.seen = list(self.seen)
        return other

    def waits(self, unread):
        return len(self.seen) + unread >= self.free

    def mask(self):
        self.masks += 1
        if self.empty_after is not None and len(self.seen) >= self.empty_after:
            raise EngineFailed("nothing fits")
        if len(self.seen) < self.free:
            return None
        bits = bytearray(VOCAB // 8)
        for token in range(VOCAB):
            if not self.seen or token % 5 == (self.seen[-1] + 1) % 5:
                bits[token >> 3] |= 1 << (token & 7)
        return bytes(bits)

    def take(self, token):
        self.seen.append(token)
        self.ended = self.until is not None and len(self.seen) == self.until


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return models.load(checkpoints.make(tmp_path_factory.mktemp("guided"), "llama"))


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory):
    return models.load(checkpoints_lfm2.make(tmp_path_factory.mktemp("guided"), "lfm2"))


def climbs(tokens):
    return all((b - a) % 5 == 1 for a, b in zip(tokens, tokens[1:], strict=False))


CASES = [(PROMPT[: 30 + 17 * i], 20 + i, i, fields) for i, fields in enumerate(MIXED)]


def make(case, guide):
    prompt, count, seed, fields = case
    return Run(prompt, count, seed=seed, guide=guide, **fields)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_every_token_fits_and_batches_change_nothing(request, kind, traced, monkeypatch):
    llama = request.getfixturevalue(kind)
    monkeypatch.setattr(TracedStep, "worthwhile", traced)
    alone = []
    for i, case in enumerate(CASES):
        one = make(case, Stairs() if i % 2 else None)
        run(fresh(llama), one)
        alone.append(one.tokens)
        assert climbs(one.tokens) == bool(i % 2)
    together = [make(case, Stairs() if i % 2 else None) for i, case in enumerate(CASES)]
    run(fresh(llama, rows=3), *together)
    assert [r.tokens for r in together] == alone


def test_a_row_ends_where_its_grammar_ends(llama):
    for count in (1, 2, 7):
        one, other = make(CASES[0], Stairs(until=count)), make(CASES[1], None)
        run(fresh(llama), one, other)
        assert len(one.tokens) == count and one.end.reason == "stop" and len(other.tokens) == CASES[1][1]


def test_a_rule_that_begins_later_costs_nothing_before(llama):
    free, plain = Run(PROMPT[:20], 30, guide=Stairs(free=12)), Run(PROMPT[:20], 30)
    run(fresh(llama), plain)
    run(fresh(llama), free)
    assert free.tokens[:12] == plain.tokens[:12] and climbs(free.tokens[11:])
    assert free.sequence.guide.masks <= 30 - 12 + 2


def test_where_nothing_fits_only_that_row_fails(llama):
    lost, other = Run(PROMPT[:20], 30, guide=Stairs(empty_after=5)), make(CASES[1], None)
    run(fresh(llama), lost, other)
    assert isinstance(lost.end, Lost) and len(lost.tokens) == 5 and "nothing fits" in str(lost.end.error)
    assert isinstance(other.end, Done) and len(other.tokens) == CASES[1][1]


def test_an_end_token_ends_without_the_grammar(llama):
    plain = Run(PROMPT[:50], 40, guide=Stairs())
    run(fresh(llama), plain)
    end = plain.tokens[10]
    one = Run(PROMPT[:50], 40, guide=Stairs(), end_ids=[end])
    run(fresh(llama), one)
    assert one.tokens == plain.tokens[: plain.tokens.index(end)] and one.end.reason == "stop"


def test_cancelling_and_joining_in_the_middle(llama):
    expected = make(CASES[3], Stairs())
    run(fresh(llama), expected)
    scheduler, first, second = fresh(llama), Run(PROMPT[:20], 1000, guide=Stairs()), make(CASES[3], Stairs())
    scheduler.add(first.sequence)
    for _ in range(6):
        scheduler.tick()
    first.sequence.cancelled = True
    run(scheduler, second)
    first.wait()
    assert second.tokens == expected.tokens and first.end.reason == "cancelled" and scheduler.idle


def test_a_row_that_gave_way_goes_on_where_its_grammar_was(llama, monkeypatch):
    monkeypatch.setattr(module, "GROWTH_TOKENS", 8)
    cases = [(PROMPT[:60], 120, i, MIXED[i]) for i in range(4)]
    expected = []
    for case in cases:
        one = make(case, Stairs())
        run(fresh(llama), one)
        expected.append(one.tokens)
    tight = Scheduler(llama, Limits(rows=4, chunk=32, state_bytes=llama.memory().row_bytes(420)))
    dropped, requeue = [], tight.requeue
    tight.requeue = lambda: (dropped.extend(tight.preempted), requeue())
    runs = [make(case, Stairs()) for case in cases]
    run(tight, *runs)
    assert dropped and [r.tokens for r in runs] == expected


@pytest.mark.parametrize("fields", [*MIXED, {"temperature": 1.0, "top_logprobs": 5}], ids=str)
@pytest.mark.parametrize("others", [0, 2])
def test_a_step_waits_once_and_the_forward_goes_before(llama, syncs, monkeypatch, fields, others):  # noqa: F811
    order = []
    submit, read = mx.async_eval, module.read
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: (order.append("submit"), submit(*arrays))[1])
    monkeypatch.setattr(module, "read", lambda arrays: (order.append("read"), read(arrays))[1])
    runs = [Run(PROMPT[:20], 40, guide=Stairs(), **fields)]
    runs += [Run(PROMPT[: 21 + i], 40, seed=i, **fields) for i in range(others)]
    scheduler = fresh(llama)
    for r in runs:
        scheduler.add(r.sequence)
    while not all(r.sequence.submitted > 3 for r in runs):
        scheduler.tick()
    for _ in range(10):
        syncs.update(read=0, other=0, submit=0)
        order.clear()
        before = scheduler.pending[-1]
        scheduler.tick()
        assert syncs == {"read": 1, "other": 0, "submit": 2}
        assert order == ["submit", "read", "submit"]  # the forward, the last draws, and the draw that they decide on
        assert scheduler.pending[0] is not before and not scheduler.due
