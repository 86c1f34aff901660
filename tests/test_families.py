"""The table of families: every model_type has a file, and the file says in its first line what it is."""

import subprocess
import sys
from pathlib import Path

import pytest
from smelt import models


def test_every_family_describes_itself():
    found = models.describe_families()
    assert [kind for kind, _, _ in found] == list(models.FAMILIES)
    for kind, title, notes in found:
        assert title and notes, f"{kind}: the first line of its file is not 'Title: notes.'"
        assert len(title) <= 40 and not title.endswith(".") and not notes.endswith("."), kind


@pytest.mark.parametrize("name", sorted(set(models.FAMILIES.values())))
def test_every_family_has_a_file_with_build_and_a_test(name):
    family = models.importlib.import_module(f"smelt.models.{name}")
    assert callable(family.build)
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("checkpoints*.py"))
    kinds = [kind for kind, file in models.FAMILIES.items() if file == name]
    assert any(f'"{kind}"' in tests for kind in kinds), f"no test writes a checkpoint of {' or '.join(kinds)}"


def test_describing_computes_nothing():
    """Neither a stream nor a byte of MLX's: the table is made where there is no GPU."""
    code = (
        "import sys, smelt.models as m; assert 'mlx.core' not in sys.modules; m.describe_families();"
        " import mlx.core as mx; assert mx.get_active_memory() == mx.get_peak_memory() == 0"
    )
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import conftest; {code}"
    subprocess.run([sys.executable, "-c", code], check=True)
