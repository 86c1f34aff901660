"""Compiled kernels on disk: ours, and where MLX looks for them.

With each evaluation MLX hashes the text that it was given: of a cubin (14 to 29 kB) that takes longer than all else
that it does for a launch (5 of 11 us on an NVIDIA H100's host). But before it takes the text for code, it looks for a
file of that name and hash in its folder of compiled kernels. So it is given a few bytes, and the file.
"""

import functools
import hashlib
import os
from pathlib import Path

import mlx.core as mx

from .files import write_whole
from .nvrtc import nvrtc

MLX_FOLDER = "MLX_PTX_CACHE_DIR"

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
        write_whole(file, code)
    return code


# ---- references


class Probe:
    """A kernel that shows whether MLX finds such files: its folder may be another one, or cannot be written."""

    name, inputs, outputs, optional = "probe", ("x",), ("y",), ()
    text = "", "y[thread_index_in_threadgroup] = x[thread_index_in_threadgroup];"


@functools.cache
def refers() -> bool:
    if _folder is None:
        return False
    from .cuda import build

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
        write_whole(file.with_suffix(".txt"), f"{entry}\t{entry}\n".encode())
        write_whole(file, code)
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
