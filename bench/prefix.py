"""What the prefix cache saves: the turns of a conversation beside the same turns without it, in one process.

    python -m smelt.bench.prefix --turns 4 --rounds 3 --json bench/results/prefix-cpu-builtin.json

Each round opens a conversation of its own below the same system message; each turn sends all that was said before. Told
are medians of the time to read a turn's prompt, by turn, and whether all answers were the same both ways.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from .decode import machine

SYSTEM = "You answer questions about a small harbour town. Its ferry leaves at nine, its bakery opens at seven. "
ASKED = "When does the ferry leave, and what can one buy at the bakery before it does? Answer in a sentence. "


class Ways:
    """Two services with the same model: one with a prefix cache, one without."""

    def __init__(self, model: Path | None):
        from ..engine.options import Options
        from ..engine.service import Service

        name = None if model is None else str(model)
        self.services = {"kept": Service(Options(name)), "not kept": Service(Options(name, prefix_entries=0))}
        for service in self.services.values():
            service.start()
            service.wait_ready(600)

    def close(self) -> None:
        for service in self.services.values():
            service.close()

    def answer(self, way: str, messages: list[dict], tokens: int):
        """(text, prefill in ms, cached tokens, prompt tokens)"""
        from ..engine.events import Finished, Text
        from ..engine.request import Request

        asked = Request(messages=messages, max_tokens=tokens, sampling={"temperature": 0.0})
        events = list(self.services[way].submit(asked))
        end = next(event for event in events if isinstance(event, Finished))
        text = "".join(event.text for event in events if isinstance(event, Text))
        return text, 1e3 * end.timings.prefill_s, end.usage.cached_tokens, end.usage.prompt_tokens

    def conversation(self, way: str, name: str, system: int, turns: int, tokens: int) -> list[tuple]:
        said, found = [{"role": "system", "content": SYSTEM * system}], []
        for turn in range(turns):
            said.append({"role": "user", "content": f"{name} asks, for the {turn + 1}. time: {ASKED}"})
            found.append(self.answer(way, said, tokens))
            said.append({"role": "assistant", "content": found[-1][0]})
        return found


def measure(ways: Ways, system: int, turns: int, tokens: int, rounds: int) -> dict:
    seen: dict[str, list[list[tuple]]] = {way: [] for way in ways.services}
    for number in range(rounds):
        for way in ways.services:
            seen[way].append(ways.conversation(way, f"Guest {number}", system, turns, tokens))
    same = [[answer[0] for answer in one] for one in seen["kept"]] == [[a[0] for a in one] for one in seen["not kept"]]
    medians = {
        way: [[statistics.median(one[turn][part] for one in each) for part in (1, 2, 3)] for turn in range(turns)]
        for way, each in seen.items()
    }
    return {"turns": medians, "same answers": same}


def table(found: dict) -> str:
    lines = ["| turn | prompt | cached | read, ms | without the cache |", "|---|---|---|---|---|"]
    pairs = zip(found["turns"]["kept"], found["turns"]["not kept"], strict=True)
    for turn, ((ms, cached, prompt), (cold, *_)) in enumerate(pairs, 1):
        lines.append(f"| {turn} | {prompt:.0f} | {cached:.0f} | {ms:.4g} | {cold:.4g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint's folder; the built-in model if none is given")
    parser.add_argument("--system", type=int, default=16, help="how often the system message says the same")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    ways = Ways(args.model)
    found = measure(ways, args.system, args.turns, args.tokens, args.rounds)
    ways.close()
    print(table(found))
    print(f"the answers are {'the same' if found['same answers'] else 'NOT the same'} both ways")
    if args.json:
        command = " ".join(["python -m smelt.bench.prefix", *sys.argv[1:]])
        args.json.write_text(json.dumps({"command": command, "machine": machine(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
