"""Compiled kernels that MLX finds by name: its hash, the files, and what happens where it does not find them."""

import os
import shutil
import subprocess

import pytest
from smelt.kernels import cubins, cuda

PROGRAM = """
#include <functional>
#include <iostream>
#include <iterator>
#include <string>
int main() {
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  std::cout << std::hash<std::string>{}(text);
}
"""


@pytest.fixture(scope="module")
def library_hash(tmp_path_factory):
    """std::hash<std::string> of this machine's C++ library."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++ and its library")
    folder = tmp_path_factory.mktemp("hash")
    (folder / "hash.cpp").write_text(PROGRAM)
    subprocess.run(["g++", "-o", folder / "hash", folder / "hash.cpp"], check=True)
    return lambda text: int(subprocess.run([folder / "hash"], input=text, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 31, 100])
def test_the_hash_is_that_of_the_library(library_hash, length):
    text = os.urandom(length)
    assert cubins.string_hash(text) == library_hash(text)


def test_a_cubin_lies_where_mlx_looks_for_its_name_and_hash(tmp_path, monkeypatch):
    monkeypatch.setenv(cubins.MLX_FOLDER, str(tmp_path))
    text = cubins.filed("smelt_embed", b"some code")
    name = f"smelt_embed_{cubins.string_hash(text):x}"
    assert (tmp_path / f"{name}.ptx").read_bytes() == b"some code"
    assert (tmp_path / f"{name}.txt").read_text() == "smelt_embed\tsmelt_embed\n"
    assert len(text) <= 16 and text != cubins.filed("smelt_embed", b"other code")
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".ptx", ".ptx", ".txt", ".txt"]


@pytest.fixture
def probed(monkeypatch):
    """`refers` as if nobody had asked yet, for a GPU that has to compile nothing."""
    cubins.refers.cache_clear()
    monkeypatch.setattr(cuda, "build", lambda *variant: b"code")
    monkeypatch.setattr(cubins, "_folder", None)
    yield
    cubins.refers.cache_clear()


def answering(with_what):
    def kernel(inputs, **_):
        if isinstance(with_what, Exception):
            raise with_what
        return [with_what(inputs[0])]

    return kernel


def test_without_a_folder_code_is_handed_over_itself(probed):
    assert not cubins.refers()


@pytest.mark.parametrize(
    "answer, found",
    [(lambda x: x, True), (lambda x: x + 1, False), (RuntimeError("Failed to load compiled kernel"), False)],
)
def test_the_probe_decides(probed, monkeypatch, tmp_path, answer, found):
    monkeypatch.setattr(cubins, "_folder", tmp_path)
    monkeypatch.setenv(cubins.MLX_FOLDER, str(tmp_path))
    monkeypatch.setattr(cubins.mx.fast, "precompiled_cuda_kernel", answering(answer))
    assert cubins.refers() is found


def test_a_folder_that_cannot_be_written_is_none(probed, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cubins, "_folder", tmp_path)
    monkeypatch.setenv(cubins.MLX_FOLDER, str(tmp_path / "file"))
    assert not cubins.refers()
