"""What gets installed: everything the program needs, below `smelt`, and nothing else. Built as pip would, from an sdist."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["kernels", "models", "engine", "api", "bench"]
LEFT_OUT = {"__pycache__", ".git", ".venv", "build", "dist", ".hypothesis", ".pytest_cache", ".benchmarks", ".ruff_cache"}
NOT_SHIPPED = ("models/builtin/train/", "bench/results/")  # programs that made the model, and what was measured

BUILD = """
import os, sys
from setuptools import build_meta
os.chdir(sys.argv[1])
print(getattr(build_meta, sys.argv[2])(sys.argv[3]))
"""


def link(source: str, target: str) -> None:
    """A copy that costs nothing; of a file that another process has just removed, no copy."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        pass
    except OSError:
        shutil.copy2(source, target)


def ignored(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in LEFT_OUT or name.endswith(".egg-info")]


def build(tree: Path, hook: str, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, str(tree), hook, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The tree as it is now: other programs may write to the real one meanwhile."""
    tree = tmp_path_factory.mktemp("packaging") / "tree"
    shutil.copytree(ROOT, tree, copy_function=link, ignore=ignored)
    return tree


@pytest.fixture(scope="module")
def wheel(tree) -> Path:
    """A wheel built from an sdist, so that a file which the sdist forgets is missed in the wheel."""
    with tarfile.open(build(tree, "build_sdist", tree.parent / "sdist")) as archive:
        archive.extractall(tree.parent / "unpacked", filter="data")
    (unpacked,) = (tree.parent / "unpacked").iterdir()
    return build(unpacked, "build_wheel", tree.parent / "wheel")


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}


def expected(tree: Path) -> set[str]:
    """Every module and every data file of the packages."""
    files = [path.relative_to(tree).as_posix() for name in PACKAGES for path in (tree / name).rglob("*") if path.is_file()]
    return {f"smelt/{name}" for name in files if not name.startswith(NOT_SHIPPED)}


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(tree, names):
    assert {name for name in names if ".dist-info/" not in name} == expected(tree)


def test_the_wheel_has_the_console_script_and_the_license(wheel, names):
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "smelt = smelt.api.cli:main" in zipfile.ZipFile(wheel).read(entry_points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_works_where_it_is_installed(tree, wheel, names):
    target = tree.parent / "target"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(command, check=True, capture_output=True)
    modules = sorted(name[:-3].replace("/", ".") for name in names if name.endswith(".py") and "/bench/" not in name)
    code = f"""
import importlib, importlib.util
for name in {[name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(target)!r}), module.__file__
leaked = [name for name in {PACKAGES + ["tests"]!r} if importlib.util.find_spec(name)]
assert not leaked, f"installed at top level: {{leaked}}"
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=target.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in target.iterdir()} - {"bin"} == {"smelt", wheel.name.split("-py3")[0] + ".dist-info"}


def test_the_workflows_are_valid_yaml():
    import yaml

    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        assert all(step.keys() & {"run", "uses"} for job in jobs.values() for step in job["steps"])
