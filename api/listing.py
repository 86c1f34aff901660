"""`smelt models` and `smelt pull`: what is on this machine, and bringing more."""

import argparse
import json
import sys

from .cli import Parser
from .terminal import size, table


def models(words: list[str]) -> int:
    parser = Parser(prog="smelt models", allow_abbrev=False, description="The models on this machine.")
    parser.add_argument("--model-dir", action="append", default=[], metavar="DIR", help="a further folder to look in")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(words)
    from ..models.source import installed

    found = installed(given.model_dir)
    print(as_json(found) if given.json else as_table(found))
    return 0


def as_table(found) -> str:
    if not found:
        return "No model is installed. `smelt pull mlx-community/Qwen3-0.6B-4bit` downloads a small one"
    head = ("NAME", "SIZE", "ARCHITECTURE", "WEIGHTS", "FROM", "SUPPORTED")
    return table([head, *(row(model) for model in found)])


def row(model) -> tuple[str, ...]:
    supported = "yes" if model.supported else f"no: {model.reason}"
    return (
        model.name,
        size(model.bytes),
        model.architecture or "?",
        model.quantisation or "?",
        model.source,
        supported,
    )


def as_json(found) -> str:
    keys = ("name", "bytes", "architecture", "quantisation", "source", "supported", "reason")
    rows = [{key: getattr(model, key) for key in keys} | {"path": str(model.path)} for model in found]
    return json.dumps(rows, indent=2)


def pull(words: list[str]) -> int:
    parser = Parser(
        prog="smelt pull", allow_abbrev=False, description="Download a model; an interrupted download goes on."
    )
    parser.add_argument("names", nargs="+", metavar="ORG/NAME")
    parser.add_argument("--revision", help="a branch, tag or commit (default: main)")
    parser.add_argument("--into", metavar="DIR", help="a folder for the files, instead of the Hugging Face cache")
    parser.add_argument("--force", action="store_true", help="download a model that Smelt cannot run")
    given = parser.parse_args(words)
    fetch(given)
    return 0


def fetch(given: argparse.Namespace) -> None:
    from ..models.source import SourceError
    from ..models.source import pull as download

    if given.into and len(given.names) > 1:
        raise SourceError(f"--into takes the files of one model, {len(given.names)} were named")
    for name in given.names:
        folder = download(name, given.revision, given.into, force=given.force)
        print(f"{name} is in {folder}", file=sys.stdout)
