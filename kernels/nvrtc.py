"""CUDA's run-time compiler, called through ctypes, and where its library and headers are."""

import ctypes
import functools
import os
from pathlib import Path


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
