"""CUDA's driver by itself: device memory, launches, and graphs of them that are replayed and timed.

MLX's own cost of a call (4 to 15 us of the host) hides kernels shorter than that; a graph replayed by the driver does
not. The context is the one that MLX uses.
"""

import ctypes
import functools
import statistics
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from . import cuda

Pointer = ctypes.c_uint64


class DriverError(RuntimeError):
    """The driver refused something, or it failed on the device."""


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
        raise DriverError(f"CUDA driver: {name} failed with {status}")


def call(name: str, *arguments) -> None:
    check(getattr(driver(), name)(*arguments), name)


def made(name: str, kind, *arguments):
    """The handle that a function of the driver writes to its first argument."""
    handle = kind()
    call(name, ctypes.byref(handle), *arguments)
    return handle


class Memory:
    """So many bytes of device memory."""

    def __init__(self, size: int):
        self.bytes, self.pointer = size, Pointer()
        self.pointer = made("cuMemAlloc_v2", Pointer, ctypes.c_size_t(size))

    @classmethod
    def of(cls, array: np.ndarray) -> "Memory":
        """With an array's bytes."""
        array = np.ascontiguousarray(array)
        memory = cls(array.nbytes)
        call("cuMemcpyHtoD_v2", memory.pointer, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        return memory

    def copy(self) -> "Memory":
        memory = Memory(self.bytes)
        call("cuMemcpyDtoD_v2", memory.pointer, self.pointer, ctypes.c_size_t(self.bytes))
        return memory

    def __del__(self):
        if self.pointer:
            driver().cuMemFree_v2(self.pointer)


def raw(x: mx.array) -> np.ndarray:
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)


class Launcher:
    """One variant of a kernel, launched by the driver. `same`: see cuda.alike; what is not handed over has no memory."""

    module = None

    def __init__(self, kernel, in_types, out_types, template: dict, groups: Sequence[int], threads: int, same=()):
        code = cuda.build(kernel, in_types, out_types, template, threads, same)
        self.module = made("cuModuleLoadData", ctypes.c_void_p, code)
        self.function = made("cuModuleGetFunction", ctypes.c_void_p, self.module, f"smelt_{kernel.name}".encode())
        self.groups, self.threads, self.memory = groups, threads, 16 * template.get("STAGED", 0)
        if self.memory > 48000:
            largest = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call("cuFuncSetAttribute", self.function, largest, self.memory)

    def __del__(self):
        if self.module:
            driver().cuModuleUnload(self.module)

    def launch(self, stream, memories: Sequence[Memory]) -> None:
        pointers = [m.pointer for m in memories]
        arguments = (ctypes.c_void_p * len(pointers))(*[ctypes.addressof(p) for p in pointers])
        call("cuLaunchKernel", self.function, *self.groups, self.threads, 1, 1, self.memory, stream, arguments, None)


class Graph:
    """What `record(stream)` puts on a stream, to be replayed and timed; it keeps `record`, and so what that launches."""

    def __init__(self, record: Callable):
        self.record = record
        self.handles: list[tuple] = []  # (function that ends it, handle)
        self.stream = self.owned("cuStreamDestroy_v2", made("cuStreamCreate", ctypes.c_void_p, 1))
        graph = self.captured()
        self.graph = self.owned(
            "cuGraphExecDestroy", made("cuGraphInstantiateWithFlags", ctypes.c_void_p, graph, ctypes.c_ulonglong(0))
        )
        self.start, self.stop = (
            self.owned("cuEventDestroy_v2", made("cuEventCreate", ctypes.c_void_p, 0)) for _ in range(2)
        )

    def owned(self, end: str, handle: ctypes.c_void_p) -> ctypes.c_void_p:
        self.handles.append((end, handle))
        return handle

    def captured(self) -> ctypes.c_void_p:
        graph = ctypes.c_void_p()
        call("cuCtxSynchronize")  # copies to the device are on another stream
        call("cuStreamBeginCapture_v2", self.stream, 2)
        try:
            self.record(self.stream)
        finally:  # a stream that captures cannot be destroyed
            status = driver().cuStreamEndCapture(self.stream, ctypes.byref(graph))
            if graph:
                self.owned("cuGraphDestroy", graph)
        check(status, "cuStreamEndCapture")
        return graph

    def replay(self) -> float:
        """Microseconds on the device."""
        call("cuEventRecord", self.start, self.stream)
        call("cuGraphLaunch", self.graph, self.stream)
        call("cuEventRecord", self.stop, self.stream)
        call("cuEventSynchronize", self.stop)
        elapsed = ctypes.c_float()
        call("cuEventElapsedTime_v2" if hasattr(driver(), "cuEventElapsedTime_v2") else "cuEventElapsedTime",
             ctypes.byref(elapsed), self.start, self.stop)  # fmt: skip
        return 1000.0 * elapsed.value

    def replay_us(self, repeats: int = 7) -> float:
        """The median time of one replay; the first two only warm up."""
        return statistics.median([self.replay() for _ in range(repeats + 2)][2:])

    def __del__(self):
        for end, handle in reversed(self.handles):
            getattr(driver(), end)(handle)
