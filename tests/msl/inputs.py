"""Which arrays kernels are handed, without running them."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
from smelt.kernels import cuda, launch


@contextmanager
def handed_over() -> Iterator[list[tuple[launch.Kernel, dict[str, mx.array]]]]:
    """Every launch inside: the kernel, and its inputs by name but for those that stand where there is nothing. It gives zeros."""
    found = []

    def note(kernel, inputs, outputs, template, groups, threads):
        same = cuda.alike(kernel, inputs)
        found.append((kernel, {kernel.inputs[i]: x for i, x in enumerate(inputs) if same[i] == i}))
        return [mx.zeros(shape, dtype) for shape, dtype in outputs]

    with launch.through(note):
        yield found
