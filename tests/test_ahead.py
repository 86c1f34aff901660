"""What a model's steps will launch is known before it is launched, and compiled once."""

import threading

import checkpoints
import pytest
from msl.emulator import Emulator
from smelt import models
from smelt.engine import selfcheck
from smelt.kernels import ahead, cuda, launch


@pytest.fixture
def model(tmp_path):
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    return models.load(checkpoints.make(tmp_path, "qwen3", quantization=spec, num_hidden_layers=2))


def key(kernel, inputs, outputs, template, threads, same):
    types = tuple(map(str, inputs)), tuple(map(str, outputs))
    return (kernel.name, *types, tuple(map(str, template.items())), threads, same)


def test_what_is_noted_is_what_is_launched(model):
    with ahead.noted() as variants:
        selfcheck.planned(model)
    emulator = Emulator()
    with launch.through(emulator):
        model.forget()
        selfcheck.logits(model)
    launched = {
        key(kernel, [x.dtype for x in inputs], [t for _, t in outputs], template, threads, cuda.alike(kernel, inputs))
        for kernel, inputs, outputs, template, _, threads in emulator.launches
    }
    assert {key(*variant) for variant in variants} == launched


def test_each_variant_is_compiled_once_and_a_failure_waits_for_its_launch(model, monkeypatch):
    with ahead.noted() as variants:
        selfcheck.planned(model)
    built, lock = [], threading.Lock()

    def build(kernel, *rest):
        with lock:
            built.append((kernel.name, repr(rest)))
        raise RuntimeError("NVRTC refused a kernel")

    monkeypatch.setattr(cuda, "build", build)
    ahead.compile_all(variants)
    assert len(built) == len(set(built)) < len(variants)


def test_on_cuda_the_check_compiles_for_one_stream_then_for_more(model, monkeypatch):
    compiled, later = [], []
    monkeypatch.setattr(launch, "machine", lambda: "cuda")
    monkeypatch.setattr(launch, "chip", lambda: ("sm_90", "test"))
    monkeypatch.setattr(launch, "cores", lambda: 4)
    monkeypatch.setattr(ahead, "compile_all", compiled.extend)
    monkeypatch.setattr(ahead, "compile_behind", later.extend)
    selfcheck.compile_ahead(model)
    rows = lambda variants: {v[3]["M"] for v in variants if v[0].name.startswith("linear")}  # noqa: E731
    assert rows(compiled) == {1, 8} and rows(later) >= {2, 3, 4, 5, 6, 7, 8}


def test_what_is_compiled_behind_can_be_waited_for(monkeypatch):
    gate, done = threading.Event(), []
    monkeypatch.setattr(ahead, "compile_all", lambda variants, workers: gate.wait(60) and done.extend(variants))
    ahead.compile_behind(["one"])
    ahead.compile_behind(["two"])
    assert not done
    gate.set()
    ahead.wait()
    assert sorted(done) == ["one", "two"]
