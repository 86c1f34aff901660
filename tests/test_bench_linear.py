"""The bench of linear, on a driver that only counts."""

import mlx.core as mx
import pytest
from cuda_fake import Driver
from smelt.bench import bench_linear as bench
from smelt.kernels import launch, linear_kernel


@pytest.fixture
def on_cuda(monkeypatch):
    """As if MLX computed on a large NVIDIA GPU: what is launched is caught, not run."""
    for name, value in {"chip": ("sm_90", "NVIDIA H200"), "machine": "cuda", "cores": 132, "core_memory": 228}.items():
        monkeypatch.setattr(launch, name, lambda value=value: value)
    monkeypatch.setattr(launch, "knobs", lambda op, key, default: default)


def cases():
    shapes = {
        "qkv": bench.Shape("m qkv", 128, 192, norm=True),
        "o": bench.Shape("m o", 128, 128, residual=True),
        "gate_up": bench.Shape("m gate_up", 128, 512, norm=True, glu="silu"),
        "down": bench.Shape("m down", 256, 128, residual=True),
    }
    return {name: bench.Case(shape, mx.bfloat16, 4, 64, megabytes=0) for name, shape in shapes.items()}


def test_each_product_of_a_layer_reads_what_the_one_before_wrote(monkeypatch, on_cuda):
    driver = Driver(cost=lambda name, template: 2.0 if template["RESIDUAL"] else 3.0).install(monkeypatch)
    assert bench.layer_us(cases(), 4) == pytest.approx(2 * 2.0 + 2 * 3.0)
    qkv, o, gate_up, down, qkv_again = driver.captured[0][:5]
    x, residual, y = 0, 5, -1
    assert o.pointers[residual] == qkv.pointers[x], "o adds to the stream that qkv reads"
    assert gate_up.pointers[x] == o.pointers[y] == down.pointers[residual]
    assert down.pointers[x] == gate_up.pointers[y] and down.pointers[y] == qkv_again.pointers[x]
    assert qkv_again.pointers[1] != qkv.pointers[1], "another copy of the matrix, so that it is in no cache"


def test_products_of_threadgroups_that_share_k_have_empty_places(monkeypatch, on_cuda):
    driver = Driver(cost=lambda name, template: 2.0 if template["TOGETHER"] == 2 else 3.0).install(monkeypatch)
    of_layer = cases() | {"down": bench.Case(bench.Shape("m down", 9728, 128, residual=True), mx.bfloat16, 4, 64, megabytes=0)}
    assert bench.time_rows(of_layer["down"], None, [1, 8]) == pytest.approx({1: 2.0, 8: 2.0})
    mail, after, y = driver.captured[0][0].pointers[-3:]
    assert driver.bytes_at(mail) == (4 << 20) * b"\xff" and y != after != mail
    of_layer["gate_up"] = bench.Case(bench.Shape("m gate_up", 128, 2 * 9728, norm=True, glu="silu"), mx.bfloat16, 4, 64, megabytes=0)
    assert bench.layer_us(of_layer, 8) == pytest.approx(2.0 + 3 * 3.0)


def test_a_sweep_tries_several_threadgroups_together(on_cuda):
    case = bench.Case(bench.Shape("m", 9728, 2560, residual=True), mx.bfloat16, 4, 64, megabytes=0)
    found = bench.candidates(case, "bytes")
    assert {k["together"] for k in found} == {2, 4} and any(k["together"] == 2 and 33 <= k["outs"] <= 48 for k in found)


@pytest.mark.parametrize("kernel", ["bytes", "tiles", "lanes"])
def test_candidates_of_a_sweep_are_possible_and_launched_as_they_are(on_cuda, kernel):
    case = bench.Case(bench.Shape("m", 2560, 6144, norm=True), mx.bfloat16, 4, 64, megabytes=0)
    found = bench.candidates(case, kernel)
    assert found and all(not linear_kernel.impossible(k, 4, 64, 2560, False, mx.bfloat16) for k in found)
    for knobs in found[:: len(found) // 5 + 1]:
        launched, *_, template, groups, threads = bench.variant(case, knobs, 8)
        assert launched is linear_kernel.KERNELS[kernel] and threads == 32 * knobs["simds"]
        assert {name: template[name.upper()] for name in knobs if name not in ("kernel", "depth")}.items() <= knobs.items()
