"""One budget for the states of several models: what is left for whom, and that the sum is kept."""

import time

import checkpoints
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner import Run, run
from smelt import models
from smelt.engine import limits
from smelt.engine.budget import PORTION, Budget, longest
from smelt.engine.engine import Engine
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.sequence import Done

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(700)]
LONG = 400  # tokens of the prompts here


class Memory:
    """Of a model whose tokens take `a_token` bytes."""

    def __init__(self, a_token=10):
        self.a_token = a_token

    def row_bytes(self, tokens):
        return self.a_token * tokens


def member(budget, context=1000, promised=False, pooled=0, a_token=10):
    share = budget.share()
    share.memory, share.context, share.window = Memory(a_token), context, context
    share.promised, share.pooled, share.held = promised, pooled, pooled
    return share


# What is left


def test_a_model_alone_has_its_limit():
    share = Budget().share()
    assert share.left(123) == 123 and share.alone and share.elsewhere == 0 and not share.beside


def test_what_one_holds_the_others_do_not_have():
    budget = Budget()
    one, two, three = (budget.share() for _ in range(3))
    budget.total = 100
    two.held, three.held = 30, 20
    assert (one.left(7), two.left(7), three.left(7)) == (50, 80, 70)
    three.streaming = True
    assert one.beside and two.beside and not three.beside
    three.leave()
    assert one.left(7) == 70 and not one.beside


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=5), st.integers(0, 1 << 20))
def test_pools_count_as_free_when_the_budget_is_measured(pools, free):
    budget = Budget()
    for pooled in pools:
        member(budget, pooled=pooled)
    assert budget.measure(free) == int((free + sum(pools)) * PORTION) == budget.total


