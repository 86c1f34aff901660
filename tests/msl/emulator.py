"""Kernels on the host: the same text as on a GPU, compiled by g++, every access checked by runtime.cpp.

    with launch.through(Emulator()):
        y = linear(x, weight)

Faults are KernelError with a `kind`: out_of_bounds, misaligned, const_store, wild_access, uninitialised, unwritten,
race, barrier_divergence, simd_divergence, arithmetic, limit, stack, timeout.
"""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
from smelt.kernels import cuda

HERE = Path(__file__).resolve().parent
CORE = HERE.parents[1] / "kernels" / "msl" / "core.h"
CXX = os.environ.get("CXX", "g++")
RUNS_HERE = platform.system() == "Linux" and shutil.which(CXX) is not None  # on a Mac the kernels run on its GPU
ORDERS = {"forward": 0, "reverse": 1, "random": 2}
APPLES = 32 << 10  # bytes of threadgroup memory
IN_PLACE = 2  # Buffer.writable of an input that a kernel writes to

# -fsanitize=thread: only the instrumentation, its library is not linked. -ffp-contract=off: the same bits everywhere.
# -fstack-clash-protection: a frame larger than the guard page below a stack touches it, instead of what lies beyond.
FLAGS = [
    "-std=c++20", "-O1", "-g1", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-ffp-contract=off",
    "-fno-tree-loop-distribute-patterns", "-fno-stack-protector", "-fstack-clash-protection", "-fcf-protection=none",
    "-fsanitize=thread,bounds,alignment,shift-exponent,integer-divide-by-zero,float-cast-overflow",
    "--param=tsan-instrument-func-entry-exit=0", "-ftrivial-auto-var-init=pattern", "-Wno-unknown-pragmas",
    "-Werror=double-promotion", "-Werror=float-conversion", "-Werror=return-type", "-Werror=vla", "-fmax-errors=8",
]  # fmt: skip
RUNTIME_FLAGS = ["-O2", "-std=c++20", "-fPIC", "-shared", "-fcf-protection=none"]

# A threadgroup array lives in the runtime, which knows who wrote what. \1 type, \2 name, \3 dimensions.
STORAGE = (
    r"using msl_\2 = \1 \3; msl_\2& \2 = *(msl_\2*)"
    r'msl_threadgroup_array(__COUNTER__, sizeof(msl_\2), sizeof(\1), "\2", __LINE__);'
)
ATTRIBUTES = {  # Metal's name: (its type, how the entry function gets it)
    "thread_position_in_grid": ("uint3", "three(t->position_in_grid)"),
    "thread_position_in_threadgroup": ("uint3", "three(t->position_in_group)"),
    "threadgroup_position_in_grid": ("uint3", "three(t->group)"),
    "threads_per_threadgroup": ("uint3", "three(t->group_size)"),
    "threadgroups_per_grid": ("uint3", "three(t->groups)"),
    "thread_index_in_threadgroup": ("uint", "t->index"),
    "thread_index_in_simdgroup": ("uint", "t->lane"),
    "simdgroup_index_in_threadgroup": ("uint", "t->simdgroup"),
    "simdgroups_per_threadgroup": ("uint", "t->simdgroups"),
}


class KernelError(RuntimeError):
    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class CompileError(RuntimeError):
    pass


class Buffer(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("element", ctypes.c_uint32),
        ("writable", ctypes.c_uint32), ("unwritten", ctypes.c_uint64), ("first_unwritten", ctypes.c_uint64),
    ]  # fmt: skip


class Launch(ctypes.Structure):
    _fields_ = [
        ("entry", ctypes.c_void_p), ("buffers", ctypes.POINTER(Buffer)), ("buffer_count", ctypes.c_int),
        ("threads", ctypes.c_int), ("groups", ctypes.c_uint32 * 3),
        ("together", ctypes.c_uint32), ("order", ctypes.c_int), ("seed", ctypes.c_uint32),
        ("time_limit_ms", ctypes.c_int), ("threadgroup_limit", ctypes.c_uint64), ("error", ctypes.c_char_p), ("error_size", ctypes.c_int),
        ("kind", ctypes.c_char * 24), ("line", ctypes.c_int), ("code_offset", ctypes.c_uint64),
        ("accesses", ctypes.c_uint64), ("barriers", ctypes.c_uint64), ("threadgroup_bytes", ctypes.c_uint64),
    ]  # fmt: skip


