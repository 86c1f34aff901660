"""Is an answer the same whatever runs beside it? Greedy tokens alone, in a batch, and in verify steps of every width.

    python -m smelt.bench.same_bits                       512 tokens, published shapes that fit on a GPU, tiny on a CPU
    python -m smelt.bench.same_bits --shape tiny --tokens 32

    alone       the engine's scheduler, one stream
    batch of R  the same prompt with R - 1 others of other lengths; each of them, too, as it is alone
    width W     steps of W tokens, as speculation makes them: the last token and W - 1 drafts. One draft in three steps
                is wrong, and what follows it is taken back

`tokens` says after how many tokens the first difference is, `logits` whether the logits of every token are equal bit
for bit to those of steps of one token. The exit status is 1 where tokens differ. Equal bits are promised where the
kernels run, not for MLX's own ops on a CPU.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx

from . import engines, packed
from .checkpoints import SHAPES
from .decode import PUBLISHED, TINY, fitting, has_gpu, machine

WRONG_EVERY = 3  # steps


@dataclass(frozen=True)
class Verdict:
    """`different` is the first token that is not the same, None if all are; `logits` None where they are not seen."""

    how: str
    different: int | None
    logits: bool | None = None

    def __str__(self) -> str:
        tokens = "same" if self.different is None else f"differ from token {self.different} on"
        return f"| {self.how} | {tokens} | {'-' if self.logits is None else 'same' if self.logits else 'differ'} |"


def verdicts(
    engine: engines.Smelt, prompts: Sequence[list[int]], count: int, widths: Sequence[int]
) -> Iterator[Verdict]:
    """Of the first prompt alone, beside the others, and in steps of each width."""
    alone = [drawn(engine, [prompt], count)[0] for prompt in prompts]
    together = drawn(engine, prompts, count)
    places = [place for a, b in zip(alone, together, strict=True) if (place := first_difference(a, b)) is not None]
    yield Verdict(f"batch of {len(prompts)}", min(places, default=None))
    sums = None
    for width in (1, *widths):
        tokens, found = verified(engine.model, prompts[0], alone[0], width)
        sums = found if sums is None else sums
        yield Verdict(f"width {width}", first_difference(alone[0], tokens), found == sums)


def first_difference(a: list, b: list) -> int | None:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)


def drawn(engine: engines.Smelt, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
    """The scheduler's greedy tokens of prompts that run together."""
    sequences = [engine.add(prompt, count) for prompt in prompts]
    engine.run()
    return [sequence.generated for sequence in sequences]


def verified(model, prompt: list[int], drafts: list[int], width: int) -> tuple[list[int], list[int]]:
    """Tokens, and a checksum of each one's logits, in steps of `width` that guess `drafts`."""
    memory = model.memory()
    row = memory.open(len(prompt) + len(drafts) + width)
    logits = model.logits(model(mx.array([prompt]), memory.step([row], len(prompt)), last=True)[:, -1])
    tokens, sums, steps = mx.argmax(logits, axis=-1).tolist(), checksums(logits).tolist(), 0
    while len(tokens) < len(drafts):
        steps += 1
        guess = guessed(drafts, len(tokens) - 1, width, model.vocab, wrong=steps % WRONG_EVERY == 0)
        logits = model.logits(model(mx.array([guess]), memory.step([row], len(guess), keep=True)))[0]
        found, checks = mx.argmax(logits, axis=-1).tolist(), checksums(logits).tolist()
        right = next((i for i in range(1, len(guess)) if guess[i] != found[i - 1]), len(guess))
        memory.rewind(row, len(guess) - right)
        tokens += found[:right]
        sums += checks[:right]
    model.forget()
    return tokens[: len(drafts)], sums[: len(drafts)]


def guessed(known: list[int], start: int, width: int, vocab: int, wrong: bool) -> list[int]:
    """`width` tokens of what is known from `start` on; with `wrong` the middle one of the guesses is another."""
    guess = known[start : start + width]
    if wrong and len(guess) > 1:
        guess[len(guess) // 2] = (guess[len(guess) // 2] + 1) % vocab
    return guess


def checksums(logits: mx.array) -> mx.array:
    """[T] of logits [T, V]: equal bits give equal sums."""
    bits = logits.view({2: mx.uint16, 4: mx.uint32}[logits.dtype.size]).astype(mx.uint32)
    return (bits * (2 * mx.arange(bits.shape[1], dtype=mx.uint32) + 1)).sum(axis=-1)


def check(folder: Path, count: int, rows: int, widths: Sequence[int]) -> list[Verdict]:
    engine = engines.Smelt(folder)
    prompts = [engines.prompt(33 + 17 * i, engine.vocab, i) for i in range(rows)]
    return list(verdicts(engine, prompts, count, widths))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", help=f"default: {', '.join(PUBLISHED)} on a GPU")
    parser.add_argument("--model", type=Path, help="a checkpoint folder, instead of random weights of a shape")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs="+", default=list(range(2, 9)), choices=range(2, 9))
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    results: dict[str, list[Verdict]] = {}
    for shape in [args.model.name] if args.model else args.shape or (fitting(PUBLISHED) if has_gpu() else TINY):
        with tempfile.TemporaryDirectory() as folder:
            made = args.model or packed.write(Path(folder), SHAPES[shape], dtype=getattr(mx, args.dtype))
            results[shape] = check(made, args.tokens, args.rows, args.widths)
        rows = "\n".join(map(str, results[shape]))
        print(f"\n{shape}, {args.tokens} tokens\n\n| | tokens | logits |\n|---|---|---|\n{rows}", flush=True)
    if args.json:
        found = {shape: [asdict(verdict) for verdict in verdicts] for shape, verdicts in results.items()}
        command = " ".join(["python -m smelt.bench.same_bits", *sys.argv[1:]])
        whole = {"command": command, "machine": machine(), "shapes": found}
        args.json.write_text(json.dumps(whole, indent=2) + "\n")
    return int(any(v.different is not None for verdicts in results.values() for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
