"""What a process measures of its engine, by name."""

from types import SimpleNamespace

import pytest
from smelt.bench import device_step, engines, packed
from smelt.bench.checkpoints import SHAPES
from smelt.bench.measures import Measures, Plan

PLAN = Plan(contexts=[8], rows=[1, 4, 16], prefill=[], tokens=4)


class Engine:
    """A step of more than 4 rows cannot be queued."""

    vocab, widest, batches = 100, 9, True

    def step_s(self, prompts, steps):
        assert len({tuple(prompt) for prompt in prompts}) == len(prompts) and steps == 2
        return 0.001 * len(prompts)

    def verify_s(self, prompt, width, steps):
        return 0.01 * width

    def device_step_s(self, prompts):
        return 0.0005 * len(prompts) if len(prompts) <= 4 else None

    def marks(self, prompt, tokens):
        self.read = prompt
        return [0.5 * i for i in range(tokens)]

    def dispatches(self, prompt):
        return SimpleNamespace(total=lambda: len(prompt))


def test_values_by_name_in_milliseconds_and_tokens_a_second(capsys):
    measures = Measures(Engine(), PLAN)
    keys = ["step@4", "verify@4", "gpu@4", "gpu@16", "decode@8"]
    assert [measures.value(key, 2) for key in keys] == [4.0, 40.0, 2.0, None, 2.0]
    assert capsys.readouterr().err.startswith("gpu@16 of turn 2 is left out")
    assert measures.dispatches() == 8


def test_prompts_differ_by_salt():
    engine = Engine()
    measures, read = Measures(engine, PLAN), []
    for salt in (0, 0, 1):
        measures.decode(8, salt)
        read.append(engine.read)
    assert read[0] == read[1] != read[2] and len(read[0]) == 8


def test_steps_that_an_engine_can_do():
    assert Measures(Engine(), PLAN).steps(True) == [
        "step@1", "step@4", "step@16", "verify@4", "gpu@1", "gpu@4", "gpu@16"
    ]  # fmt: skip
    assert Measures(Engine(), PLAN).steps(False) == ["step@1", "step@4", "step@16", "verify@4"]
    alone = SimpleNamespace(batches=True, widest=1)
    assert Measures(alone, PLAN).steps(False) == ["step@1", "step@4", "step@16"]
    assert Measures(SimpleNamespace(batches=False), PLAN).steps(True) == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return packed.write(tmp_path_factory.mktemp("tiny"), SHAPES["tiny"])


def test_of_smelt_every_value_can_be_had(tiny, monkeypatch):
    """As on a GPU; here the device's own time cannot be told, which costs no other value."""
    monkeypatch.setattr(device_step, "ATTEMPTS", 1)
    measures = Measures(engines.Smelt(tiny), Plan(contexts=[32], rows=[1, 2], prefill=[], tokens=8))
    measures.first_token()
    keys = ["decode@32", "prefill@64", *measures.steps(True)]
    assert keys[2:] == ["step@1", "step@2", "verify@2", "gpu@1", "gpu@2"]
    values = {key: measures.value(key, 1) for key in keys}
    assert all(values[key] is not None for key in keys if not key.startswith("gpu@"))
    assert all(value > 0 for value in values.values() if value is not None)
    memory = measures.memory()
    assert 0 < memory["peak"] and 10 < memory["rss"] < 2**20
