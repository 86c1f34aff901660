"""Numbers from the host, where a GPU reads them fast.

On CUDA, MLX leaves what the host writes in the host's memory, and every threadgroup that reads it waits for the bus: on
an NVIDIA H100, 9 to 16 us at the beginning of a kernel that reads a page table, its bounds and a size. What an operation
computes is in the device's memory. A chip with one memory has nothing to copy.
"""

from functools import lru_cache

import mlx.core as mx

from . import launch


def resident(x: mx.array) -> mx.array:
    """The same values: on CUDA, as the result of an operation."""
    return x * 1 if launch.machine() == "cuda" else x


@lru_cache(256)
def constant(values: tuple, dtype: mx.Dtype) -> mx.array:
    """A vector that stays there: a traced step finds it computed."""
    found = resident(mx.array(values, dtype))
    mx.eval(found)
    return found
