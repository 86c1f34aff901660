"""What drafts save: answers with and without prompt lookup, on the same model in the same process.

    python -m smelt.bench.speculation --rounds 3 --json bench/results/speculation-cpu-builtin.json

    edit       a rename in a function of the standard library: the answer repeats most of the prompt
    chat       questions whose answers are not in the prompt

Each request is answered every way in turn, greedily: without drafts, with lookup whatever the prompt looks like, as the
server does it unasked (the prompt's repetition decides), and, for edits, with the function as the request's
`prediction`. The table shows, summed over a task's requests: decode tok/s and the processor's time for a token, which other
programs disturb less (medians of the rounds; from the first token on), tokens a decode step, the share of drafted tokens
that were right, and how many answers are those without drafts.
"""

import argparse
import colorsys
import fnmatch
import heapq
import inspect
import json
import os
import statistics
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.events import Finished, Text
from ..engine.options import Options
from ..engine.request import Request
from ..engine.service import Service
from .decode import machine

QUESTIONS = (
    "Tell me a short story about a fox.", "Explain MLX", "What is an LLM?", "What can you do?",
    "Can you help me with something?", "List the planets",
)  # fmt: skip
WAYS = {"plain": {"enable_pld": False}, "lookup": {"enable_pld": True}, "unasked": {}, "prediction": {"enable_pld": None}}


@dataclass(frozen=True)
class Case:
    task: str
    prompt: str
    prediction: str | None = None


def edits() -> Iterator[Case]:
    for function, old, new in (
        (colorsys.rgb_to_hls, "maxc", "largest"), (colorsys.hls_to_rgb, "m2", "bound"), (fnmatch.filter, "pat", "pattern"),
        (heapq.merge, "reverse", "descending"), (textwrap.indent, "predicate", "wanted"),
    ):  # fmt: skip
        code = inspect.getsource(function).rstrip()
        yield Case("edit", f"Rename {old} to {new}.\n\n```python\n{code}\n```", f"```python\n{code}\n```")


def cases() -> list[Case]:
    return [*edits(), *(Case("chat", question) for question in QUESTIONS)]


def ways_of(case: Case) -> dict[str, dict[str, Any]]:
    predicted = WAYS | {"prediction": {"prediction": case.prediction}}
    return predicted if case.prediction else {name: fields for name, fields in WAYS.items() if name != "prediction"}


def answer(service: Service, case: Case, fields: dict[str, Any], most: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": case.prompt}]
    before = service.stats()["steps"]
    request = Request(
        messages=messages, max_tokens=most, sampling={"temperature": 0.0},
        template_kwargs={"enable_thinking": False}, **fields,
    )  # fmt: skip
    events, began = [], 0.0
    for event in service.submit(request):
        began = began or (time.process_time() if isinstance(event, Text) else 0.0)
        events.append(event)
    cpu = time.process_time() - began
    done = next(event for event in events if isinstance(event, Finished))
    paths = done.timings.paths
    return {
        "text": "".join(event.text for event in events if isinstance(event, Text)),
        "tokens": done.usage.completion_tokens,
        "steps": service.stats()["steps"] - before,
        "seconds": done.timings.decode_s,
        "cpu": cpu,
        "drafted": paths.drafted,
        "accepted": paths.accepted,
    }


def measure(service: Service, rounds: int, most: int) -> dict[str, dict[str, dict[str, Any]]]:
    """task -> way -> numbers."""
    asked = cases()
    found: dict[tuple[str, str], list[list[dict]]] = {}
    for turn in range(rounds + 1):  # the first one warms up
        for index, case in enumerate(asked):
            for name, fields in ways_of(case).items():
                one = answer(service, case, fields, most)
                if turn:
                    each = found.setdefault((case.task, name), [[] for _ in range(rounds)])
                    each[turn - 1].append(one | {"case": index})
    plain = {(task, one["case"]): one["text"] for (task, way), each in found.items() if way == "plain" for one in each[0]}
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, way), each in found.items():
        same = [one["text"] == plain[task, one["case"]] for one in each[0]]
        result.setdefault(task, {})[way] = summed(each) | {"same": sum(same), "answers": len(same)}
    return result


def summed(rounds: list[list[dict]]) -> dict[str, Any]:
    total = {key: sum(one[key] for one in rounds[0]) for key in ("tokens", "steps", "drafted", "accepted")}
    rates = [sum(one["tokens"] for one in each) / sum(one["seconds"] for one in each) for each in rounds]
    cpu = [1e3 * sum(one["cpu"] for one in each) / sum(one["tokens"] for one in each) for each in rounds]
    return total | {"tok/s": statistics.median(rates), "spread": [min(rates), max(rates)], "CPU ms": statistics.median(cpu)}


def table(measured: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = ["| task | drafts | tok/s | CPU ms | of plain's | tokens a step | drafts right | same answers |", "|---" * 8 + "|"]
    for task, ways in measured.items():
        for name, m in ways.items():
            right = f"{m['accepted'] / m['drafted']:.0%} of {m['drafted']}" if m["drafted"] else "-"
            lines.append(
                f"| {task} | {name} | {m['tok/s']:.1f} | {m['CPU ms']:.1f} | {m['CPU ms'] / ways['plain']['CPU ms']:.2f} |"
                f" {m['tokens'] / max(1, m['steps']):.2f} | {right} | {m['same']} of {m['answers']} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder, or org/name; the built-in model without it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400, help="of an answer, at most")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    service = Service(Options(model=args.model, ctx_size=2048, max_concurrent=1))
    service.start()
    service.wait_ready()
    try:
        measured = measure(service, args.rounds, args.tokens)
    finally:
        service.close()
    load = os.getloadavg()[0]
    print(table(measured))
    print(f"load of the machine: {load:.1f} on {os.cpu_count()} cores")
    if args.json:
        command = " ".join(["python -m smelt.bench.speculation", *sys.argv[1:]])
        result = {"command": command, "machine": machine(), "load": load, "cores": os.cpu_count(), "tasks": measured}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
