"""The comparison with mlx-lm as a program, on tiny shapes, and the checkpoints that it makes."""

import json
import subprocess
import sys

import mlx.core as mx
import pytest
from smelt import models
from smelt.bench import decode, packed, paired
from smelt.bench.checkpoints import SHAPES, shapes
from smelt.bench.dispatches import dispatches, primitives

TINY = ("tiny", "tiny-gemma", "tiny-moe")
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("name", TINY)
def test_both_engines_read_a_packed_checkpoint_alike(name, tmp_path):
    from mlx_lm.utils import load_model

    folder = packed.write(tmp_path, SHAPES[name], dtype=mx.float32)
    model, (other, _) = models.load(folder), load_model(folder)
    memory = model.memory()
    ours = model.logits(model(mx.array([TOKENS]), memory.step([memory.open()], len(TOKENS))))
    theirs = other(mx.array([TOKENS]))
    assert mx.abs(ours - theirs).max().item() < 1e-3 * mx.abs(theirs).max().item()
    assert 0.1 < ours.std().item() < 3, "weights keep the size of what they multiply"


def test_the_weights_of_layers_differ_although_they_share_bytes(tmp_path):
    packed.write(tmp_path, SHAPES["tiny"])
    weights = mx.load(str(tmp_path / "model.safetensors"))
    first, second = (weights[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(2))
    assert not mx.array_equal(first, second)
    total = sum(array.nbytes for array in weights.values())
    whole = sum(mx.zeros(shape).size for shape in shapes(SHAPES["tiny"]).values())
    assert total == pytest.approx(whole * 4.5 / 8, rel=0.02)
    assert packed.weight_bytes(SHAPES["tiny"]) == pytest.approx(total, rel=0.01)


def test_codes_are_symmetric_around_zero(tmp_path):
    packed.write(tmp_path, SHAPES["tiny"], dtype=mx.float32)
    weights = mx.load(str(tmp_path / "model.safetensors"))
    name = "model.layers.1.self_attn.o_proj"
    parts = (weights[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
    matrix = mx.dequantize(*parts, group_size=64, bits=4)
    assert abs(matrix.mean().item()) < 0.05 * matrix.std().item()
    assert matrix.std().item() == pytest.approx(matrix.shape[1] ** -0.5, rel=0.1)


def test_a_width_that_is_no_whole_groups_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rows of 128, which are no whole groups of 256"):
        packed.write(tmp_path, SHAPES["tiny"], group=256)


def test_views_are_not_dispatches():
    x = mx.random.normal((4, 8))
    mx.eval(x)
    y = (x.T.reshape(4, 8)[1:] * 2.0).sum()
    assert set(primitives([y])) >= {"Transpose", "Slice"}
    assert dispatches([y]) == {"Multiply": 1, "Sum": 1}


def test_the_program_measures_both_engines(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "smelt.bench.decode", "--quick", "--shape", "tiny", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    alone = set(result["medians"]["smelt"]) - set(result["medians"]["mlx-lm"])
    assert {key for key in alone if decode.has_gpu() or not key.startswith("gpu@")} == alone
    assert alone - {"gpu@1", "gpu@2"} == {"step@1", "step@2", "verify@2"}
    for engine in decode.ENGINES:
        assert all(x > 0 for x in result["medians"][engine].values())
    assert decode.table(result) in done.stdout
    assert result["machine"]["mlx-lm"] and result["ways"]


def result(smelt: dict, others: dict | None = None) -> dict:
    values = {"smelt": {key.replace("_", "@"): found for key, found in smelt.items()}}
    if others is not None:
        values["mlx-lm"] = {key.replace("_", "@"): found for key, found in others.items()}
    return {"values": values, "medians": {name: paired.medians(side) for name, side in values.items()}}


def test_a_step_of_rows_is_set_beside_a_step_of_one_of_the_same_turn():
    """The host was slow in the second turn: the ratio of the medians, 3.0 of 2.0, would be 1.5."""
    steps = {"step_1": [2.0, 6.0, 1.0], "step_8": [2.2, 7.2, 3.0], "verify_8": [2.5, 6.0, 1.1]}
    table = decode.table(result({**steps, "decode_512": [90.0]}, {"decode_512": [30.0]}))
    assert "| step@1, ms | 2 | - | - |" in table
    assert "| step@8, ms | 3 | - | 1.20 of step@1 |" in table
    assert "| verify@8, ms | 2.5 | - | 1.10 of step@1 |" in table
    assert "| decode@512, tok/s | 90 | 30 | 3.00 |" in table


def test_engines_are_set_beside_each_other_within_a_turn():
    """Both were slow in the second turn, one of them in the third; from four turns on the middle half is told."""
    ours, theirs = [90.0, 45.0, 80.0], [30.0, 15.0, 20.0]
    assert "| decode@8, tok/s | 80 | 20 | 3.00 |" in decode.table(result({"decode_8": ours}, {"decode_8": theirs}))
    more = decode.table(result({"decode_8": [*ours, 20.0, 60.0]}, {"decode_8": [*theirs, 10.0, 30.0]}))
    assert "| decode@8, tok/s | 60 | 20 | 3.00 (2.00 to 3.00) |" in more


def test_the_devices_time_is_set_beside_its_own_where_a_turn_has_both():
    known = {"gpu_1": [1.0, None, 2.0, 1.0], "gpu_8": [None, 1.3, 2.4, 1.4], "gpu_4": [None] * 4}
    table = decode.table(result(known, {}))
    assert "| gpu@8, ms | 1.4 | - | 1.30 of gpu@1 |" in table and "gpu@4" not in table and "step@1" not in table
    assert "| gpu@8, ms | 1.3 | - | - |" in decode.table(result({"gpu_8": [1.3]}, {}))
    assert "| gpu@8, ms | 1.3 | - | - |" in decode.table(result({"gpu_8": [None, 1.3], "gpu_1": [1.0, None]}, {}))


def test_the_best_values_of_both_stand_beside_the_medians():
    """A machine that does other things too makes values worse, never better."""
    smelt = {"decode_512": [50.0, 90.0, 60.0], "step_1": [3.0, None, 2.0], "peak": [6.0], "start": [1.0]}
    table = decode.table(result(smelt, {"decode_512": [20.0, 30.0, 10.0], "peak": [5.0], "start": [2.0]}))
    assert "| decode@512, tok/s | 60 | 20 | 3.00 | 90 / 30 = 3.00 |" in table
    assert "| step@1, ms | 2.5 | - | - | 2 / - |" in table
    assert "| peak, MiB | 6 | 5 | 1.20 | - |" in table and "| start, s | 1 | 2 | 0.50 | - |" in table


def test_one_engine_alone_has_a_table_too():
    table = decode.table(result({"decode_8": [50.0, 90.0], "step_1": [2.0, 3.0], "step_4": [3.0, 4.5]}))
    assert table.splitlines()[:2] == ["| | smelt | ratio | best values |", "|---|---|---|---|"]
    assert "| decode@8, tok/s | 70 | - | 90 |" in table and "| step@4, ms | 3.75 | 1.50 of step@1 | 3 |" in table


def test_shapes_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(mx, "device_info", lambda: {"memory_size": 8 << 30})
    assert decode.fitting(decode.PUBLISHED) == ["qwen3-4b", "llama-3.2-1b", "gemma-3-4b"]
    monkeypatch.setattr(mx, "device_info", lambda: {"memory_size": 64 << 30})
    assert decode.fitting(decode.PUBLISHED) == decode.PUBLISHED


@pytest.mark.parametrize("engines", [("smelt", "mlx-lm"), ("smelt",), ("mlx-lm",)])
def test_the_plot_shows_the_engines_that_were_measured(tmp_path, engines):
    plots = pytest.importorskip("smelt.bench.plots")
    pytest.importorskip("matplotlib")
    both = {"smelt": {"decode@64": 9.0, "prefill@64": 90.0, "step@1": 1.0}, "mlx-lm": {"decode@64": 3.0}}
    medians = {engine: both[engine] for engine in engines}
    plots.decode_plot([{"shape": "tiny", "medians": medians}], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
