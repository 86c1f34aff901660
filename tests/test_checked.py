"""A second start of the same model does not check again; any other does."""

import json

import checkpoints
import pytest
from msl.emulator import Emulator
from smelt import models
from smelt.engine import checked, selfcheck
from smelt.engine.step import TracedStep
from smelt.kernels import launch, table


@pytest.fixture(autouse=True)
def clean():
    yield
    launch.turn_on_again()
    TracedStep.off = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    return checkpoints.make(tmp_path_factory.mktemp("model"), "llama", quantization=spec, num_hidden_layers=1)


@pytest.fixture
def start(folder, tmp_path, monkeypatch):
    """Start with a check that finds one kernel wrong; how many checks there have been."""
    calls = []

    def check(model, between):
        calls.append(1)
        launch.turn_off("linear", "it is wrong")

    monkeypatch.setattr(selfcheck, "check", check)
    model = models.load(folder)

    def run():
        launch.turn_on_again()
        with launch.through(Emulator()):
            checked.check(model, folder, tmp_path)
            return len(calls), launch.unavailable("linear")

    run.file = checked.file_of(folder, tmp_path)
    return run


def test_what_was_found_is_taken_over(start):
    assert start() == (1, "it is wrong")
    assert start() == (1, "it is wrong")


def test_other_kernels_are_checked_again(start, monkeypatch):
    start()
    monkeypatch.setattr(table, "kernels_hash", lambda: "another text")
    assert start()[0] == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"for": {}, "off": {}, "untraced": null}', '{"off": 3}'])
def test_what_cannot_be_understood_is_found_again(start, content):
    start()
    start.file.write_text(content)
    assert start()[0] == 2
    assert json.loads(start.file.read_text())["off"] == {"linear": "it is wrong"}


def test_where_nothing_can_be_kept_each_start_checks(start):
    start.file.parent.write_text("a file where a folder should be")
    assert start() == (1, "it is wrong")
    assert start() == (2, "it is wrong")


def test_on_a_cpu_nothing_is_checked_or_kept(start, folder, tmp_path):
    checked.check(None, folder, tmp_path)
    assert not start.file.exists()


def test_an_untraced_step_stays_untraced(start, monkeypatch):
    monkeypatch.setattr(selfcheck, "check", lambda model, between: setattr(TracedStep, "off", "it draws other tokens"))
    start()
    TracedStep.off = None
    start()
    assert TracedStep.off == "it draws other tokens"
