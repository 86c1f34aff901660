"""Dispatches of a decode step as a GPU would have them, counted on any machine.

Kernels and MLX's fast ops stand for themselves as one primitive each, whatever they are made of on this machine; the
graph is built, never evaluated. The rules of dispatches.py hold otherwise. Widths do not matter, so they are small.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx

from . import packed
from .checkpoints import SHAPES
from .dispatches import dispatches

SMALL = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 64, "vocab_size": 512}
FAST = ("rms_norm", "layer_norm", "rope", "scaled_dot_product_attention")


def one(x: mx.array, *after: mx.array) -> mx.array:
    """A single primitive, which nothing fuses with, of x's shape and type."""
    return mx.sort(mx.depends([x], list(after))[0] if after else x, axis=-1)


def launched(kernel, inputs, outputs, template, groups, threads) -> list[mx.array]:
    """One primitive, with all outputs, that waits for all inputs."""
    made = [mx.zeros(shape, dtype) for shape, dtype in outputs]
    mx.eval(made)
    first = one(made[0], *inputs)
    return [first, *(mx.depends([other], [first])[0] for other in made[1:])]


def dequantized(w, scales, biases=None, group_size=64, bits=4, **kwargs) -> mx.array:
    """One primitive on a GPU, a dozen on a CPU."""
    made = mx.zeros((*w.shape[:-1], w.shape[-1] * 32 // bits), scales.dtype)
    mx.eval(made)
    return one(made, w, scales)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    from ..kernels import launch

    patches = [(mx.fast, name, lambda x, *args, **kwargs: one(x)) for name in FAST]
    patches += [(mx, "dequantize", dequantized), (mx, "default_device", lambda: mx.Device(mx.gpu))]
    patches += [(mx.metal, "is_available", lambda: True)]  # a Mac, which need not copy what the host writes
    real = [(module, name, getattr(module, name)) for module, name, _ in patches]
    try:
        for patch in patches:
            setattr(*patch)
        with launch.through(launched):
            yield
    finally:
        for patch in real:
            setattr(*patch)


def small(shape: str) -> dict:
    """The shape's layers and heads, in a model that is made at once."""
    config = dict(SHAPES[shape])
    return config | {name: size for name, size in SMALL.items() if name in config}


def of_smelt(folder: Path, context: int) -> int:
    """The traced step of one greedy stream that stands at `context`."""
    from .. import models
    from ..engine.request import Sampling
    from ..engine.sampler import Sampler
    from ..engine.scheduler import Limits, Scheduler
    from ..engine.sequence import Sequence

    model = models.load(folder)
    with as_on_a_gpu():
        scheduler = Scheduler(model, Limits(rows=1))
        sequence = Sequence([0], Sampling(temperature=0.0), 0, 8, frozenset(), lambda item: None)
        row = scheduler.memory.open(context + 8)
        row.length = context
        step = scheduler.memory.step([row], 1)
        drawn = scheduler.traced(Sampler([sequence], model.vocab), mx.array([[1]]), step)
        return dispatches([*drawn, *scheduler.memory.arrays]).total()


def of_mlx_lm(folder: Path) -> int:
    """generate_step's step once its caches are there."""
    from .engines import MlxLm

    engine = MlxLm(folder)
    with as_on_a_gpu():
        return engine.dispatches([1, 2, 3]).total()


def counted(shape: str, context: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        made = packed.write(Path(folder), small(shape))
        return {"smelt": of_smelt(made, context), "mlx-lm": of_mlx_lm(made)}
