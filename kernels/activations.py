"""Elementwise blocks, each one fused kernel by mx.compile. All shapes are free; outputs have the inputs' dtype.

    gelu_tanh(x)       0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))     Hendrycks & Gimpel 2016, the tanh form
    gelu(x)            x (1 + erf(x / sqrt 2)) / 2
    silu(x)            x sigmoid(x)
    relu2(x)           max(x, 0)^2                                         So et al. 2021 (Primer)
    swiglu, geglu      act(gate) * up                                      Shazeer 2020
    sigmoid_gated(x, g) x sigmoid(g)
    soft_cap(x, c)     c tanh(x / c)                                       Gemma 2 report, 2024
"""

import functools
import math
import platform
import shutil
import threading
from collections.abc import Callable

import mlx.core as mx


@functools.cache
def can_compile() -> bool:
    """mx.compile on the CPU calls the system's C++ compiler; without one the blocks run op by op."""
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    return on_gpu or platform.system() == "Darwin" or shutil.which("g++") is not None


def compiled(fun: Callable) -> Callable:
    """`mx.compile(fun)`, made on a thread's first call.

    One a thread: MLX keeps traces by thread, and one that outlives its Python thread aborts the process at exit.
    """
    own = threading.local()

    @functools.wraps(fun)
    def call(*args):
        if not hasattr(own, "fused"):
            own.fused = mx.compile(fun, shapeless=True) if can_compile() else fun
        return own.fused(*args)

    return call


def _gelu_tanh(x):
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def _gelu(x):
    return x * (1 + mx.erf(x / math.sqrt(2))) / 2


def _silu(x):
    return x * mx.sigmoid(x)


def _relu2(x):
    positive = mx.maximum(x, 0)
    return positive * positive


def _soft_cap(x, cap):
    return cap * mx.tanh(x / cap)


gelu_tanh = compiled(_gelu_tanh)
gelu = compiled(_gelu)
silu = compiled(_silu)
relu2 = compiled(_relu2)
swiglu = compiled(lambda gate, up: _silu(gate) * up)
geglu = compiled(lambda gate, up: _gelu_tanh(gate) * up)
sigmoid_gated = compiled(lambda x, gate: x * mx.sigmoid(gate))
geglu_erf = compiled(lambda gate, up: _gelu(gate) * up)


def soft_cap(x: mx.array, cap: float) -> mx.array:
    return _soft_cap_fused(x, mx.array(cap, x.dtype))


_soft_cap_fused = compiled(_soft_cap)

ACT = {"relu2": relu2, "gelu_tanh": gelu_tanh, "gelu": gelu, "silu": silu}
GLU = {"silu": swiglu, "gelu_tanh": geglu, "gelu": geglu_erf}
