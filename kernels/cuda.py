"""MSL kernels on CUDA: translated, compiled by NVRTC, kept as cubins, launched by MLX.

The text stays as it is but for what C++ cannot say: address spaces, and storage declared by one of them. The rest of
Metal's vocabulary comes from msl/core.h and msl/cuda.h. We call NVRTC ourselves because mx.fast.cuda_kernel puts
MLX's own headers in front and keeps nothing on disk: 1.5 s per variant on an NVIDIA H200, 0.1 to 0.3 s this way.
"""

import ctypes
import functools
import hashlib
import os
import re
from pathlib import Path

import mlx.core as mx

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


def unit(kernel, in_types, out_types, template, threads) -> str:
    """The whole CUDA C++ text of one variant; its entry point is the kernel's name."""
    helpers, body = (translate(part) for part in kernel.text)
    parameters = [f"const {TYPES[t]}* __restrict__ {name}" for t, name in zip(in_types, kernel.inputs, strict=True)]
    parameters += [f"{TYPES[t]}* __restrict__ {name}" for t, name in zip(out_types, kernel.outputs, strict=True)]
    bounds = f"{threads}, {template.get('RESIDENT', 1)}"  # threads, and how many threadgroups share a core
    return (
        f"{prelude()}\nnamespace smelt {{\n{helpers}\n"
        f'extern "C" __global__ void __launch_bounds__({bounds}) smelt_{kernel.name}(\n{", ".join(parameters)}) {{\n'
        f"{constants(template)}\n{body}\n}}\n}}\n"
    )


def build(kernel, in_types, out_types, template, threads) -> bytes:
    """The cubin of one variant. Safe to call from many threads: NVRTC runs outside the interpreter's lock."""
    key = (kernel.name, tuple(in_types), tuple(out_types), tuple(template.items()), threads)
    if key not in _built:
        _built[key] = cubin(unit(kernel, in_types, out_types, template, threads), architecture())
    return _built[key]


_built: dict[tuple, bytes] = {}