@given(st.integers(0, 100_000), st.integers(1, 2000))
def test_the_window_is_what_fits(free, context):
    budget = Budget()
    share = member(budget, context=context)
    budget.measure(free)
    assert share.window == min(context, budget.total // 10) == longest(share.memory, budget.total, context)


def test_promised_contexts_are_kept():
    budget = Budget()
    first, second = member(budget, context=1000, promised=True), member(budget)
    budget.measure(9000)
    with pytest.raises(MemoryError, match="another loaded model would have 720 tokens of context, it needs 1000"):
        limits.keep_promises(second)
    first.promised = False
    limits.keep_promises(second)
    budget.measure(1000)
    with pytest.raises(MemoryError, match="80 tokens of context, it needs 512"):
        limits.keep_promises(second)
    second.leave()
    budget.measure(20_000)
    assert first.window == 1000  # and it has what another one had


# Real engines


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    make = lambda name, **changes: checkpoints.make(tmp_path_factory.mktemp(name), "llama", **changes)  # noqa: E731
    return make("one"), make("two", num_hidden_layers=3)


class Pair:
    """Two engines that share `total` bytes, and the most that both have held at once."""

    def __init__(self, folders, total=None):
        self.budget, self.most, self.held = Budget(), 0, []
        shares = [self.budget.share() for _ in folders]
        self.engines = [self.engine(folder, share) for folder, share in zip(folders, shares, strict=True)]
        for engine in self.engines:
            assert engine.ready.wait(60)
        self.budget.total = total

    def engine(self, folder, share):
        note = share.note

        def noted(scheduler):
            note(scheduler)
            self.most = max(self.most, sum(each.held for each in self.budget.shares))

        share.note = noted
        engine = Engine(lambda: (models.load(folder), Limits(rows=8, chunk=64, share=share)))
        engine.start()
        return engine

    def submit(self, which, *args, **kwargs):
        one = Run(*args, **kwargs)
        self.engines[which].submit(one.sequence)
        return one

    def close(self):
        for engine in self.engines:
            engine.close()


@pytest.fixture
def pair(folders):
    made = Pair(folders)
    yield made
    made.close()


def alone(folder, prompt, tokens):
    made = Run(prompt, tokens)
    run(Scheduler(models.load(folder), Limits()), made)
    return made.tokens


def bytes_of(engine, tokens):
    return engine.scheduler.memory.row_bytes(tokens)


def test_both_answer_at_the_same_time_as_each_does_alone(pair, folders):
    runs = [pair.submit(which, PROMPT[: 20 + i], 40) for i in range(3) for which in (0, 1)]
    expected = [alone(folders[which], PROMPT[: 20 + i], 40) for i in range(3) for which in (0, 1)]
    assert [r.wait().tokens for r in runs] == expected


def test_streams_of_two_models_share_the_time(pair):
    """Neither is done before the other has begun."""
    first, second = pair.submit(0, PROMPT[:20], 150), pair.submit(1, PROMPT[:20], 150)
    first.wait(), second.wait()
    decoding = [r.end.decode_s for r in (first, second)]
    assert max(decoding) < 3 * min(decoding)


def test_a_model_with_fast_steps_is_not_held_to_the_pace_of_one_with_slow_steps(pair):
    slow = pair.engines[1].scheduler
    tick = slow.tick
    slow.tick = lambda: (time.sleep(0.02), tick())
    fast, other = pair.submit(0, PROMPT[:20], 3000), pair.submit(1, PROMPT[:20], 3000)
    while len(other.sequence.generated) < 3:
        time.sleep(0.001)
    before = len(fast.sequence.generated), len(other.sequence.generated)
    while len(other.sequence.generated) < 20:
        time.sleep(0.001)
    made = len(fast.sequence.generated) - before[0], len(other.sequence.generated) - before[1]
    assert made[0] > 2 * made[1]
    for which, one in enumerate((fast, other)):
        one.sequence.cancelled = True
        pair.engines[which].wake()


def test_the_sum_is_kept_and_everyone_is_served(pair):
    needs = [bytes_of(engine, LONG + 30) for engine in pair.engines]
    pair.budget.total = int(max(needs) * 1.5)  # either one, not both
    assert sum(needs) > pair.budget.total
    runs = [pair.submit(which, PROMPT[:LONG], 30) for _ in range(3) for which in (0, 1)]
    assert all(isinstance(r.wait(120).end, Done) and len(r.tokens) == 30 for r in runs)
    page = max(bytes_of(engine, 64) for engine in pair.engines)  # pools are made of whole pages
    assert pair.most <= pair.budget.total + page


def test_rows_that_grow_beyond_the_budget_give_way_and_come_back(pair, folders):
    """Both are let in, and there is no room for both to the end."""
    tokens = 250
    expected = [alone(folder, PROMPT[:100], tokens) for folder in folders]
    ends = [bytes_of(engine, 100 + tokens) for engine in pair.engines]
    runs = [pair.submit(which, PROMPT[:100], tokens) for which in (0, 1)]
    while not all(engine.scheduler.running for engine in pair.engines):
        time.sleep(0.001)
    pair.budget.total = int(sum(ends) * 0.8)
    assert [r.wait(120).tokens for r in runs] == expected
    assert any(read.total > 100 for r in runs for read in r.progress)  # what it had said was read once more


def test_what_an_idle_model_holds_is_given_back_to_one_that_waits(pair):
    pair.submit(0, PROMPT[:LONG], 4).wait()
    idle, other = pair.engines
    while idle.limits.share.streaming or not idle.limits.share.held:
        time.sleep(0.001)
    held = idle.limits.share.held
    need = bytes_of(other, LONG + 4)
    pair.budget.total = need + held // 2
    assert len(pair.submit(1, PROMPT[:LONG], 4).wait(60).tokens) == 4
    assert idle.limits.share.held < held
    assert len(pair.submit(0, PROMPT[:20], 4).wait(60).tokens) == 4  # it goes on with new pools


def test_a_row_that_waits_for_another_models_memory_can_be_cancelled(pair):
    pair.budget.total = bytes_of(pair.engines[0], 600)
    first = pair.submit(0, PROMPT[:LONG], 2000)
    while not pair.engines[0].scheduler.running:
        time.sleep(0.001)
    second = pair.submit(1, PROMPT[:LONG], 4)
    time.sleep(0.1)
    assert pair.engines[1].scheduler.waiting and not second.tokens
    second.sequence.cancelled = True
    began = time.monotonic()
    assert second.wait().end.reason == "cancelled" and time.monotonic() - began < 0.5
    first.sequence.cancelled = True
    pair.engines[0].wake()
    assert first.wait().end.reason == "cancelled"
