"""Python's own standard library as a corpus: functions, docstrings and words, split into train and held-out by name.

The split hashes names, so a function of one name is on one side in every Python version, and no word of a held-out
tool or rename was ever a training word.
"""

import ast
import functools
import re
import sysconfig
import textwrap
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages", "pydoc_data",
           "encodings", "__pycache__", "tkinter", "distutils", "__phello__"}  # fmt: skip
SHORTEST, LONGEST = 60, 2600  # characters of a function


@dataclass(frozen=True)
class Function:
    name: str
    source: str
    doc: str


def held_out(name, one_in=8):
    return zlib.crc32(name.encode()) % one_in == 0


def side(name):
    return "heldout" if held_out(name) else "train"


def _files():
    lib = Path(sysconfig.get_path("stdlib"))
    for path in sorted(lib.rglob("*.py")):
        parts = path.relative_to(lib).parts
        if not any(part in SKIPPED or part.startswith("config-") for part in parts):
            yield path


@functools.cache
def _parsed():
    """(source, tree) of every module that reads and parses."""
    found = []
    for path in _files():
        try:
            source = path.read_text(encoding="utf-8")
            found.append((source, ast.parse(source)))
        except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
            continue
    return found


def _definition(node, lines):
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return textwrap.dedent("\n".join(line.rstrip() for line in lines[first - 1 : node.end_lineno]))


def _functions_of(source, tree):
    lines = source.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            text = _definition(node, lines)
            if SHORTEST <= len(text) <= LONGEST and text.isascii() and "\t" not in text and "```" not in text:
                yield Function(node.name, text, ast.get_docstring(node) or "")


def parses(text):
    try:
        ast.parse(text)
    except SyntaxError:  # a dedented body with a flush-left string, say
        return False
    return True


@functools.cache
def functions(split):
    """Functions of one side, each source once, none whose source is also on the other side."""
    seen = {}
    for source, tree in _parsed():
        for function in _functions_of(source, tree):
            seen.setdefault(function.source, function)
    return tuple(f for f in seen.values() if side(f.name) == split and parses(f.source))


@functools.cache
def words(split):
    """Lower-case words of code, comments and docstrings, seen three times or more."""
    counts = Counter(word for source, _ in _parsed() for word in re.findall(r"\b[a-z]{3,11}\b", source))
    return tuple(sorted(word for word, n in counts.items() if n >= 3 and side(word) == split))


def _sentences(doc):
    for paragraph in re.split(r"\n\s*\n", doc):
        text = " ".join(paragraph.split())
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
            if 25 <= len(sentence) <= 160 and sentence[0].isupper() and sentence[-1] == "." and sentence.isascii() and '"' not in sentence:
                yield sentence


@functools.cache
def sentences(split):
    """Whole sentences of docstrings, in order, each once."""
    found = {s: None for function in functions(split) for s in _sentences(function.doc)}
    return tuple(found)
