"""Let a clean clone run uninstalled: `smelt` is this repository."""

import importlib.util
import pathlib
import sys
import types

HERE = pathlib.Path(__file__).resolve().parent

if importlib.util.find_spec("smelt") is None:
    smelt = types.ModuleType("smelt")
    smelt.__path__ = [str(HERE.parent)]
    sys.modules["smelt"] = smelt

sys.path.insert(0, str(HERE))  # helpers in tests/ are imported by name
