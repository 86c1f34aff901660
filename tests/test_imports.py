"""What importing Smelt brings in. Start-up time is the sum of imports, and those can be counted on any machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["kernels", "models", "engine", "api"]
TORCH_WORLD = {"mlx_lm", "transformers", "torch"}
LATE = {"numpy", "llguidance", "sentencepiece", "huggingface_hub", "httpx", "httpx2", "PIL", "matplotlib"}  # 10 to 200 ms each


def python(code: str) -> str:
    """The output of `code` in a fresh interpreter that finds smelt as the tests do."""
    start = f"import runpy, sys; runpy.run_path({str(ROOT / 'tests' / 'conftest.py')!r}); sys.path[:] = sys.path[1:]\n"
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(*modules: str) -> set[str]:
    """Top-level packages in memory after importing `modules`."""
    code = f"import importlib, json\nfor name in {modules!r}: importlib.import_module(name)\n"
    return {name.split(".")[0] for name in json.loads(python(code + "print(json.dumps(list(sys.modules)))"))}


def modules(layer: str) -> list[str]:
    """Every module of a layer. __main__ would start the program."""
    names = [path.stem for path in sorted((ROOT / layer).glob("*.py")) if path.stem != "__main__"]
    return [f"smelt.{layer}" if name == "__init__" else f"smelt.{layer}.{name}" for name in names]


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_brings_in_mlx_lm_transformers_or_torch(layer):
    assert not imported_by(*modules(layer)) & TORCH_WORLD


def test_finding_models_needs_no_mlx():
    assert not imported_by("smelt.models", "smelt.models.source") & (LATE | {"mlx"})


def test_the_command_line_starts_without_what_it_may_not_need():
    assert not imported_by("smelt.api.cli") & (LATE | TORCH_WORLD)


def stream_of_a_new_thread(before: str) -> str:
    """What mlx names the first stream of a thread, after `before` ran on the main one. Streams are numbered."""
    code = """
import threading
import mlx.core as mx
thread = threading.Thread(target=lambda: print(mx.default_stream(mx.default_device())))
thread.start(); thread.join()
"""
    return python(before + code)


def test_nothing_is_computed_at_import_time():
    """An mx op at import time would make a stream on the importing thread, which is not the engine's."""
    names = [name for layer in ("kernels", "models", "engine") for name in modules(layer)]
    imports = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
    assert stream_of_a_new_thread(imports) == stream_of_a_new_thread("")


def test_an_operation_at_import_time_would_be_noticed():
    assert stream_of_a_new_thread("import mlx.core as mx; mx.arange(3)\n") != stream_of_a_new_thread("")
