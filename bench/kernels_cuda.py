"""What a kernel costs on a CUDA device itself: a graph of launches over rotating inputs, without MLX around it.

MLX's own cost of a call (about 4 us of the host) hides kernels shorter than that; a graph replayed by the driver does
not. Numbers are microseconds a launch, the gap between two dependent launches included, as in a decode step.
"""

import ctypes
import functools
import statistics
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..kernels import cuda, launch

Pointer = ctypes.c_uint64


@functools.cache
def driver() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()
    for name, *arguments in (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), 0),
        ("cuDevicePrimaryCtxRetain", ctypes.byref(context), device),
        ("cuCtxSetCurrent", context),
    ):
        check(getattr(library, name)(*arguments), name)
    return library


def check(status: int, name: str) -> None:
    if status:
        raise RuntimeError(f"CUDA driver: {name} failed with {status}")


def call(name: str, *arguments) -> None:
    check(getattr(driver(), name)(*arguments), name)


def made(name: str, kind, *arguments):
    """The handle that a function of the driver writes to its first argument."""
    handle = kind()
    call(name, ctypes.byref(handle), *arguments)
    return handle


class Memory:
    """Device memory with an array's bytes."""

    def __init__(self, array: np.ndarray):
        array = np.ascontiguousarray(array)
        self.bytes = array.nbytes
        self.pointer = made("cuMemAlloc_v2", Pointer, ctypes.c_size_t(self.bytes))
        call("cuMemcpyHtoD_v2", self.pointer, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(self.bytes))

    def __del__(self):
        driver().cuMemFree_v2(self.pointer)


def raw(x: mx.array) -> np.ndarray:
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)


class Launcher:
    """One variant of a kernel, launched by the driver."""

    def __init__(self, kernel, in_types, out_types, template: dict, groups: Sequence[int], threads: int):
        code = cuda.build(kernel, in_types, out_types, template, threads)
        self.module = made("cuModuleLoadData", ctypes.c_void_p, code)
        self.function = made("cuModuleGetFunction", ctypes.c_void_p, self.module, f"smelt_{kernel.name}".encode())
        self.groups, self.threads, self.memory = groups, threads, 16 * template.get("STAGED", 0)
        if self.memory > 48000:
            largest = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call("cuFuncSetAttribute", self.function, largest, self.memory)

    def __del__(self):
        driver().cuModuleUnload(self.module)

    def launch(self, stream, memories: Sequence[Memory]) -> None:
        pointers = [m.pointer for m in memories]
        arguments = (ctypes.c_void_p * len(pointers))(*[ctypes.addressof(p) for p in pointers])
        call("cuLaunchKernel", self.function, *self.groups, self.threads, 1, 1, self.memory, stream, arguments, None)


class Graph:
    """What `record(stream)` puts on a stream, to be replayed and timed."""

    def __init__(self, record):
        self.stream = made("cuStreamCreate", ctypes.c_void_p, 1)
        call("cuStreamBeginCapture_v2", self.stream, 2)
        record(self.stream)
        graph = ctypes.c_void_p()
        call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        self.graph = made("cuGraphInstantiateWithFlags", ctypes.c_void_p, graph, ctypes.c_ulonglong(0))
        call("cuGraphDestroy", graph)

    def replay_us(self, repeats: int = 7) -> float:
        """The median time of one replay; the first two only warm up."""
        start, stop = (made("cuEventCreate", ctypes.c_void_p, 0) for _ in range(2))
        times = []
        for _ in range(repeats + 2):
            call("cuEventRecord", start, self.stream)
            call("cuGraphLaunch", self.graph, self.stream)
            call("cuEventRecord", stop, self.stream)
            call("cuEventSynchronize", stop)
            elapsed = ctypes.c_float()
            call("cuEventElapsedTime_v2" if hasattr(driver(), "cuEventElapsedTime_v2") else "cuEventElapsedTime",
                 ctypes.byref(elapsed), start, stop)  # fmt: skip
            times.append(1000.0 * elapsed.value)
        return statistics.median(times[2:])

    def __del__(self):
        driver().cuGraphExecDestroy(self.graph)
        driver().cuStreamDestroy_v2(self.stream)


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
    source, target = (Memory(np.zeros(megabytes << 18, np.uint32)) for _ in range(2))
    groups = (megabytes << 20) // (512 * 64)
    launcher = Launcher(Copy(), [mx.uint32], [mx.uint32], {}, (groups, 1, 1), 512)
    return 2e-3 * source.bytes / launch_us(launcher, [[source, target]], 8)
