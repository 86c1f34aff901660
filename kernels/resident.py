"""Numbers from the host, where a GPU reads them fast.

On CUDA, MLX leaves what the host writes in the host's memory, and every threadgroup that reads it waits for the bus: on
an NVIDIA H100, 9 to 16 us at the beginning of a kernel that reads a page table, its bounds and a size. What an operation
computes is in the device's memory. A chip with one memory has nothing to copy.
"""

from functools import lru_cache

import mlx.core as mx
import numpy as np

from . import launch


def resident(x: mx.array) -> mx.array:
    """The same values: on CUDA, as the result of an operation."""
    return x * 1 if launch.machine() == "cuda" else x


class Growing:
    """Whole numbers of every step, which mostly grow alike: then the device adds to what it has and fetches nothing.

    The copy of a new vector took 20 to 30 us of a step there.
    """

    def __init__(self):
        self.numbers = self.growth = np.zeros(0, np.int32)

    def __call__(self, numbers: np.ndarray, growth: np.ndarray) -> mx.array:
        """`numbers`, int32, of which each is expected to be the last one plus its `growth`."""
        if launch.machine() == "cuda" and np.array_equal(self.numbers, numbers - growth):
            if not np.array_equal(self.growth, growth):
                self.growth, self.step = growth, resident(mx.array(growth))
            self.array = self.array + self.step
        else:
            self.array = resident(mx.array(numbers))
        self.numbers = numbers
        return self.array


@lru_cache(256)
def constant(values: tuple, dtype: mx.Dtype) -> mx.array:
    """A vector that stays there: a traced step finds it computed."""
    found = resident(mx.array(values, dtype))
    mx.eval(found)
    return found