def run(kernel, inputs, outputs, template, groups, threads):
    dtypes = [dtype for _, dtype in outputs]
    code = build(kernel, [x.dtype for x in inputs], dtypes, template, threads)
    return mx.fast.precompiled_cuda_kernel(
        name=f"smelt_{kernel.name}",
        compiled_source=reference_to(kernel, code) if refers() else code,
        inputs=list(inputs),
        output_shapes=[shape for shape, _ in outputs],
        output_dtypes=dtypes,
        scalars=[],
        grid=(groups[0] * threads, groups[1], groups[2]),
        threadgroup=(threads, 1, 1),
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
    driver, count, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        raise RuntimeError("the CUDA driver has no device")
    multiprocessors = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    if driver.cuDeviceGetAttribute(ctypes.byref(count), multiprocessors, device):
        raise RuntimeError("the CUDA driver does not tell the number of multiprocessors")
    return count.value


# ---- cubins, in memory and on disk

_folder: Path | None = None


def use_folder(folder: Path | None) -> None:
    """Keep cubins in this folder, and what MLX compiles too, or with None only in memory.

    MLX looks at its variable once, with the first kernel that it compiles.
    """
    global _folder
    _folder = folder
    if folder is not None:
        os.environ.setdefault(MLX_FOLDER, str(folder / "mlx"))


def cubin(text: str, arch: str) -> bytes:
    digest = hashlib.sha256(f"{nvrtc().version} {arch} {text}".encode()).hexdigest()[:32]
    file = _folder / f"{digest}.cubin" if _folder else None
    if file and file.exists():
        return file.read_bytes()
    code = nvrtc().compile(text, arch)
    if file:
        store(file, code)
    return code


def store(file: Path, code: bytes) -> None:
    """Write whole or not at all: another process may read it meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f"{file.suffix}.{os.getpid()}.part")
    part.write_bytes(code)
    part.replace(file)


# ---- references to cubins
#
# With each evaluation MLX hashes the text that it was given: of a cubin (14 to 29 kB) that takes longer than all else
# that it does for a launch (5 of 11 us on an NVIDIA H100's host). But before it takes the text for code, it looks for a
# file of that name and hash in its folder of compiled kernels. So it is given a few bytes, and the file.

MLX_FOLDER = "MLX_PTX_CACHE_DIR"


class Probe:
    """A kernel that shows whether MLX finds such files: its folder may be another one, or cannot be written."""

    name, inputs, outputs = "probe", ("x",), ("y",)
    text = "", "y[thread_index_in_threadgroup] = x[thread_index_in_threadgroup];"


@functools.cache
def refers() -> bool:
    if _folder is None:
        return False
    numbers = mx.arange(32)
    code = build(Probe, [numbers.dtype], [numbers.dtype], {}, 32)
    try:
        (copy,) = mx.fast.precompiled_cuda_kernel(
            name="smelt_probe", compiled_source=reference_to(Probe, code), inputs=[numbers], output_shapes=[(32,)],
            output_dtypes=[numbers.dtype], scalars=[], grid=(32, 1, 1), threadgroup=(32, 1, 1),
        )  # fmt: skip
        return bool(mx.array_equal(copy, numbers))
    except (OSError, RuntimeError):
        return False


def reference_to(kernel, code: bytes) -> bytes:
    key = (kernel.name, code)
    if key not in _references:
        _references[key] = filed(f"smelt_{kernel.name}", code)
    return _references[key]


_references: dict[tuple, bytes] = {}


def filed(entry: str, code: bytes) -> bytes:
    """Put a cubin where MLX looks for a kernel whose text is the bytes that are returned."""
    text = hashlib.sha256(code).hexdigest()[:16].encode()
    file = Path(os.environ[MLX_FOLDER]) / f"{entry}_{string_hash(text):x}.ptx"
    if not file.exists():
        store(file.with_suffix(".txt"), f"{entry}\t{entry}\n".encode())
        store(file, code)
    return text


def string_hash(text: bytes) -> int:
    """std::hash<std::string> of libstdc++ on 64 bits: MurmurHash64A (A. Appleby, 2008) with its own seed and tail."""
    multiplier, mask = 0xC6A4A7935BD1E995, 2**64 - 1
    mixed = lambda v: v ^ (v >> 47)  # noqa: E731
    value = 0xC70F6907 ^ (len(text) * multiplier & mask)
    whole = len(text) & ~7
    for i in range(0, whole, 8):
        word = int.from_bytes(text[i : i + 8], "little")
        value = (value ^ (mixed(word * multiplier & mask) * multiplier & mask)) * multiplier & mask
    if text[whole:]:
        value = (value ^ int.from_bytes(text[whole:], "little")) * multiplier & mask
    return mixed(mixed(value) * multiplier & mask)


class NVRTC:
    """CUDA's run-time compiler, which MLX's CUDA wheel brings along."""

    def __init__(self, library: str, headers: Path):
        self.library, self.headers = ctypes.CDLL(library), headers
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def compile(self, text: str, arch: str) -> bytes:
        # fmad=false: only a written fma() is one, so that all variants of a kernel round alike.
        options = [f"--gpu-architecture={arch}", "--std=c++17", "--fmad=false", f"--include-path={self.headers}"]
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
        try:
            array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
            if self.library.nvrtcCompileProgram(program, len(options), array):
                raise RuntimeError(f"NVRTC refused a kernel:\n{self.read(program, 'ProgramLog').decode()}")
            return self.read(program, "CUBIN")
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def read(self, program, what: str) -> bytes:
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def call(self, name: str, *arguments) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise RuntimeError(f"NVRTC: {name} failed with status {status}")


@functools.cache
def nvrtc() -> NVRTC:
    return NVRTC(find_library(), find_headers())


def nvidia_folders() -> list[Path]:
    """Where pip puts CUDA's libraries and headers, then where an installed toolkit has them."""
    try:
        import nvidia
    except ImportError:
        roots = []
    else:
        roots = [child for root in nvidia.__path__ for child in sorted(Path(root).iterdir()) if child.is_dir()]
    toolkits = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    return roots + [Path(root) for root in (*toolkits, "/usr/local/cuda")]


def find_library() -> str:
    found = [file for root in nvidia_folders() for file in root.glob("lib*/libnvrtc.so.[0-9][0-9]")]
    if not found:
        raise RuntimeError("libnvrtc was not found; install nvidia-cuda-nvrtc, or set CUDA_HOME to a CUDA toolkit")
    return str(max(found, key=lambda file: file.suffix))  # the newest, should several CUDA versions be installed


def find_headers() -> Path:
    for root in nvidia_folders():
        if (root / "include" / "cuda_fp16.h").exists():
            return root / "include"
    raise RuntimeError("cuda_fp16.h was not found; install nvidia-cuda-runtime, or set CUDA_HOME to a CUDA toolkit")
