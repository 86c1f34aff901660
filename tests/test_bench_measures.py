"""How often a process measures what: in turns, whole ones, as long as there is time."""

from types import SimpleNamespace

import pytest
from smelt.bench import measures
from smelt.bench.measures import Measures, Plan
from test_tuning import Clock

PLAN = Plan(contexts=[8], rows=[1, 4, 16], prefill=[], tokens=4, repeats=2, turns=3)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measures.time, "perf_counter", clock)
    return clock


def noted(clock, *keys, seconds=1.0):
    """Measures that take so long, each of which gives the salt, and the order in which they were asked."""
    order = []

    def measure(key, salt):
        order.append((key, salt))
        clock.now += seconds
        return float(salt)

    return {key: lambda salt, key=key: measure(key, salt) for key in keys}, order


def test_each_turn_measures_all_and_the_first_one_warms(clock):
    asked, order = noted(clock, "step@1", "step@4")
    found = Measures(None, PLAN, until=100.0).in_turns(asked)
    assert found == {"step@1": [1.0, 2.0, 3.0], "step@4": [1.0, 2.0, 3.0]}
    assert order == [(key, salt) for salt in range(4) for key in ("step@1", "step@4")]


def test_a_turn_that_time_cuts_short_does_not_count(clock, capsys):
    asked, order = noted(clock, "step@1", "step@4")
    found = Measures(None, PLAN, until=4.5).in_turns(asked)
    assert found == {"step@1": [1.0], "step@4": [1.0]} and order[-1] == ("step@1", 2)
    assert capsys.readouterr().err == "out of time: step@1, step@4 measured 1 of 3 times\n"


def test_without_time_for_a_turn_there_is_nothing(clock, capsys):
    asked, _ = noted(clock, "step@1", "step@4")
    assert Measures(None, PLAN, until=2.5).in_turns(asked) == {}
    assert "measured 0 of 3 times" in capsys.readouterr().err


def test_what_has_no_value_at_first_is_not_tried_again_and_holds_its_place(clock, capsys):
    asked, order = noted(clock, "gpu@1", "gpu@4", "gpu@8")
    tried, late = asked["gpu@4"], asked["gpu@8"]
    asked["gpu@4"] = lambda salt: [tried(salt), None][1]
    asked["gpu@8"] = lambda salt: late(salt) if salt != 2 else None
    found = Measures(None, PLAN, until=100.0).in_turns(asked)
    assert found == {"gpu@1": [1.0, 2.0, 3.0], "gpu@4": [None] * 3, "gpu@8": [1.0, None, 3.0]}
    assert [salt for key, salt in order if key == "gpu@4"] == [0] and not capsys.readouterr().err


def test_repeats_tell_how_many_there_was_time_for(clock, capsys):
    asked, _ = noted(clock, "decode@8")
    measure = asked["decode@8"]
    assert Measures(None, PLAN, until=100.0).repeated("decode@8", measure) == {"decode@8": [1.0, 2.0]}
    assert not capsys.readouterr().err
    assert Measures(None, PLAN, until=clock.now + 1.5).repeated("decode@8", measure) == {"decode@8": [1.0]}
    assert capsys.readouterr().err == "out of time: decode@8 measured 1 of 2 times\n"
    assert Measures(None, PLAN, until=clock.now - 1).repeated("decode@8", measure) == {}


class Engine:
    """Tells what it was asked; a step of more than 4 rows cannot be queued."""

    vocab, widest = 100, 9

    def step_s(self, prompts, steps):
        return 0.001 * len(prompts)

    def verify_s(self, prompt, width, steps):
        return 0.01 * width

    def device_step_s(self, prompts):
        return 0.0005 * len(prompts) if len(prompts) <= 4 else None


def test_kinds_of_steps_in_milliseconds(capsys):
    found = Measures(Engine(), PLAN, until=float("inf")).in_turns(Measures(Engine(), PLAN, 0.0).steps(on_device=True))
    assert found == {
        "step@1": [1.0] * 3, "step@4": [4.0] * 3, "step@16": [16.0] * 3, "verify@4": [40.0] * 3,
        "gpu@1": [0.5] * 3, "gpu@4": [2.0] * 3, "gpu@16": [None] * 3,
    }  # fmt: skip
    assert capsys.readouterr().err.startswith("gpu@16 of turn 0 is left out")


def test_where_host_and_device_are_the_same_the_devices_time_is_not_asked():
    engine = SimpleNamespace(widest=1)
    assert list(Measures(engine, PLAN, 0.0).steps(on_device=False)) == ["step@1", "step@4", "step@16"]
