"""`smelt tune`: the knobs of the kernels for one model, on this chip, in bounded time."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..engine.options import KV_MODES
from .cli import Parser
from .flag import number
from .terminal import Bar, table

SECONDS, QUICK_SECONDS, QUICK_ROUNDS = 120.0, 15.0, 3


def main(words: list[str], clock: Callable[[], float] = time.perf_counter) -> int:
    from ..engine import tune

    given = parser(tune.NAMES).parse_args(words)
    tune.require_gpu()
    seconds = given.seconds or (QUICK_SECONDS if given.quick else SECONDS)
    rounds = {"rounds": QUICK_ROUNDS} if given.quick else {}
    bar = Bar.on_terminal(sys.stderr)
    found = tune.search_for(
        given.model, given.model_dir, given.op, seconds, clock=clock, progress=bar, kv_quant=given.kv_quant, **rounds
    )
    path = tune.keep_found(found) if found and not given.dry_run else None
    print(as_json(found, path) if given.json else as_text(found, path))
    return 0


def parser(ops: tuple[str, ...]) -> Parser:
    made = Parser(
        prog="smelt tune", allow_abbrev=False,
        description="Find the fastest knobs of the kernels for a model on this chip, and keep them.",
    )  # fmt: skip
    made.add_argument("model", nargs="?", help="the model to tune for (default: the built-in one)")
    made.add_argument("--model-dir", action="append", default=[], metavar="DIR", help="a further folder to look in")
    made.add_argument(
        "--seconds", type=number(1, 86400), metavar="S", help=f"for the whole search (default: {SECONDS:g})"
    )
    made.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SECONDS:g} s, {QUICK_ROUNDS} rounds: is anything far off"
    )
    made.add_argument("--op", nargs="+", default=[], choices=ops, help="only these (default: all)")
    made.add_argument("--kv-quant", choices=KV_MODES, default="off", help="with the KV cache that `serve` has so")
    made.add_argument("--dry-run", action="store_true", help="say what was found, and keep nothing")
    made.add_argument("--json", action="store_true", help="for programs")
    return made


def as_text(found: list, path: Path | None) -> str:
    if not found:
        return "Nothing was tuned: the model runs no kernel that has knobs here. `smelt doctor` says why"
    rows = [("OP", "SHAPE", "BEFORE, us", "NOW, us", "TRIED", "KNOBS")]
    rows += [
        (r.op, r.key, f"{r.before_us:.2f}", f"{r.us:.2f}", f"{r.tried} of {r.candidates}", knobs_of(r)) for r in found
    ]
    wrong = [f"WRONG  {r.op} {r.key} with {words(knobs)}: {why}" for r in found for knobs, why in r.wrong]
    better = sum(r.knobs is not None for r in found)
    last = f"{better} of {len(found)} have better knobs now: {path}" if path else "Nothing was kept"
    return "\n".join([table(rows), *wrong, last])


def knobs_of(result) -> str:
    return "as they were" if result.knobs is None else words(result.knobs)


def words(knobs: dict) -> str:
    return " ".join(f"{name}={value}" for name, value in knobs.items())


def as_json(found: list, path: Path | None) -> str:
    keys = ("op", "key", "knobs", "us", "before_us", "tried", "candidates")
    rows = [{key: getattr(r, key) for key in keys} | {"wrong": [list(pair) for pair in r.wrong]} for r in found]
    return json.dumps({"table": str(path) if path else None, "found": rows}, indent=2)
