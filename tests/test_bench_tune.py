"""Shapes tuned against default by the bench, and what goes into the shipped table."""

import json
import os
import sys

import pytest
from msl.emulator import RUNS_HERE
from smelt.bench import tune as bench
from smelt.engine import tune
from smelt.kernels import launch, search, table
from test_tune import Device, best_at


def result(op, key, knobs, us):
    return search.Found(op, key, knobs, us, 10.0, 3, 3)


def test_what_is_better_goes_into_the_shipped_table(tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({"Chip": {"op": {"a": {"knobs": {"x": 1}}, "b": {"knobs": {"x": 1}}}}, "Other": {}}))
    found = [result("op", "a", {"x": 2}, 5.0), result("op", "b", None, 10.0), result("p", "*", {}, 9.0)]
    bench.ship(path, "Chip", found)
    found = json.loads(path.read_text())
    assert found["Chip"]["op"]["a"]["knobs"] == {"x": 2} and found["Chip"]["op"]["b"]["knobs"] == {"x": 1}
    assert set(found) == {"Chip", "Other"} and "p" in found["Chip"] and "5.00 us" in found["Chip"]["op"]["a"]["note"]


def test_the_table_sets_tuned_beside_default():
    text = bench.markdown({"tiny": [result("op", "a", {"x": 2}, 5.0), result("op", "b", None, 10.0)]})
    assert "| tiny | op | a | 10.00 | 5.00 | 2.00 | x=2 |" in text and "| the default |" in text


def test_few_layers_are_enough_for_all_kinds_of_them():
    assert bench.few_layers(bench.SHAPES["qwen3-4b"])["num_hidden_layers"] == 1
    assert bench.few_layers(bench.SHAPES["gemma-3-4b"])["num_hidden_layers"] == 6


@pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")
def test_the_program(tmp_path, monkeypatch, capsys):
    device, out = Device(best_at(simds=1)), tmp_path / "out.json"
    monkeypatch.setitem(os.environ, "SMELT_HOME", str(tmp_path))
    monkeypatch.setitem(os.environ, "SMELT_TUNE", "")
    monkeypatch.setitem(os.environ, "SMELT_KERNELS", "-self_attention")
    monkeypatch.setattr(bench, "tuning_timer", lambda rounds: device.timer)
    monkeypatch.setattr(tune, "ROWS", (1,))
    monkeypatch.setattr(tune, "CONTEXT", 12)
    monkeypatch.setattr(table, "SHIPPED", tmp_path / "tuning.json")
    table.SHIPPED.write_text("{}")
    words = ["--shape", "tiny", "--op", "qk_norm_rope", "--json", str(out), "--ship"]
    monkeypatch.setattr(sys, "argv", ["tune", *words])
    with launch.through(device):
        assert bench.main() == 0
    assert "simds=1" in capsys.readouterr().out
    assert json.loads(out.read_text())["shapes"]["tiny"][0]["knobs"] == {"simds": 1}
    assert json.loads(table.SHIPPED.read_text())["cpu"]["qk_norm_rope"]["*"]["knobs"] == {"simds": 1}
    assert bench.main() == 1 and "MLX computes on the CPU here" in capsys.readouterr().err
