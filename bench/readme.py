"""Write the generated parts of README.md, and api/PARAMETERS.md: what the code says, where a person reads it.

    python -m smelt.bench.readme            write them
    python -m smelt.bench.readme --check    say which are out of date, and exit with 1

A part stands between `<!-- name -->` and `<!-- /name -->`: models, flags, and numbers, which come from
bench/results/.
"""

import json
import re
import sys
from pathlib import Path

from ..api import flags, parameters
from ..api.dialects import TABLES
from ..models import describe_families
from . import decode, kv_quant, predict

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def models() -> str:
    titles: dict[tuple[str, str], list[str]] = {}
    for model_type, title, notes in describe_families():
        titles.setdefault((title, notes), []).append(f"`{model_type}`")
    rows = [f"| {title} | {', '.join(types)} | {notes} |" for (title, notes), types in titles.items()]
    return "\n".join(["| family | `model_type` | what it is made of |", "|---|---|---|", *rows])


def numbers() -> str:
    return "\n\n".join(one_result(json.loads(path.read_text())) for path in sorted(RESULTS.glob("decode-*.json")))


def one_result(result: dict) -> str:
    machine = result["machine"]
    versions = f"mlx {machine['mlx']}, mlx-lm {machine['mlx-lm']}"
    head = f"{machine['chip']}, {machine['device']}, {versions}, {machine['date']}: `{result['command']}`"
    if "note" in result:
        head += f" ({result['note']})"
    return "\n".join([head, "", decode.table(result)])


def kv_cache() -> str:
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("kv-quant-*.json"))]
    heads = [f"{r['machine']['chip']}, {r['machine']['device']}, {r['shape']}: `{r['command']}`" for r in found]
    return "\n\n".join(f"{head}\n\n{kv_quant.table(r['modes'])}" for head, r in zip(heads, found, strict=True))


PARTS = {
    "models": models, "flags": flags.markdown, "numbers": numbers, "kv cache": kv_cache, "predicted": predict.markdown,
}  # fmt: skip


def filled(text: str) -> str:
    for name, make in PARTS.items():
        part = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        text = part.sub(lambda match, made=make(): f"{match[1]}{made.strip()}\n{match[2]}", text)
    return text


def wanted() -> dict[Path, str]:
    readme = ROOT / "README.md"
    tables = f"# Parameters\n\n{parameters.markdown(TABLES)}\n"
    return {readme: filled(readme.read_text()), ROOT / "api" / "PARAMETERS.md": tables}


def main() -> int:
    stale = [path for path, text in wanted().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        print("\n".join(f"{path.relative_to(ROOT)} is out of date: run python -m smelt.bench.readme" for path in stale))
        return bool(stale)
    for path, text in wanted().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
