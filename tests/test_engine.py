"""The engine's thread: loading, failing, recovering, closing."""

import time

import checkpoints
import pytest
from runner import Run
from smelt import models
from smelt.engine.engine import FAILURES, Engine
from smelt.engine.errors import EngineFailed, NotReady
from smelt.engine.scheduler import Limits
from smelt.engine.sequence import Done, Lost

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(300)]


@pytest.fixture
def engine(tmp_path):
    folder = checkpoints.make(tmp_path, "llama")
    engine = Engine(lambda: (models.load(folder), Limits(rows=4, chunk=32)))
    engine.start()
    assert engine.ready.wait(60) and engine.state == "ready", engine.error
    yield engine
    engine.close()
    assert not engine.thread.is_alive()


def submit(engine, *args, **kwargs):
    one = Run(*args, **kwargs)
    engine.submit(one.sequence)
    return one


def test_it_answers(engine):
    runs = [submit(engine, PROMPT[: 10 + i], 12) for i in range(6)]
    assert [len(r.wait().tokens) for r in runs] == [12] * 6
    assert submit(engine, PROMPT[:10], 12).wait().tokens == runs[0].tokens


@pytest.mark.parametrize("prompt", [PROMPT[:10], PROMPT * 20])
def test_a_cancelled_row_is_free_within_the_limit(engine, prompt):
    one = submit(engine, prompt, 100_000)
    while not (one.sequence.row and one.sequence.row.length):
        time.sleep(0.01)
    begin = time.monotonic()
    one.sequence.cancelled = True
    assert one.wait().end.reason == "cancelled"
    while not engine.scheduler.idle:
        time.sleep(0.005)
    assert time.monotonic() - begin < 0.3


def test_a_failed_step_fails_its_requests_and_the_engine_goes_on(engine):
    expected = submit(engine, PROMPT[:10], 12).wait().tokens
    original = type(engine.model).logits
    broken = submit(engine, PROMPT[:10], 100_000)
    while not broken.sequence.generated:
        time.sleep(0.01)

    def breaking():
        def logits(hidden):
            raise RuntimeError("no such kernel")

        object.__setattr__(engine.model, "logits", logits)

    engine.call(breaking)
    assert isinstance(broken.wait().end, Lost) and "no such kernel" in str(broken.end.error)
    engine.call(lambda: object.__setattr__(engine.model, "logits", original.__get__(engine.model)))
    assert submit(engine, PROMPT[:10], 12).wait().tokens == expected
    assert engine.state == "ready"


def test_a_model_that_keeps_failing_ends_the_engine_truthfully(engine):
    def logits(hidden):
        raise RuntimeError("broken for good")

    engine.call(lambda: object.__setattr__(engine.model, "logits", logits))
    for _ in range(FAILURES):
        assert isinstance(submit(engine, PROMPT[:4], 4).wait().end, Lost)
    engine.thread.join(10)
    assert engine.state == "failed"
    with pytest.raises(EngineFailed, match="broken for good"):
        engine.submit(Run(PROMPT[:4]).sequence)


def test_loading_that_fails_is_told(tmp_path):
    engine = Engine(lambda: (models.load(tmp_path), Limits()))
    engine.start()
    engine.ready.wait(10)
    assert engine.state == "failed" and "config.json" in str(engine.error)
    with pytest.raises(EngineFailed, match=r"config\.json"):
        engine.submit(Run(PROMPT[:4]).sequence)


def test_before_it_is_ready():
    engine = Engine(lambda: time.sleep(10))
    with pytest.raises(NotReady, match="loading"):
        engine.submit(Run(PROMPT[:4]).sequence)


def test_closing_ends_what_runs(tmp_path):
    folder = checkpoints.make(tmp_path, "llama")
    engine = Engine(lambda: (models.load(folder), Limits()))
    engine.start()
    engine.ready.wait(60)
    one = submit(engine, PROMPT[:10], 100_000)
    while not one.sequence.generated:
        time.sleep(0.01)
    engine.close()
    assert one.wait().end == Done("cancelled", *one.end[1:])
    with pytest.raises(NotReady, match="shutting down"):
        engine.submit(Run(PROMPT[:4]).sequence)


def test_what_came_while_it_closed_is_ended_as_well(engine):
    tick = engine.scheduler.tick
    late, inside = Run(PROMPT[:4]), []

    def last_tick():
        engine.scheduler.tick = tick
        engine.submit(late.sequence)
        engine.state = "closed"
        inside.append(1)

    engine.call(lambda: setattr(engine.scheduler, "tick", last_tick))
    assert late.wait().end.reason == "cancelled" and inside


def test_what_comes_after_the_end_is_refused_and_waits_for_nothing(engine):
    """Between the look at the state and the post, the engine's thread may end."""
    check, states = engine.check, []

    def closing():
        check()
        states.append(engine.state)
        if len(states) == 1:
            engine.close()

    engine.check = closing
    with pytest.raises(NotReady, match="shutting down"):
        engine.call(lambda: 1, 10)
    assert states == ["ready"]


def test_call_runs_on_the_engines_thread_and_returns_errors(engine):
    assert engine.call(lambda: engine.thread.ident == __import__("threading").get_ident())
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0)
