"""Tuning tables: what is shipped, the user's own, and when that one counts."""

import json
import logging

import pytest
from msl.emulator import Emulator
from smelt.kernels import launch, table

M4 = ("applegpu_g16s", "Apple M4 Max")
OPS = {"op": {"*": {"knobs": {"a": 3}}, "64": {"knobs": {"b": 4}}}}


@pytest.fixture(autouse=True)
def on_an_m4(monkeypatch, tmp_path):
    """With a shipped table for it."""
    known = {
        "applegpu_g16s": {"op": {"*": {"knobs": {"a": 1, "b": 1}}}},
        "Apple M4 Max": {"op": {"64": {"knobs": {"b": 2}, "note": "1.2 us"}}},
    }
    monkeypatch.delenv("SMELT_KERNELS", raising=False)
    monkeypatch.delenv("SMELT_TUNE", raising=False)
    monkeypatch.setattr(launch, "chip", lambda: M4)
    monkeypatch.setattr(table, "SHIPPED", tmp_path / "shipped.json")
    table.SHIPPED.write_text(json.dumps(known))
    launch.use_table(None)
    yield
    monkeypatch.undo()
    launch.use_table(None)


@pytest.fixture
def own(tmp_path):
    path = table.path_in(tmp_path, M4[1])
    table.write(path, table.stamp(M4), OPS)
    return path


def test_knobs_come_from_all_shapes_then_from_one_and_from_this_chip_alone(monkeypatch):
    assert launch.knobs("op", "64", {"a": 0, "b": 0, "c": 0}) == {"a": 1, "b": 2, "c": 0}
    assert launch.knobs("op", "128", {"a": 0, "b": 0}) == {"a": 1, "b": 1}
    assert launch.knobs("another", "64", {"a": 0}) == {"a": 0}
    monkeypatch.setattr(launch, "chip", lambda: ("applegpu_g13", "Apple M1"))
    assert launch.knobs("op", "64", {"a": 0}) == {"a": 0}


def test_the_users_table_wins(own):
    assert own.name == "apple-m4-max.json"
    assert launch.use_table(own).ignored is None
    assert launch.knobs("op", "64", {"a": 0, "b": 0}) == {"a": 3, "b": 4}
    assert launch.chip_table(own=False)["op"]["*"] == {"knobs": {"a": 1, "b": 1}}


@pytest.mark.parametrize("setting, found", [("off", 0), ("shipped", 2), ("", 4)])
def test_knobs_can_be_pinned(own, monkeypatch, setting, found):
    launch.use_table(own)
    monkeypatch.setenv("SMELT_TUNE", setting)
    assert launch.knobs("op", "64", {"b": 0})["b"] == found


def test_a_pin_that_means_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("SMELT_TUNE", "on")
    with pytest.raises(ValueError, match="SMELT_TUNE=on is neither 'off'"):
        launch.knobs("op", "64", {})


def test_knobs_can_be_forced_for_one_op(own):
    launch.use_table(own)
    with launch.forced("op", {"b": 9}):
        assert launch.knobs("op", "64", {"a": 0, "b": 0}) == {"a": 0, "b": 9}
        assert launch.knobs("other", "64", {"b": 0}) == {"b": 0}
    assert launch.knobs("op", "64", {"b": 0})["b"] == 4


def test_what_is_asked_for_is_noted():
    with launch.asking() as asked:
        launch.knobs("op", "64", {"a": 0})
    launch.knobs("op", "128", {})
    assert asked == [("op", "64", {"a": 0})]


@pytest.mark.parametrize(
    "name, other",
    [("mlx", "0.1"), ("system", "macOS 9"), ("kernels", "0" * 16), ("chip", "applegpu_g13 Apple M1")],
)
def test_a_table_of_something_else_is_ignored_and_one_line_says_so(own, caplog, name, other):
    table.write(own, table.stamp(M4) | {name: other}, OPS)
    with caplog.at_level(logging.WARNING):
        assert launch.use_table(own).ops == {}
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(own) in line and f"made for {name} {other}, here it is" in line and "smelt tune" in line
    assert launch.knobs("op", "64", {"b": 0})["b"] == 2


@pytest.mark.parametrize(
    "content", ["{", "[]", '"words"', "{}", '{"for": {}, "ops": []}', '{"for": {}, "ops": {"op": 3}}']
)
def test_a_broken_table_is_ignored_and_one_line_says_so(own, caplog, content):
    own.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert "no tuning table" in launch.use_table(own).ignored
    assert len(caplog.records) == 1 and launch.knobs("op", "64", {"b": 0})["b"] == 2


def test_no_table_is_no_error(tmp_path, caplog):
    assert launch.use_table(tmp_path / "absent.json").ignored is None
    assert not caplog.records


def test_a_chip_can_switch_a_kernel_off(own):
    table.write(own, table.stamp(M4), {"off": {"linear": "wrong by 3% here"}})
    launch.use_table(own)
    with launch.through(Emulator()):
        assert not launch.uses_kernel("linear", ("chip",), None)
        assert launch.uses_kernel("router", ("chip",), None)
    assert "wrong by 3% here" in {way.why for way in launch.report()}


def test_a_table_is_replaced_whole(own):
    table.write(own, table.stamp(M4), {})
    assert [file.name for file in own.parent.iterdir()] == [own.name]
    assert json.loads(own.read_text())["ops"] == {}


@pytest.mark.parametrize("name", ["msl/op.metal", "op_kernel.py", "linear_bytes.py", "coding.py"])
def test_the_hash_follows_the_text_of_a_kernel(tmp_path, monkeypatch, name):
    (tmp_path / "msl").mkdir()
    body = tmp_path / name
    monkeypatch.setattr(table, "HERE", tmp_path)
    hashes = []
    for text in ("one", "two", "one"):
        body.write_text(text)
        table.kernels_hash.cache_clear()
        hashes.append(table.kernels_hash())
    table.kernels_hash.cache_clear()
    assert hashes[0] == hashes[2] != hashes[1]


def test_the_shipped_table_can_be_read(monkeypatch):
    monkeypatch.undo()
    assert table.shipped(("sm_90", "NVIDIA H200")) is not None and table.shipped(("cpu", "cpu")) == {}


def test_knobs_can_be_asked_for_inside_a_check_of_one_kernel():
    with launch.through(Emulator()), launch.only("op") as used:
        assert launch.uses_kernel("op", (), None)
        assert launch.knobs("op", "64", {"b": 0})["b"] == 2
    assert used == {"op"}
