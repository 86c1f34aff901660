"""What a launch costs the host: the arithmetic, and on a GPU the whole program."""

import json
import sys

import mlx.core as mx
import pytest
from smelt.bench import launches
from smelt.kernels import launch


def test_costs_are_slopes_over_inputs_and_over_outputs():
    found = {(n, m): 2.0 + 0.5 * (n - 1) + 3.0 * (m - 1) for n, m in launches.CASES}
    assert launches.costs(found) == pytest.approx({"launch": 2.0, "input": 0.5, "output": 3.0})


def test_a_kernels_time_is_its_share_of_a_chains_call_and_submission():
    """Not of what is waited for afterwards; and a slow round does not count."""
    seconds = iter([0.0, 1.9, 10.0, 11.9, 20.0, 29.0])
    assert launches.launch_us(lambda x: x + 1, rounds=3, clock=lambda: next(seconds)) == pytest.approx(1.9e6 / launches.KERNELS)


def test_without_a_gpu_it_says_so(monkeypatch):
    if launch.machine() != "cpu":
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["launches"])
    with pytest.raises(SystemExit, match="GPU"):
        launches.main()


def test_a_gpu_is_timed(monkeypatch, tmp_path, capsys):
    if launch.machine() == "cpu":
        pytest.skip("kernels need a GPU")
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["launches", "--json", str(out)])
    launches.main()
    whole = json.loads(out.read_text())
    assert whole["costs"]["launch"] > 0 and len(whole["cases"]) == len(launches.CASES)
    assert mx.__version__ == whole["machine"]["mlx"] and "inputs" in capsys.readouterr().out
