"""Let a clean clone run uninstalled: `smelt` is this repository."""

import importlib.util
import os
import pathlib
import sys
import types

HERE = pathlib.Path(__file__).resolve().parent

# On CUDA MLX rounds the factors of float32 products to 11 bits, unless told otherwise: references must be exact.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

if importlib.util.find_spec("smelt") is None:
    smelt = types.ModuleType("smelt")
    smelt.__path__ = [str(HERE.parent)]
    sys.modules["smelt"] = smelt

sys.path.insert(0, str(HERE))  # helpers in tests/ are imported by name


def pytest_configure(config):
    if os.environ.get("CI"):  # there the same examples every time: what is found at random is found at a desk
        import hypothesis

        hypothesis.settings.register_profile("ci", derandomize=True)
        hypothesis.settings.load_profile("ci")
