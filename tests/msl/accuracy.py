"""When a kernel is accurate enough, and where it runs in tests."""

from contextlib import nullcontext

import mlx.core as mx
import numpy as np
from smelt.kernels import launch

from msl.emulator import Emulator

ROUNDING = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}  # of one number, relative


def kernels_run(order: str = "forward"):
    """Inside, ops launch their kernels: on this machine's GPU, or else on the emulator."""
    return through_emulator(Emulator(order)) if launch.machine() == "cpu" else nullcontext()


def through_emulator(emulator: Emulator):
    return launch.through(emulator)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


def assert_accurate(got: mx.array, plain: mx.array, truth: np.ndarray) -> None:
    """Error against float64 at most twice that of the plain ops in the same type, plus the result's rounding."""
    assert got.dtype == plain.dtype and got.shape == plain.shape == truth.shape
    ours, theirs = wide(got) - truth, wide(plain) - truth
    rounding = ROUNDING[got.dtype] * (8 if truth.size < 32 else 1)  # of few numbers, the plain ones are right by luck
    for measure, what in ((np.linalg.norm, "norm of the error"), (lambda e: np.abs(e).max(), "largest error")):
        bound = 2 * measure(theirs) + rounding * max(measure(truth), 1.0 if truth.size < 32 else 0.0)
        assert measure(ours) <= bound, f"{what} {measure(ours):.3g}, plain {measure(theirs):.3g}, allowed {bound:.3g}"
