"""Engines are asked in turns, one at a time, whole turns, as long as there is time."""

import time

import pytest
from smelt.bench import packed, paired
from smelt.bench.checkpoints import SHAPES
from smelt.bench.measures import Plan
from smelt.bench.paired import Turns, Worker, ratios
from test_tuning import Clock

PLAN = Plan(contexts=[8], rows=[1, 4], prefill=[16], tokens=4, prefills=1, turns=3, seconds=1000.0)
STEPS = {"smelt": ["step@1", "gpu@1"], "mlx-lm": []}


@pytest.fixture
def asked(monkeypatch):
    """Workers without a process: each value is its salt and takes a second. What was asked, in order."""
    clock, order = Clock(), []
    monkeypatch.setattr(paired.time, "monotonic", clock)

    class Fake:
        start_s = 0.25

        def __init__(self, name, *_):
            self.name = name

        def ask(self, method, *arguments):
            if method == "value":
                clock.now += 1.0
                order.append((self.name, *arguments))
                return float(arguments[1])
            return {"steps": STEPS[self.name], "dispatches": 7, "memory": {"peak": 1.0, "rss": 2.0}}[method]

        def finish(self):
            return [f"{self.name} ran"]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            order.append((self.name, "end"))

    monkeypatch.setattr(paired, "Worker", Fake)
    return order, Fake


def run(plan: Plan) -> Turns:
    found = Turns(["smelt", "mlx-lm"], None, plan, on_device=True)
    found.run()
    return found


def test_each_turn_measures_all_of_both_right_after_each_other(asked):
    order, _ = asked
    found = run(PLAN)
    assert order[:4] == [(name, key, 0) for key in ("decode@8", "prefill@16") for name in ("smelt", "mlx-lm")]
    first = [pair for pair in order if pair[-1] == 1]
    assert first == [
        *[(name, key, 1) for key in ("decode@8", "prefill@16") for name in ("smelt", "mlx-lm")],
        ("smelt", "step@1", 1), ("smelt", "gpu@1", 1),
    ]  # fmt: skip
    second = [pair for pair in order if pair[-1] == 2]
    assert second == [("smelt", "gpu@1", 2), ("smelt", "step@1", 2), ("mlx-lm", "decode@8", 2), ("smelt", "decode@8", 2)]
    same = {"start": [0.25], "dispatches": [7], "peak": [1.0], "rss": [2.0], "decode@8": [1.0, 2.0, 3.0], "prefill@16": [1.0]}
    assert found.found["mlx-lm"] == same
    assert found.found["smelt"] == {**same, "step@1": [1.0, 2.0, 3.0], "gpu@1": [1.0, 2.0, 3.0]}
    assert found.ways == ["smelt ran", "mlx-lm ran"] and order[-2:] == [("mlx-lm", "end"), ("smelt", "end")]


def test_memory_is_read_before_streams_run_together(asked, monkeypatch):
    order, fake = asked
    ask = fake.ask
    monkeypatch.setattr(fake, "ask", lambda self, *what: (order.append((self.name, what[0])), ask(self, *what))[1])
    run(PLAN)
    read = max(i for i, what in enumerate(order) if what[1] == "memory")
    assert order.index(("mlx-lm", "prefill@16", 0)) < read < order.index(("smelt", "step@1", 0))


def test_no_turn_begins_after_time_is_up_and_none_is_cut_short(asked, capsys):
    found = run(paired.Plan(**{**vars(PLAN), "seconds": 7.5}))
    assert {key: len(found.found["smelt"][key]) for key in ("decode@8", "prefill@16", "step@1")} == {
        "decode@8": 1, "prefill@16": 1, "step@1": 1
    }  # fmt: skip
    assert capsys.readouterr().err == "out of time: 1 of 3 turns\n"


def test_without_time_there_is_what_takes_none(asked, capsys):
    found = run(paired.Plan(**{**vars(PLAN), "seconds": -1.0}))
    assert set(found.found["smelt"]) == {"start", "dispatches", "peak", "rss"}
    assert "out of time before decode@8 of smelt\n" in capsys.readouterr().err


def test_what_has_no_value_at_first_is_not_tried_again(asked, monkeypatch):
    order, fake = asked
    ask = fake.ask
    monkeypatch.setattr(fake, "ask", lambda self, *what: ask(self, *what) if what[1:2] != ("gpu@1",) else None)
    assert "gpu@1" not in run(PLAN).found["smelt"]


def test_a_value_that_is_missing_later_holds_its_place(asked, monkeypatch):
    _, fake = asked
    ask = fake.ask
    monkeypatch.setattr(fake, "ask", lambda self, *what: ask(self, *what) if what[1:] != ("step@1", 2) else None)
    found = run(PLAN).found["smelt"]
    assert found["step@1"] == [1.0, None, 3.0] and paired.medians(found)["step@1"] == 2.0
    assert ratios(found["gpu@1"], found["step@1"]) == [1.0, 1.0]


def test_several_starts_are_of_several_processes(asked):
    order, _ = asked
    found = run(paired.Plan(**{**vars(PLAN), "starts": 3}))
    assert found.found["smelt"]["start"] == [0.25] * 3 and found.found["smelt"]["peak"] == [1.0]
    assert order[:4] == [("mlx-lm", "end"), ("smelt", "end")] * 2


def test_an_answer_that_does_not_come_ends_it_with_what_there_is(asked, monkeypatch, capsys):
    _, fake = asked
    ask = fake.ask

    def late(self, *what):
        if what[1:] == ("decode@8", 2):
            raise paired.Late("smelt did not answer")
        return ask(self, *what)

    monkeypatch.setattr(fake, "ask", late)
    assert run(PLAN).found["smelt"]["decode@8"] == [1.0] and capsys.readouterr().err == "smelt did not answer\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return packed.write(tmp_path_factory.mktemp("tiny"), SHAPES["tiny"])


def test_a_process_answers_until_it_is_ended(tiny):
    with Worker("mlx-lm", tiny, PLAN, until=time.monotonic() + 100) as worker:
        assert worker.start_s > 0 and worker.ask("steps", False) == []
        assert worker.ask("value", "decode@8", 0) > 0 and worker.ask("memory")["rss"] > 10
        assert worker.finish() == []
    assert worker.process.exitcode is not None


def test_a_process_that_fails_is_named(tmp_path, capfd):
    with pytest.raises(SystemExit, match="the process of smelt ended"):
        Worker("smelt", tmp_path / "none", PLAN, until=time.monotonic() + 100)
    assert "Error" in capfd.readouterr().err


def test_an_answer_is_waited_for_as_long_as_there_is_time(tiny, monkeypatch):
    with Worker("mlx-lm", tiny, PLAN, until=0.0) as worker:
        monkeypatch.setattr(paired, "GRACE_S", 0.0)
        with pytest.raises(paired.Late, match="mlx-lm did not answer within 0 s"):
            worker.ask("value", "decode@8", 0)
