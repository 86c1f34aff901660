"""The CUDA driver as far as cuda_driver.py calls it: device memory in buffers, and launches that take a time of their own."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

SHARED = 227 << 10  # bytes of dynamic threadgroup memory that this device has


@dataclass(frozen=True)
class Launched:
    """What cuLaunchKernel was given."""

    name: str
    template: dict
    groups: tuple[int, int, int]
    threads: int
    shared: int
    pointers: tuple[int, ...]


@dataclass
class Driver:
    """cost: microseconds of (kernel's name, template). `captured` is what went into each graph, `replayed` those graphs
    that ran, in order; `alive` counts what was made and not ended.
    """

    cost: Callable[[str, dict], float] = lambda name, template: 1.0
    now: float = 0.0
    captured: list[list[Launched]] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)
    alive: dict[int, str] = field(default_factory=dict)

    def __post_init__(self):
        self.variants, self.buffers, self.allowed, self.objects, self.recording = [], {}, {}, {}, None

    def install(self, monkeypatch) -> "Driver":
        from smelt.kernels import cuda, cuda_driver

        monkeypatch.setattr(cuda_driver, "driver", lambda: self)
        monkeypatch.setattr(cuda, "build", self.build)
        return self

    def build(self, kernel, in_types, out_types, template, threads, same=()) -> bytes:
        assert len(in_types) == len(kernel.inputs) and len(out_types) == len(kernel.outputs)
        self.variants.append((kernel.name, template, len(set(same) or in_types) + len(out_types)))
        return str(len(self.variants) - 1).encode()

    def bytes_at(self, pointer: int) -> bytes:
        return self.buffers[pointer].raw

    def new(self, ref, kind: str, thing=None) -> int:
        handle = len(self.objects) + 1
        self.objects[handle], self.alive[handle], ref._obj.value = thing, kind, handle
        return 0

    def end(self, handle) -> int:
        del self.alive[handle.value]
        return 0

    # ---- memory

    def cuMemAlloc_v2(self, ref, size):
        buffer = ctypes.create_string_buffer(size.value)
        ref._obj.value = ctypes.addressof(buffer)
        self.buffers[ref._obj.value] = buffer
        return 0

    def cuMemFree_v2(self, pointer):
        del self.buffers[pointer.value]
        return 0

    def cuMemcpyHtoD_v2(self, to, source, size):
        assert ctypes.sizeof(self.buffers[to.value]) >= size.value
        ctypes.memmove(to.value, source, size.value)
        return 0

    def cuMemcpyDtoD_v2(self, to, source, size):
        return self.cuMemcpyHtoD_v2(to, source.value, size)

    def cuCtxSynchronize(self):
        return 0

    # ---- kernels

    def cuModuleLoadData(self, ref, code):
        return self.new(ref, "module", self.variants[int(code)])

    def cuModuleUnload(self, module):
        return self.end(module)

    def cuModuleGetFunction(self, ref, module, name):
        kernel, *_ = self.objects[module.value]
        assert name == f"smelt_{kernel}".encode()
        ref._obj.value = module.value
        return 0

    def cuFuncSetAttribute(self, function, attribute, value):
        assert attribute == 8
        self.allowed[function.value] = value
        return 1 if value > SHARED else 0

    def cuLaunchKernel(self, function, x, y, z, threads, threads_y, threads_z, shared, stream, arguments, extra):
        if self.recording is None or shared > self.allowed.get(function.value, 48000):
            return 1
        pointers = [ctypes.cast(address, ctypes.POINTER(ctypes.c_uint64))[0] for address in arguments]
        assert all(pointer in self.buffers for pointer in pointers)
        *variant, count = self.objects[function.value]
        assert len(pointers) == count
        self.recording.append(Launched(*variant, (x, y, z), threads, shared, tuple(pointers)))
        return 0

    # ---- streams, graphs, events

    def cuStreamCreate(self, ref, flags):
        return self.new(ref, "stream")

    def cuStreamBeginCapture_v2(self, stream, mode):
        self.recording = []
        return 0

    def cuStreamEndCapture(self, stream, ref):
        self.captured.append(self.recording)
        self.recording = None
        return self.new(ref, "graph", len(self.captured) - 1)

    def cuStreamDestroy_v2(self, stream):
        assert self.recording is None
        return self.end(stream)

    def cuGraphInstantiateWithFlags(self, ref, graph, flags):
        return self.new(ref, "executable", self.objects[graph.value])

    def cuGraphLaunch(self, graph, stream):
        self.replayed.append(self.objects[graph.value])
        self.now += sum(self.cost(each.name, each.template) for each in self.captured[self.replayed[-1]])
        return 0

    def cuGraphDestroy(self, graph):
        return self.end(graph)

    cuGraphExecDestroy = cuEventDestroy_v2 = cuGraphDestroy

    def cuEventCreate(self, ref, flags):
        return self.new(ref, "event")

    def cuEventRecord(self, event, stream):
        self.objects[event.value] = self.now
        return 0

    def cuEventSynchronize(self, event):
        return 0

    def cuEventElapsedTime_v2(self, ref, start, stop):
        ref._obj.value = (self.objects[stop.value] - self.objects[start.value]) / 1000.0
        return 0