class Emulator:
    """A stand-in for launch.through. `order` is that of threads, simdgroups and threadgroups, but not of those that a
    template says are TOGETHER: of these a later one may wait for what an earlier one sends."""

    lock = threading.Lock()  # one arena and one set of fibers a process

    def __init__(self, order: str = "forward", seed: int = 1, time_limit_s: float = 60.0, threadgroup_memory: int = APPLES):
        self.order, self.seed, self.time_limit_s, self.threadgroup_memory = order, seed, time_limit_s, threadgroup_memory
        self.launches: list[tuple] = []  # what went through, for the contract and lint tests
        self.last: Launch | None = None

    def __call__(self, kernel, inputs, outputs, template, groups, threads):
        self.launches.append((kernel, inputs, outputs, template, groups, threads))
        text = unit(kernel, [x.dtype for x in inputs], [dtype for _, dtype in outputs], template)
        library = compiled(text)
        same = cuda.alike(kernel, inputs)  # what only stands where there is nothing is not written to
        written = [name for i, name in enumerate(kernel.inputs) if name in kernel.written and same[i] == i]
        given = [storage(x, name in written) for x, name in zip(inputs, kernel.inputs, strict=True)]
        made = [np.full(shape, 0xFF, np.uint8).repeat(dtype.size, -1) for shape, dtype in outputs]
        buffers = (Buffer * (len(given) + len(made)))(
            *[
                Buffer(n.encode(), a.ctypes.data, a.nbytes, a.itemsize, IN_PLACE if n in written else 0)
                for n, a in zip(kernel.inputs, given)
            ],
            *[
                Buffer(n.encode(), a.ctypes.data, a.nbytes, dtype.size, 1)
                for n, a, (_, dtype) in zip(kernel.outputs, made, outputs)
            ],
        )
        together = template.get("TOGETHER", 1)
        assert groups[0] % together == 0, f"{kernel.name}: {groups[0]} threadgroups, {together} of them together"
        self.run(kernel, library, buffers, groups, threads, together)
        return [restored(a, shape, dtype) for a, (shape, dtype) in zip(made, outputs)]

    def run(self, kernel, library, buffers, groups, threads, together=1):
        error = ctypes.create_string_buffer(6000)
        entry = ctypes.cast(ctypes.CDLL(str(library)).msl_entry, ctypes.c_void_p)
        job = Launch(
            entry, buffers, len(buffers), threads, (ctypes.c_uint32 * 3)(*groups), together, ORDERS[self.order], self.seed,
            int(self.time_limit_s * 1000), self.threadgroup_memory, ctypes.cast(error, ctypes.c_char_p), len(error),
        )  # fmt: skip
        with self.lock:
            status = runtime().msl_run(ctypes.byref(job))
        self.last = job
        if status < 0:
            raise RuntimeError("the emulator could not reserve its address space")
        if status:
            raise KernelError(job.kind.decode(), f"{error.value.decode()}{source_line(kernel, library, job)}")
        for buffer in buffers:
            if buffer.writable and buffer.unwritten and buffer.name.decode() not in kernel.scratch:
                count, total = buffer.unwritten, buffer.bytes // buffer.element
                name, first = buffer.name.decode(), buffer.first_unwritten
                raise KernelError("unwritten", f"{count} of {total} elements of output '{name}', the first is {first}")


def storage(x: mx.array, in_place: bool = False) -> np.ndarray:
    """A contiguous copy, or the array's own memory; bfloat16 as its bits."""
    assert x.ndim, "inputs of a kernel have at least one dimension"
    if in_place:
        mx.eval(x)
        return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x, copy=False)
    x = mx.contiguous(x)
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)


def restored(raw: np.ndarray, shape, dtype: mx.Dtype) -> mx.array:
    return mx.array(raw.reshape(-1)).view(dtype).reshape(shape)


# ---- text


