"""Numbers from the host, where a GPU reads them fast; and for the host, so that it does not take them away.

On CUDA, MLX leaves what the host writes in the host's memory, and every threadgroup that reads it waits for the bus: on
an NVIDIA H100, 9 to 16 us at the beginning of a kernel that reads a page table, its bounds and a size. What an operation
computes is in the device's memory. A chip with one memory has nothing to copy.

What the host reads, MLX moves to memory that both share, and gives that memory to later results of the same size: their
kernel then waits for its pages to come back from the host, 20 to 300 us on an NVIDIA H200. Arrays of up to 8 bytes are
exempt: MLX has a pool for them that stays where it is. So `handed_over` gives the host pairs of words.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np

from . import launch

PAIR, MOST = 2, 64  # words of a piece, and up to how many it is worth it
HAND_OVER = launch.Kernel("hand_over", ("words",), ("a", "b", "c", "d"))


def handed_over(x: mx.array) -> list[mx.array]:
    """x [N] of 32-bit words in pieces that the host reads one after another; on CUDA of two words, if N is up to 64."""
    wanted = launch.machine() == "cuda" and PAIR < x.size <= MOST and x.ndim == 1
    return pieces_of(x) if wanted and launch.unavailable("hand_over") is None else [x]


def pieces_of(x: mx.array) -> list[mx.array]:
    pieces = []
    for first in range(0, x.size, 4 * PAIR):
        pieces += HAND_OVER([x], 4 * [((PAIR,), x.dtype)], template={"N": x.size, "FROM": first}, groups=(1, 1, 1), threads=32)
    left = [x.size - PAIR * i for i in range(len(pieces))]
    return [piece if n >= PAIR else piece[:n] for piece, n in zip(pieces, left, strict=True) if n > 0]


def resident(x: mx.array) -> mx.array:
    """The same values: on CUDA, as the result of an operation."""
    return x * 1 if launch.machine() == "cuda" else x


class Growing:
    """Whole numbers of every step, which mostly grow alike: then the device adds to what it has and fetches nothing.

    The copy of a new vector took 20 to 30 us of a step there.
    """

    def __init__(self):
        self.settled = self.at = None
        self.growth, self.step = np.zeros(0, np.int32), None

    def __call__(
        self, settled: Any, at: list[int], by: int, made: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> mx.array:
        """The numbers, int32, that `made` gives for `settled` and `at`, with their growth where each of `at` grows `by` so
        many and the rest is settled: as it was.
        """
        grown = self.settled == (settled, by) and self.at == [n - by for n in at]
        self.settled, self.at = (settled, by), at
        if grown and launch.machine() == "cuda":
            self.array = self.array + self.growing()
        else:
            numbers, growth = made()
            if not np.array_equal(self.growth, growth):
                self.growth, self.step = growth, None
            self.array = resident(mx.array(numbers))
        return self.array

    def growing(self) -> mx.array:
        if self.step is None:
            self.step = resident(mx.array(self.growth))
        return self.step


@lru_cache(256)
def constant(values: tuple, dtype: mx.Dtype) -> mx.array:
    """A vector that stays there: a traced step finds it computed."""
    found = resident(mx.array(values, dtype))
    mx.eval(found)
    return found
