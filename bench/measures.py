"""What a process measures of its engine, as long as there is time: values one after another, or in turns."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Value = float | None  # None: of this turn there is none
Measure = Callable[[int], Value]  # of a salt, by which prompts differ


@dataclass(frozen=True)
class Plan:
    """What a process measures: start, decode at contexts, dispatches, prefill of lengths, steps of several rows.

    repeats, turns   values of each, and of each kind of step, if the seconds suffice
    """

    contexts: list[int]
    rows: list[int]
    prefill: list[int]
    tokens: int
    repeats: int = 3
    turns: int = 5
    seconds: float = 240.0


class Measures:
    """until  as time.perf_counter gives it: nothing is begun after that"""

    def __init__(self, engine, plan: Plan, until: float):
        self.engine, self.plan, self.until = engine, plan, until

    # What is measured

    def prompt(self, length: int, salt: int) -> list[int]:
        from .engines import prompt

        return prompt(length, self.engine.vocab, salt)

    def prompts(self, rows: int, salt: int) -> list[list[int]]:
        return [self.prompt(self.plan.contexts[0], salt + 100 * i) for i in range(rows)]

    def first_token(self) -> float:
        return self.engine.marks(self.prompt(16, 0), 1)[0]

    def decode(self, context: int, salt: int) -> float:
        marks = self.engine.marks(self.prompt(context, salt), self.plan.tokens)
        return (len(marks) - 1) / (marks[-1] - marks[0])

    def prefill(self, length: int, salt: int) -> float:
        prompt, begin = self.prompt(length, salt), time.perf_counter()
        return length / (self.engine.marks(prompt, 1)[0] - begin)

    def step(self, rows: int, salt: int) -> float:
        return 1e3 * self.engine.step_s(self.prompts(rows, salt), self.plan.tokens // 2)

    def verify(self, width: int, salt: int) -> float:
        return 1e3 * self.engine.verify_s(self.prompt(self.plan.contexts[0], salt), width, self.plan.tokens // 2)

    def device_step(self, rows: int, salt: int) -> Value:
        seconds = self.engine.device_step_s(self.prompts(rows, salt))
        if seconds is None:
            say(f"gpu@{rows} of turn {salt} is left out: the device was not busy until two steps were submitted")
            return None
        return 1e3 * seconds

    def steps(self, on_device: bool) -> dict[str, Measure]:
        """Every kind of step. on_device: also what the device alone takes."""
        widths = [n for n in self.plan.rows if 1 < n <= self.engine.widest]
        return {
            **{f"step@{rows}": lambda salt, rows=rows: self.step(rows, salt) for rows in self.plan.rows},
            **{f"verify@{width}": lambda salt, width=width: self.verify(width, salt) for width in widths},
            **{f"gpu@{n}": lambda salt, n=n: self.device_step(n, salt) for n in self.plan.rows if on_device},
        }

    # How often

    def repeated(self, key: str, measure: Measure) -> dict[str, list[Value]]:
        """`repeats` values after one that warms every shape."""
        values = [value for _, value in self.timely((key, measure, salt) for salt in range(1 + self.plan.repeats))][1:]
        if len(values) < self.plan.repeats:
            say(f"out of time: {key} measured {len(values)} of {self.plan.repeats} times")
        return {key: values} if values else {}

    def in_turns(self, measures: dict[str, Measure]) -> dict[str, list[Value]]:
        """`turns` values of each after a turn that warms every shape; of a turn that time cuts short there is none.

        What has no value in the first turn is not tried in the others.
        """
        turns: list[dict[str, Value]] = []
        for salt in range(1 + self.plan.turns):
            tried = [key for key in measures if not turns or turns[0][key] is not None]
            found = dict(self.timely((key, measures[key], salt) for key in tried))
            if len(found) < len(tried):
                say(f"out of time: {', '.join(tried)} measured {len(turns[1:])} of {self.plan.turns} times")
                break
            turns.append({key: found.get(key) for key in measures})
        return {key: [turn[key] for turn in turns[1:]] for key in measures if turns[1:]}

    def timely(self, measured: Iterable[tuple[str, Measure, int]]) -> Iterator[tuple[str, Value]]:
        """(key, its value with the salt), until time is up."""
        for key, measure, salt in measured:
            if time.perf_counter() > self.until:
                return
            yield key, measure(salt)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
