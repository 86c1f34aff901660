"""What a quantised KV cache costs and saves: bytes a token, error, and time of a decode step at several contexts.

    python -m smelt.bench.kv_quant                                   qwen3-4b on a GPU, a tiny shape on a CPU
    python -m smelt.bench.kv_quant --shape llama-3.2-1b --contexts 4096 32768 --rows 1 8 --json out.json
    python -m smelt.bench.kv_quant --quick                           few tokens: does it run at all

    bytes       that a token takes in all layers' pages: codes, scales and biases
    KL, top     of the model's next-token probabilities along a text, against those without quantisation: divergence in
                nats, mean over tokens, and the share of tokens whose likeliest next one is the same
    step@C x R  milliseconds of a step of R streams after prompts of C tokens, by the engine's scheduler, once all of them
                decode: median of --repeats, each of which reads the prompts anew

Errors need a model that has learnt something: the built-in one on a text of this repository, or the checkpoint given by
--model. Times are of random weights of a shape, or of that checkpoint; where a GPU has no kernel for a mode, or on a CPU, they
are those of unpacking (`ways` in the JSON says which).
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
from pathlib import Path

import mlx.core as mx

from .. import models
from ..engine import kv_cache
from ..engine.options import KV_MODES
from ..engine.tokenizer import Tokenizer
from ..models import source
from . import engines, packed
from .checkpoints import SHAPES
from .decode import has_gpu, machine

TEXT = Path(__file__).resolve().parents[1] / "models" / "builtin" / "EVALUATION.md"
PIECE = 128  # tokens of the text that are read at once


# ---- error


def log_probabilities(model, tokens: list[int]) -> mx.array:
    """[T, V] float32 of the token after each."""
    model.forget()
    memory, found = model.memory(), []
    row = memory.open(len(tokens))
    for begin in range(0, len(tokens), PIECE):
        piece = tokens[begin : begin + PIECE]
        logits = model.logits(model(mx.array([piece]), memory.step([row], len(piece))))[0].astype(mx.float32)
        found.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        mx.eval(found[-1])
    return mx.concatenate(found)


def errors(folder: Path, text: str, modes: list[str], count: int) -> dict[str, dict[str, float]]:
    model, tokens = models.load(folder), Tokenizer.load(folder).encode(text)[:count]
    exact, found = log_probabilities(model, tokens), {}
    for mode in modes:
        for pages in model.pages():
            pages.pack(None)
        kv_cache.prepare(model, mode)
        ours = log_probabilities(model, tokens)
        same = mx.argmax(ours, axis=-1) == mx.argmax(exact, axis=-1)
        found[mode] = {
            "kl": mx.mean((mx.exp(exact) * (exact - ours)).sum(-1)).item(), "top": mx.mean(same.astype(mx.float32)).item(),
        }  # fmt: skip
    return found


# ---- time


def times(folder: Path, mode: str, args) -> dict:
    """Bytes of a token, milliseconds by (context, rows), and which way every op went."""
    engine = engines.Smelt(folder, mode)
    found = {"bytes": sum(pages.slot_bytes for pages in engine.scheduler.memory.pages), "steps": []}
    for context in args.contexts:
        for rows in args.rows:
            prompts = [engines.prompt(context, engine.vocab, 100 * i) for i in range(rows)]
            values = [1e3 * engine.step_s(prompts, args.steps) for _ in range(args.repeats)]
            found["steps"].append({"context": context, "rows": rows, "ms": statistics.median(values), "values": values})
    found["ways"] = [way for way in engine.ways() if "attention" in way or "pages" in way or "qk_norm_rope" in way]
    return found


def measured(args) -> dict:
    """{mode: what was found}"""
    with tempfile.TemporaryDirectory() as made:
        shaped = args.model or packed.write(Path(made), SHAPES[args.shape])
        found = {}
        for mode in args.modes:
            found[mode] = times(shaped, mode, args)
            print(f"{mode}: measured", file=sys.stderr, flush=True)
            gc.collect()
            mx.clear_cache()
    away = errors(args.model or source.locate(None), args.text.read_text(), args.modes, args.tokens)
    return {mode: values | away[mode] for mode, values in found.items()}


def table(found: dict) -> str:
    first = next(iter(found.values()))
    steps = [f"step@{step['context']} x {step['rows']}, ms" for step in first["steps"]]
    head = ["mode", "bytes a token", f"of {next(iter(found))}", "KL, nats", "same top", *steps]
    rows = [
        [mode, f"{v['bytes']}", f"{v['bytes'] / first['bytes']:.3f}", f"{v['kl']:.2g}", f"{v['top']:.1%}",
         *(f"{step['ms']:.3f}" for step in v["steps"])]
        for mode, v in found.items()
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="default: qwen3-4b on a GPU, else tiny")
    parser.add_argument("--model", type=Path, help="a checkpoint folder, for times and errors")
    parser.add_argument("--modes", choices=KV_MODES, nargs="+", default=list(KV_MODES))
    parser.add_argument("--contexts", type=int, nargs="*", help="lengths of prompts; without any, nothing is timed")
    parser.add_argument("--rows", type=int, nargs="+", help="streams that decode together")
    parser.add_argument("--steps", type=int, help="that one value is the mean of")
    parser.add_argument("--text", type=Path, default=TEXT, help="a file to measure errors along")
    parser.add_argument("--tokens", type=int, help="of it")
    parser.add_argument("--repeats", type=int, help="values of each time")
    parser.add_argument("--quick", action="store_true", help="few tokens, once, a tiny shape")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    args = parser.parse_args()
    large = has_gpu() and not args.quick
    defaults = {
        "shape": "qwen3-4b" if large else "tiny", "contexts": [512, 4096, 16384] if large else [32, 256],
        "rows": [1, 8] if large else [1, 2], "steps": 64 if large else 4, "tokens": 96 if args.quick else 1024,
        "repeats": 1 if args.quick else 2,
    }  # fmt: skip
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main() -> None:
    args = arguments()
    found = measured(args)
    print(table(found))
    if args.json:
        command = " ".join(["python -m smelt.bench.kv_quant", *sys.argv[1:]])
        shape = args.model.name if args.model else args.shape
        whole = {"command": command, "machine": machine(), "shape": shape, "modes": found}
        args.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
