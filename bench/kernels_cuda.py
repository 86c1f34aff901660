"""What a kernel costs on a CUDA device itself: a graph of launches over rotating inputs, without MLX around it.

Numbers are microseconds a launch, the gap between two dependent launches included, as in a decode step.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..kernels import launch
from ..kernels.cuda_driver import Graph, Launcher, Memory


def launch_us(launcher: Launcher, inputs: Sequence[Sequence[Memory]], launches: int = 96) -> float:
    """Microseconds of one launch, going round `inputs`."""
    graph = Graph(lambda stream: [launcher.launch(stream, inputs[i % len(inputs)]) for i in range(launches)])
    return graph.replay_us() / launches


class Copy(launch.Kernel):
    """Four 16-byte loads a thread, then four stores: faster than the driver's own copy in a graph (4.0 and 2.7 TB/s
    on an NVIDIA H200), so it is the ceiling that kernels are measured against.
    """

    text = (
        "",
        """
        uint threads = threadgroups_per_grid.x * threads_per_threadgroup.x;
        uint4 v[4];
        for (uint i = 0; i < 4; i++) v[i] = *(const device uint4*)(x + 4 * (thread_position_in_grid.x + i * threads));
        for (uint i = 0; i < 4; i++) *(device uint4*)(y + 4 * (thread_position_in_grid.x + i * threads)) = v[i];
        """,
    )

    def __init__(self):
        super().__init__("copy", ("x",), ("y",))


def copy_gbps(megabytes: int = 1024) -> float:
    """Read plus written bytes a second of a copy on the device, in 10^9."""
    source, target = (Memory.of(np.zeros(megabytes << 18, np.uint32)) for _ in range(2))
    groups = (megabytes << 20) // (512 * 64)
    launcher = Launcher(Copy(), [mx.uint32], [mx.uint32], {}, (groups, 1, 1), 512)
    return 2e-3 * source.bytes / launch_us(launcher, [[source, target]], 8)