def unit(kernel, in_types, out_types, template, as_template: bool = False) -> str:
    """The C++ text of one variant, with template values as constants, as CUDA has them, or as Metal's template."""
    helpers, body = (cuda.translate(part, STORAGE, r"static const \1 \2\3 =") for part in kernel.text)
    names = [*kernel.inputs, *kernel.outputs]
    types = [f"const {cuda.TYPES[t]}*" for t in in_types] + [f"{cuda.TYPES[t]}*" for t in out_types]
    used = {name: kind for name, kind in ATTRIBUTES.items() if name in body}
    parameters = [f"{t} {n}" for t, n in zip(types, names)] + [f"{kind} {name}" for name, (kind, _) in used.items()]
    arguments = [f"({t})a[{i}]" for i, t in enumerate(types)] + [value for _, value in used.values()]
    head, chosen, values = "", "", cuda.constants(template)
    if as_template and template:
        kinds = [
            "bool" if isinstance(v, bool) else "int" if isinstance(v, int) else "typename" for v in template.values()
        ]
        chosen = [cuda.TYPES[v] if isinstance(v, mx.Dtype) else str(v).lower() for v in template.values()]
        head = f"template <{', '.join(f'{kind} {name}' for kind, name in zip(kinds, template))}>\n"
        chosen, values = f"<{', '.join(chosen)}>", ""
    return f"""#include "host.h"
struct msl_thread {{
  unsigned position_in_grid[3], position_in_group[3], group[3], group_size[3], groups[3], index, lane, simdgroup, simdgroups;
}};
namespace smelt {{
static inline __attribute__((no_sanitize("thread"))) uint3 three(const unsigned* v) {{ return uint3(v[0], v[1], v[2]); }}
#line 1 "{kernel.name}.metal (helpers)"
{helpers}
{head}static __attribute__((noinline)) void kernel({", ".join(parameters)}) {{
{values}
#line 1 "{kernel.name}.metal (body)"
{body}
}}
extern "C" __attribute__((no_sanitize("thread"))) void msl_entry(void* const* a, const msl_thread* t) {{
  (void)t;
  kernel{chosen}({", ".join(arguments)});
}}
}}
"""


def source_line(kernel, library, job) -> str:
    """Where in the .metal text it went wrong."""
    part, line = "body", job.line
    if job.code_offset:
        command = ["addr2line", "-i", "-e", str(library), hex(job.code_offset - 1)]
        frames = subprocess.run(command, capture_output=True, text=True).stdout
        for name, number in re.findall(r"\.metal \((\w+)\):(\d+)", frames):
            part, line = name, int(number)
            break
    lines = kernel.text[part == "body"].splitlines()
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return f"\n    {kernel.name}.metal ({part}) line {line}: {text}" if line else ""


# ---- compiling, once per text


def cache() -> Path:
    folder = Path(os.environ.get("SMELT_EMULATOR_CACHE", Path(tempfile.gettempdir()) / f"smelt-emulator-{os.getuid()}"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(suffix: str, key: tuple, make) -> Path:
    """The file that make(path) writes for `key`; many processes may want it at the same time."""
    file = cache() / (hashlib.sha256(repr(key).encode()).hexdigest()[:24] + suffix)
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}.{threading.get_ident()}{suffix}")
        make(part)
        part.replace(file)
    return file


def call(*command) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise CompileError(done.stderr)


@functools.cache
def compiler() -> tuple:
    version = subprocess.run([CXX, "--version"], capture_output=True, text=True).stdout
    return version, tuple(FLAGS), (HERE / "host.h").read_text(), CORE.read_text()


@functools.cache
def prelude() -> Path:
    """A folder with host.h precompiled: a variant then takes a third of the time."""
    include = ["-I", CORE.parent, "-I", HERE]
    header = once(
        ".gch", compiler(), lambda to: call(CXX, *FLAGS, *include, "-x", "c++-header", HERE / "host.h", "-o", to)
    )
    folder = header.with_suffix("")
    folder.mkdir(exist_ok=True)
    if not (folder / "host.h.gch").exists():
        link = folder / f"{os.getpid()}.{threading.get_ident()}"
        link.hardlink_to(header)
        link.replace(folder / "host.h.gch")
    return folder


def compiled(text: str) -> Path:
    def make(to):
        source, code = to.with_suffix(".cpp"), to.with_suffix(".o")
        source.write_text(text)
        call(CXX, *FLAGS, "-I", prelude(), "-I", HERE, "-I", CORE.parent, "-c", "-o", code, source)
        call(CXX, "-shared", "-o", to, code)  # without -fsanitize: the hooks are ours
        source.unlink()
        code.unlink()

    runtime()
    return once(".so", (text, compiler()), make)


@functools.cache
def runtime() -> ctypes.CDLL:
    source = HERE / "runtime.cpp"
    library = once(".so", (source.read_text(), RUNTIME_FLAGS, compiler()[0]),
                   lambda to: call(CXX, *RUNTIME_FLAGS, "-o", to, source, "-ldl"))  # fmt: skip
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
