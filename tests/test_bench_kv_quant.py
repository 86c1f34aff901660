"""The bench of the quantised KV cache as a program, and what it says of bytes and errors."""

import json
import sys

import pytest
from smelt.bench import kv_quant
from smelt.models import source


def test_bytes_errors_and_times_of_every_mode(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["kv_quant", "--quick", "--contexts", "20", "--json", str(out)])
    kv_quant.main()
    said = json.loads(out.read_text())["modes"]
    plain = 2 * 2 * 2 * 64 * 2  # keys and values, layers, heads, their elements and bytes
    bits = {"off": 16, "4": 4.5, "8": 8.5, "turbo2": 2.5, "turbo4": 4.5}  # with a scale and a bias of 64 elements
    assert {mode: found["bytes"] for mode, found in said.items()} == {m: plain * b / 16 for m, b in bits.items()}
    assert all([s["rows"] for s in found["steps"]] == [1, 2] for found in said.values())
    assert all(step["ms"] > 0 for found in said.values() for step in found["steps"])
    assert said["off"]["kl"] == pytest.approx(0, abs=1e-6) and said["off"]["top"] == 1
    assert said["8"]["kl"] < said["turbo4"]["kl"] < said["turbo2"]["kl"]
    assert "| turbo4 | 288 | 0.281 |" in capsys.readouterr().out


def test_errors_of_one_mode_do_not_depend_on_those_before():
    folder, text = source.locate(None), "What is 23 + 45? 23 + 45 = 68. " * 3
    alone = kv_quant.errors(folder, text, ["4"], 40)
    after = kv_quant.errors(folder, text, ["turbo2", "off", "4"], 40)
    assert after["4"] == alone["4"] and after["off"]["kl"] == 0
