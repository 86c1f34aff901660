"""The kernel bench as a program, and what it says of bytes."""

import json
import os
import subprocess
import sys

import mlx.core as mx
import pytest
from cuda_fake import Driver
from smelt.bench import kernels, kernels_cuda
from smelt.kernels.linear import pack
from smelt.kernels.tuning import Call
from smelt.kernels.tuning_spaces import SPACES

BY_OP = {space.op: space for space in SPACES}


def run(*words, timeout=240):
    command = [sys.executable, "-m", "smelt.bench.kernels", *words]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # else it times nothing
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=alone)


def test_each_op_is_timed_with_its_bytes_and_its_share_of_a_copy(tmp_path):
    out = tmp_path / "out.json"
    done = run("--shape", "tiny-gemma", "-k", "row and not rows", f"--benchmark-json={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [b["extra_info"] for b in json.loads(out.read_text())["benchmarks"]]
    assert {info["op"] for info in found} == {"embed", "linear", "self_attention", "add_norm", "sample"}
    assert {info["way"] for info in found} == {"plain"}
    for info in found:
        assert info["us"] > 0 and info["gbps"] == pytest.approx(info["bytes"] / info["us"] / 1e3)
        assert info["of_copy"] == pytest.approx(info["gbps"] / info["copy_gbps"])
    windows = {info["case"] for info in found if info["op"] == "self_attention"}
    assert len(windows) == 2 and any("window 32" in case for case in windows), "a sliding layer and one that is not"
    assert "| shape | op | case |" in done.stdout


def test_an_unknown_shape_is_refused():
    done = run("--shape", "gpt-9")
    assert done.returncode == 2 and "'gpt-9' is none of tiny" in done.stderr


def test_a_copys_bandwidth_counts_what_is_read_and_written(monkeypatch):
    driver = Driver(cost=lambda name, template: 2.0).install(monkeypatch)
    assert kernels_cuda.copy_gbps(megabytes=1) == pytest.approx(2 * 2**20 / 2e3)
    (launched, *_), covered = driver.captured[0], 64  # bytes of a thread
    assert launched.groups[0] * launched.threads * covered == 2**20 and len(set(launched.pointers)) == 2


def test_on_cuda_a_kernels_launches_are_timed_by_themselves(monkeypatch):
    Driver(cost=lambda name, template: 3.0).install(monkeypatch)
    call = Call((mx.ones((1, 128)), pack(mx.ones((256, 128))), None, None, None, None), {})
    assert kernels.device_us(BY_OP["linear"], call) == pytest.approx(3.0)


def test_the_bandwidth_is_of_what_the_device_took():
    ways = {
        "plain": {"us": 20.0, "gbps": 1.0, "of_copy": 0.1, "device_us": None},
        "kernel": {"us": 10.0, "gbps": 4.0, "of_copy": 0.5, "device_us": 2.5},
    }
    assert kernels.row(("s", "o", "c"), ways) == "| s | o | c | 10.00 | 20.00 | 2.00 | 2.50 | 4 | 50% |"


def test_bytes_are_what_a_call_reads():
    weight = pack(mx.ones((256, 128)))
    linear = Call((mx.ones((1, 128)), weight, None, None, None, None), {})
    assert BY_OP["linear"].reads(linear) == 256 * 128 // 2 + 2 * 4 * 256 * 128 // 64
    looked_up = Call((mx.array([[1, 2]]), weight, None), {})
    assert BY_OP["embed"].reads(looked_up) == BY_OP["linear"].reads(linear) * 2 // 256


def test_attention_reads_the_positions_that_are_seen():
    (space, call), *_ = [(s, c) for s, c in kernels.cases("tiny") if s.op == "self_attention"]
    qkv, _, pages, rows, *_ = call.args
    positions = rows.spans[0].end
    assert qkv.shape[0] == 1 and space.reads(call) == positions * 2 * pages.kv_heads * pages.head_dim * 2
    assert space.title(call).endswith(f"1 row of {positions}")
