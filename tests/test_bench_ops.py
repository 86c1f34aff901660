"""The benchmarks of single ops, with small shapes on whatever computes here."""

import json

import pytest
from smelt.bench import bench_experts, bench_recurrent, chain
from smelt.kernels import launch

SHAPE = bench_experts.Shape("small", 64, 32, 6, 2)
DELTA, MAMBA = bench_recurrent.Delta("delta", 1, 2, 32, 16), bench_recurrent.Mamba("mamba", 2, 16, 1, 32)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (bench_experts, bench_recurrent):
        monkeypatch.setattr(module, "needs_a_gpu", lambda: None)
    monkeypatch.setattr(chain, "copy_gbps", lambda: 10.0)
    monkeypatch.setattr(bench_experts, "CALLS", 4)
    monkeypatch.setattr(bench_experts, "SHAPES", [SHAPE, bench_experts.Shape("other", 64, 64, 4, 1, "sigmoid", None)])
    monkeypatch.setattr(bench_recurrent, "Delta", lambda: DELTA)
    monkeypatch.setattr(bench_recurrent, "Mamba", lambda: MAMBA)
    monkeypatch.setattr(bench_recurrent, "ROTATED", 1)
    monkeypatch.setattr(bench_recurrent, "count_of", lambda prompt: 2)


def run(monkeypatch, main, *words):
    monkeypatch.setattr("sys.argv", ["bench", *map(str, words)])
    main()


def test_experts(monkeypatch, tmp_path, capsys):
    run(monkeypatch, bench_experts.main, "--rows", 1, 2, "--group", 32, "--out", tmp_path / "out.json")
    kept = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [r["name"].split(":")[0] for r in kept] == [f"{n}, {r} rows" for n in ("small", "other") for r in (1, 1, 2, 2)]
    assert all(r["kernel_us"] > 0 and r["error"] < 1e-6 for r in kept)
    assert "WRONG" not in capsys.readouterr().out


def test_bytes_are_those_of_different_experts():
    case = bench_experts.Case(SHAPE, 4, 32)
    whole = sum(a.nbytes for a in (*case.up.arrays, *case.down.arrays))
    assert case.bytes(1) == round(whole * 2 / 6) and case.bytes(1) < case.bytes(8) <= whole


def test_candidates_of_the_sweep_can_be_launched_and_differ():
    case = bench_experts.Case(bench_experts.Shape("medium", 256, 128, 4, 2), 4, 64)
    for op in ("experts", "experts_down"):
        found = bench_experts.candidates(op, case)
        assert len(found) > 20 and len({str(k) for k in found}) == len(found)
    launches = bench_experts.Device(case, 2).launches()
    assert {name: len(calls) for name, calls in launches.items()} == {"experts": 4, "experts_down": 4}


def test_recurrent(monkeypatch, tmp_path, capsys):
    run(monkeypatch, bench_recurrent.main, "--tokens", 20, "--only", "step", "--out", tmp_path / "out.json")
    run(monkeypatch, bench_recurrent.main, "--tokens", 20, "--only", "prompt")
    out = capsys.readouterr().out
    assert "delta, 1x20: gated_delta" in out and "mamba, 8x1: mamba2" in out and "WRONG" not in out


def test_a_kernel_that_is_wrong_is_said():
    assert "WRONG: 0.5" in chain.Result("x", 1.0, 2.0, 1000, 0.5).line(10.0)
    assert "2.00       1    10%" in chain.Result("x", 1.0, 2.0, 1000, 0.0).line(10.0)


@pytest.mark.skipif(launch.machine() != "cpu", reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="needs an Apple or NVIDIA GPU"):
        chain.needs_a_gpu()
