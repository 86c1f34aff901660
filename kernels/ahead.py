"""On CUDA, kernels compiled before they are launched: many at once, on all cores. One takes 0.3 to 2 s.

    with noted() as variants:
        ...                      # calls of ops: nothing is launched, what would be is noted; results are zeros
    compile_all(variants)
"""

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import mlx.core as mx

from . import launch
from .cuda import alike

Variant = tuple  # what cuda.build takes


@contextmanager
def noted() -> Iterator[list[Variant]]:
    variants: list[Variant] = []

    def note(kernel, inputs, outputs, template, groups, threads):
        dtypes = [x.dtype for x in inputs], [dtype for _, dtype in outputs]
        variants.append((kernel, *dtypes, template, threads, alike(kernel, inputs)))
        return [mx.zeros(shape, dtype) for shape, dtype in outputs]

    with launch.through(note):
        yield variants


def compile_all(variants: Iterable[Variant], workers: int | None = None) -> None:
    """What does not compile will say so when it is launched."""
    from . import cuda

    def attempt(variant: Variant) -> None:
        with suppress(RuntimeError):
            cuda.build(*variant)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(attempt, {repr(variant): variant for variant in variants}.values()))


def compile_behind(variants: list[Variant]) -> None:
    """The same, while the process does other things, which get the other half of the cores."""
    workers = max(1, (os.cpu_count() or 2) // 2)
    thread = threading.Thread(target=compile_all, args=(variants, workers), name="compiler", daemon=True)
    _behind.append(thread)
    thread.start()


def wait() -> None:
    """Until nothing is being compiled."""
    while _behind:
        _behind.pop().join()


_behind: list[threading.Thread] = []
