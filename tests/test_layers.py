"""Imports run one way: kernels <- models <- engine <- api. bench and tests may import anything."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "kernels": set(),
    "models": {"kernels"},
    "engine": {"kernels", "models"},
    "api": {"engine", "models"},  # models: where a checkpoint is found (models/source.py), never arrays
}
TRAINING = ROOT / "models" / "builtin" / "train"  # programs, not part of the package


def modules(layer):
    return [path for path in (ROOT / layer).rglob("*.py") if TRAINING not in path.parents]


def relative_targets(node, depth):
    """Top-level layers that one `from ..x import y` reaches, for a file `depth` folders below the repository."""
    if node.level != depth + 1:
        return []
    return [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


def violations(layer, source, depth):
    """What one file of `layer`, `depth` folders below the repository, imports against the rules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            for target in relative_targets(node, depth):
                if target not in MAY_IMPORT[layer] | {layer}:
                    yield f"line {node.lineno}: {layer} may not import {target}"
            if (node.module or "").startswith("smelt.") and not node.level:
                yield f"line {node.lineno}: use a relative import"
            if node.module and not node.level and node.module.split(".")[0] in FOREIGN:
                yield f"line {node.lineno}: {node.module} is for bench/ and tests/ only"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FOREIGN:
                    yield f"line {node.lineno}: {alias.name} is for bench/ and tests/ only"


FOREIGN = {"mlx_lm", "transformers", "torch"}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_run_one_way(layer):
    for path in modules(layer):
        found = list(violations(layer, path.read_text(), len(path.relative_to(ROOT).parts) - 1))
        assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize(
    "planted",
    ["from ..engine import engine", "from .. import api", "import mlx_lm", "from torch import nn", "from smelt.api import app"],
)
def test_a_planted_import_is_found(planted):
    assert list(violations("models", planted, 1))
