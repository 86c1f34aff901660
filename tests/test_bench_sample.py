"""bench_sample's cases draw by the kernels what plain ops draw; its table and its refusal without a GPU."""

import mlx.core as mx
import numpy as np
import pytest
from cuda_fake import Driver
from msl.accuracy import kernels_run
from smelt.bench import bench_sample as bench
from smelt.kernels import launch


@pytest.mark.parametrize("case", bench.CASES, ids=lambda case: case.name)
def test_every_case_draws_the_same(case):
    problem = case.problem(2000, 2)
    with kernels_run():
        assert problem.differing() == 0
        launched = [kernel.name for kernel, *_ in problem.launches]
    assert launched == ["sample", "sample_merge"]
    assert problem.bytes == 2 * 2000 * (10 if "penalties" in case.name else 2)


def test_a_chain_is_of_dependent_draws():
    """Each reads the logits after the draw before it: none of them can be left out or done once for all."""
    drawn = []
    us = bench.chain_us(lambda x: drawn.append(1) or [x.sum()], mx.ones((2, 2)), 5, rounds=3)
    assert us > 0 and len(drawn) == 5


def test_the_device_launches_both_passes_with_the_results_of_the_first(monkeypatch):
    driver = Driver(cost=lambda name, template: 2.0).install(monkeypatch)
    with kernels_run():
        assert bench.device_us(bench.CASES[0].problem(2000, 2), launches=3) == pytest.approx(4.0)
    first, second = driver.captured[0][:2]
    assert len(driver.captured[0]) == 6 and second.pointers[0] == first.pointers[-1]
    assert not driver.buffers


def test_the_sweep_sorts_and_leaves_the_knobs_as_they_were(monkeypatch):
    times = iter(np.random.default_rng(0).permutation(12))
    monkeypatch.setattr(bench, "chain_us", lambda *args: float(next(times)))
    before = bench.sample_kernel.default_knobs
    found = bench.sweep(bench.CASES[0].problem(100, 1))
    assert [each["us"] for each in found] == sorted(range(12)) and bench.sample_kernel.default_knobs is before


def test_the_table_says_what_the_device_reaches():
    result = {"case": "greedy", "vocab": 1000, "rows": 1, "bytes": 2_000_000, "differing": 0}
    result |= {"kernel_us": 10.0, "plain_us": 40.0}
    columns = bench.line(result, 1000.0).split()
    assert columns == ["greedy", "1000", "1", "10.0", "40.0", "4.0", "200", "20%"]
    with_device = bench.line({**result, "device_us": 5.0, "differing": 1}, 1000.0).split()
    assert with_device[6:] == ["5.0", "400", "40%", "1", "rows", "differ"]


@pytest.mark.skipif(launch.machine() != "cpu", reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench_sample"])
    with pytest.raises(SystemExit, match="where there is a GPU"):
        bench.main()
