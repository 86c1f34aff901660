"""What a grammar costs: decoding under one beside decoding freely, on the same model in the same process.

    python -m smelt.bench.constrained --tokens 96 --rounds 5 --json bench/results/constrained-cpu-builtin.json

Each way decodes so many tokens from the same prompt, in turn; the table shows medians: tok/s of all rows together, and
the processor's time for a step, which other programs disturb less.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from .decode import machine

BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SHAPES = {  # long enough for any number of tokens: what is compared is a step, not an answer
    "free": None,
    "JSON by a schema": ("json", {"type": "array", "items": PERSON, "minItems": 500}),
    "any JSON": ("json", {"type": "array", "minItems": 500}),
    "regex": ("regex", r"([a-z]+, ){500}"),
}


class House:
    def __init__(self, folder: Path):
        from .. import models
        from ..engine import parse
        from ..engine.chat import ChatTemplate
        from ..engine.guides import Guides
        from ..engine.tokenizer import Tokenizer, eos_ids

        self.model, self.tokenizer = models.load(folder), Tokenizer.load(folder)
        template = ChatTemplate.load(folder, self.tokenizer)
        self.format, self.ends = parse.choose(template.tool_source, self.tokenizer), eos_ids(folder, self.tokenizer)
        self.new = lambda: Guides(self.tokenizer, self.format, self.model.vocab, self.ends)
        self.guides = self.new()
        self.prompt = self.tokenizer.encode("Give me a JSON list of people with their names and ages, and do not stop. " * 3)

    def request(self, shape):
        from ..engine.request import Request, Shape

        return Request(text="x", shape=None if shape is None else Shape(*shape, "bench"))

    def sequence(self, shape, tokens: int, put):
        from ..engine.request import Sampling
        from ..engine.sequence import Sequence

        [guide] = self.guides.make(self.request(shape), None, None)
        none = frozenset()  # nothing ends a free text early
        return Sequence(self.prompt, Sampling(temperature=0.0), 0, tokens, none, put, None, guide)

    def decode(self, shape, rows: int, tokens: int) -> dict[str, float]:
        """From the first token of the last row on."""
        from ..engine.scheduler import Limits, Scheduler
        from ..engine.sequence import Token

        self.model.forget()
        scheduler, counts, marks = Scheduler(self.model, Limits()), [0] * rows, []

        def put(row: int):
            def take(item) -> None:
                counts[row] += isinstance(item, Token)
                if isinstance(item, Token) and all(counts):
                    marks.append((time.perf_counter(), time.process_time()))

            return take

        for row in range(rows):
            scheduler.add(self.sequence(shape, tokens, put(row)))
        while not scheduler.idle:
            scheduler.tick()
        assert counts == [tokens] * rows, f"{counts} of {tokens} tokens came"
        wall, cpu = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
        return {"tok/s": (len(marks) - 1) / wall, "CPU ms": 1e3 * cpu / (tokens - 1)}

    def ready_ms(self) -> dict[str, float]:
        """Until a grammar can be followed: the first one of a process, and one more."""
        from ..engine.grammar import Grammar  # noqa: F401  # imported before the clock starts

        guides, times = self.new(), {}
        for name, shape in (("first grammar", SHAPES["JSON by a schema"]), ("next grammar", SHAPES["any JSON"])):
            begin = time.perf_counter()
            guides.make(self.request(shape), None, None)
            times[name] = 1e3 * (time.perf_counter() - begin)
        return times


def measure(house: House, rows: list[int], tokens: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    found: dict = {count: {name: [] for name in SHAPES} for count in rows}
    for turn in range(rounds + 1):
        for count in rows:
            for name, shape in SHAPES.items():
                one = house.decode(shape, count, tokens)
                if turn:  # the first one warms up
                    found[count][name].append(one)
    return {str(count): {name: medians(each) for name, each in ways.items()} for count, ways in found.items()}


def medians(each: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in each) for key in each[0]}


def table(measured: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| rows | | " + " | ".join(SHAPES) + " |", "|---" * (len(SHAPES) + 2) + "|"]
    for rows, ways in measured.items():
        for key, less in (("tok/s", False), ("CPU ms", True)):
            free = ways["free"][key]
            ratios = {name: free / way[key] if less else way[key] / free for name, way in ways.items()}
            cells = [f"{ways[name][key]:.4g} ({ratio:.2f})" for name, ratio in ratios.items()]
            lines.append(f"| {rows} | {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    house = House(args.model)
    ready = house.ready_ms()
    measured = measure(house, args.rows, args.tokens, args.rounds)
    print(table(measured))
    print(", ".join(f"{name} {ms:.1f} ms" for name, ms in ready.items()))
    if args.json:
        command = " ".join(["python -m smelt.bench.constrained", *sys.argv[1:]])
        result = {"command": command, "machine": machine(), "medians": measured, "ready_ms": ready}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
