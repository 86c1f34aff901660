"""MSL kernels on CUDA: translated, compiled by NVRTC, kept as cubins, launched by MLX.

The text stays as it is but for what C++ cannot say: address spaces, and storage declared by one of them. The rest of
Metal's vocabulary comes from msl/core.h and msl/cuda.h. We call NVRTC ourselves because mx.fast.cuda_kernel puts
MLX's own headers in front and keeps nothing on disk: 1.5 s per variant on an NVIDIA H200, 0.1 to 0.3 s this way.
"""

import ctypes
import functools
import re
from pathlib import Path

import mlx.core as mx

from . import cubins

MSL = Path(__file__).parent / "msl"

_TYPE = r"((?:const\s+)?(?:\w|::)+(?:<[^;{}()=]*>)?)"
STORAGE = re.compile(rf"\bthreadgroup\s+{_TYPE}\s+(\w+)((?:\[[^\]]*\])+)\s*;")
TABLE = re.compile(rf"\bconstant\s+{_TYPE}\s+(\w+)((?:\[[^\]]*\])+)\s*=")
SPACE = re.compile(r"\b(?:device|constant|threadgroup|thread)\b ?")

TYPES = {
    mx.bool_: "bool", mx.uint8: "uint8_t", mx.uint16: "uint16_t", mx.uint32: "uint32_t", mx.uint64: "uint64_t",
    mx.int8: "int8_t", mx.int16: "int16_t", mx.int32: "int32_t", mx.int64: "int64_t",
    mx.float16: "half", mx.bfloat16: "bfloat", mx.float32: "float",
}  # fmt: skip


DYNAMIC = "__shared__ uint4 staged[STAGED];"  # as translated: how much there is, the launch says, for more than 48 KiB


def translate(
    text: str, storage: str = r"__shared__ \1 \2\3;", table: str = r"static __device__ const \1 \2\3 ="
) -> str:
    """MSL without address spaces. `storage` and `table` say how to declare a threadgroup array and a constant table."""
    return SPACE.sub("", TABLE.sub(table, STORAGE.sub(storage, text)))


def constants(template: dict) -> str:
    """Template values as the constants that a CUDA body sees."""
    lines = []
    for name, value in template.items():
        if isinstance(value, bool):
            lines.append(f"constexpr bool {name} = {str(value).lower()};")
        elif isinstance(value, int):
            lines.append(f"constexpr int {name} = {value};")
        else:
            lines.append(f"using {name} = {TYPES[value]};")
    return "\n".join(lines)


@functools.cache
def prelude() -> str:
    return (MSL / "cuda.h").read_text().replace('#include "core.h"\n', (MSL / "core.h").read_text())


def unit(kernel, in_types, out_types, template, threads, same=()) -> str:
    """The whole CUDA C++ text of one variant; its entry point is the kernel's name. `same`: see `alike`."""
    helpers, body = (translate(part) for part in kernel.text)
    inputs = list(zip(in_types, kernel.inputs, same or range(len(in_types)), strict=True))
    parameters = [f"const {TYPES[t]}* __restrict__ {name}" for i, (t, name, first) in enumerate(inputs) if first == i]
    parameters += [f"{TYPES[t]}* __restrict__ {name}" for t, name in zip(out_types, kernel.outputs, strict=True)]
    others = (f"const {TYPES[t]}* {name} = {kernel.inputs[first]};" for i, (t, name, first) in enumerate(inputs) if first != i)
    declared = "\n".join([constants(template), *others])
    body = body.replace(DYNAMIC, "extern __shared__ uint4 staged[];")
    bounds = f"{threads}, {template.get('RESIDENT', 1)}"  # threads, and how many threadgroups share a core
    return (
        f"{prelude()}\nnamespace smelt {{\n{helpers}\n"
        f'extern "C" __global__ void __launch_bounds__({bounds}) smelt_{kernel.name}(\n{", ".join(parameters)}) {{\n'
        f"{declared}\n{body}\n}}\n}}\n"
    )


def alike(kernel, inputs) -> tuple[int, ...]:
    """For each input the number of the one that is handed over: of optional ones the first that is the same array. MLX takes
    time for each input of each launch, and many stand where there is nothing."""
    first = lambda x: next(i for i, other in enumerate(inputs) if other is x)  # noqa: E731
    return tuple(first(x) if name in kernel.optional else i for i, (name, x) in enumerate(zip(kernel.inputs, inputs, strict=True)))


def build(kernel, in_types, out_types, template, threads, same=()) -> bytes:
    """The cubin of one variant. Safe to call from many threads: NVRTC runs outside the interpreter's lock."""
    same = same or tuple(range(len(in_types)))
    key = (kernel.name, tuple(in_types), tuple(out_types), tuple(template.items()), threads, same)
    if key not in _built:
        _built[key] = cubins.cubin(unit(kernel, in_types, out_types, template, threads, same), architecture())
    return _built[key]


_built: dict[tuple, bytes] = {}


def run(kernel, inputs, outputs, template, groups, threads):
    dtypes = [dtype for _, dtype in outputs]
    same = alike(kernel, inputs)
    code = build(kernel, [x.dtype for x in inputs], dtypes, template, threads, same)
    return mx.fast.precompiled_cuda_kernel(
        name=f"smelt_{kernel.name}",
        compiled_source=cubins.reference_to(kernel, code) if cubins.refers() else code,
        inputs=[x for i, x in enumerate(inputs) if same[i] == i],
        output_shapes=[shape for shape, _ in outputs],
        output_dtypes=dtypes,
        scalars=[],
        grid=(groups[0] * threads, groups[1], groups[2]),
        threadgroup=(threads, 1, 1),
        shared_memory=16 * template.get("STAGED", 0),
        ensure_row_contiguous=True,
    )


@functools.cache
def architecture() -> str:
    """ "sm_90a" for the GPU that MLX uses: from Hopper on, `a` allows its own instructions."""
    digits = re.search(r"sm_(\d+)", str(mx.device_info().get("architecture", "")))
    number = int(digits.group(1)) if digits else 80
    return f"sm_{number}" + ("a" if number >= 90 else "")


def cores() -> int:
    """Multiprocessors of the GPU that MLX uses."""
    return attribute(16, "number of multiprocessors")


def core_memory() -> int:
    """KiB of threadgroup memory of a multiprocessor."""
    return attribute(81, "memory of a multiprocessor") >> 10


def attribute(number: int, what: str) -> int:
    """One of the driver's CUdevice_attribute."""
    driver, found, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        raise RuntimeError("the CUDA driver has no device")
    if driver.cuDeviceGetAttribute(ctypes.byref(found), number, device):
        raise RuntimeError(f"the CUDA driver does not tell the {what}")
    return found.value
