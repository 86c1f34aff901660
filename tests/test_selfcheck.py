"""A kernel that is wrong or raises on this chip is switched off by name, the others stay on."""

import checkpoints
import mlx.core as mx
import pytest
from msl.emulator import Emulator
from smelt import models
from smelt.engine import selfcheck
from smelt.engine.step import TracedStep
from smelt.kernels import launch


@pytest.fixture(autouse=True)
def clean():
    yield
    launch.turn_on_again()
    TracedStep.off = None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    return models.load(checkpoints.make(folder, "qwen3", quantization=spec, num_hidden_layers=2))


def broken(name, how):
    """The emulator, with one kernel that does wrong."""
    emulator = Emulator()

    def run(kernel, inputs, outputs, template, groups, threads):
        if kernel.name.startswith(name) and how == "raises":
            raise RuntimeError("no such instruction")
        made = emulator(kernel, inputs, outputs, template, groups, threads)
        return [mx.flip(made[0], -1), *made[1:]] if kernel.name.startswith(name) else made

    return run


def test_working_kernels_stay_on(model):
    with launch.through(Emulator()):
        selfcheck.check(model)
        assert [launch.unavailable(op) for op in selfcheck.OPS] == [None] * len(selfcheck.OPS)


@pytest.mark.parametrize("op", selfcheck.OPS)
@pytest.mark.parametrize("how, words", [("raises", "no such instruction"), ("is wrong", "away")])
def test_a_broken_kernel_is_switched_off_alone(model, op, how, words):
    with launch.through(broken(op, how)):
        selfcheck.check(model)
        found = {other: launch.unavailable(other) for other in selfcheck.OPS}
    assert words in found.pop(op) and set(found.values()) == {None}


def test_a_trace_that_fails_is_not_used(model, monkeypatch):
    def traced(*args):
        raise ValueError("cannot trace this")

    monkeypatch.setattr(launch, "machine", lambda: "cuda")
    monkeypatch.setenv("SMELT_KERNELS", "reference")
    monkeypatch.setattr(TracedStep, "traced", staticmethod(traced))
    selfcheck.check_trace(model)
    assert "cannot trace this" in TracedStep.off
    assert not TracedStep(model, model.memory()).worthwhile


def test_on_a_cpu_there_is_nothing_to_check(model, monkeypatch):
    monkeypatch.setattr(selfcheck, "logits", lambda model: pytest.fail("computed"))
    selfcheck.check(model)
