"""Let a clean clone run uninstalled: `smelt` is this repository."""

import gc
import importlib.util
import os
import pathlib
import sys
import types

HERE = pathlib.Path(__file__).resolve().parent

if importlib.util.find_spec("smelt") is None:
    smelt = types.ModuleType("smelt")
    smelt.__path__ = [str(HERE.parent)]
    sys.modules["smelt"] = smelt

sys.path.insert(0, str(HERE))  # helpers in tests/ are imported by name


def pytest_configure(config):
    """No cycle collector in the tests' process.

    In two of three runs of all tests it crashed (Python 3.11, mlx 0.32.4, CPU), somewhere in objects of thousands of
    tests before; no single file does it, collecting after every test. Reference counting frees all but cycles.
    """
    gc.disable()
    if os.environ.get("CI"):  # there the same examples every time: what is found at random is found at a desk
        import hypothesis

        hypothesis.settings.register_profile("ci", derandomize=True)
        hypothesis.settings.load_profile("ci")


def pytest_unconfigure(config):
    gc.freeze()  # nor at the interpreter's end
