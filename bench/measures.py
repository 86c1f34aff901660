"""What a process measures of its engine: one value of what it is asked for by name, such as `decode@512`."""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

Value = float | None  # None: of this turn there is none


@dataclass(frozen=True)
class Plan:
    """What is measured: start, decode at contexts, dispatches, prefill of lengths, steps of several rows.

    prefills, turns   values of a prefill, and of everything else, if the seconds suffice
    starts            processes of each engine
    """

    contexts: list[int]
    rows: list[int]
    prefill: list[int]
    tokens: int
    prefills: int = 3
    turns: int = 10
    starts: int = 1
    seconds: float = 400.0


class Measures:
    def __init__(self, engine, plan: Plan):
        self.engine, self.plan = engine, plan
        self.kinds = {
            "decode": self.decode, "prefill": self.prefill, "step": self.step, "verify": self.verify, "gpu": self.device_step
        }  # fmt: skip

    def value(self, key: str, salt: int) -> Value:
        """Of a key `kind@size`, with prompts that differ by salt."""
        kind, _, size = key.partition("@")
        return self.kinds[kind](int(size), salt)

    def prompt(self, length: int, salt: int) -> list[int]:
        from .engines import prompt

        return prompt(length, self.engine.vocab, salt)

    def prompts(self, rows: int, salt: int) -> list[list[int]]:
        return [self.prompt(self.plan.contexts[0], salt + 100 * i) for i in range(rows)]

    def first_token(self) -> None:
        self.engine.marks(self.prompt(16, 0), 1)

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

    def steps(self, on_device: bool) -> list[str]:
        """Every kind of step that the engine can do. on_device: also what the device alone takes."""
        if not self.engine.batches:
            return []
        widths = [n for n in self.plan.rows if 1 < n <= self.engine.widest]
        kinds = {"step": self.plan.rows, "verify": widths, "gpu": self.plan.rows if on_device else []}
        return [f"{kind}@{size}" for kind, sizes in kinds.items() for size in sizes]

    def dispatches(self) -> int:
        return self.engine.dispatches(self.prompt(self.plan.contexts[0], 7)).total()

    def memory(self) -> dict[str, float]:
        """MiB until now: MLX's peak, the process's."""
        import mlx.core as mx

        unit = 2**20 if sys.platform == "darwin" else 2**10
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return {"peak": mx.get_peak_memory() / 2**20, "rss": rss}


def serve(connection, name: str, folder: Path, plan: Plan) -> None:
    """A process's life: None once its first token is there, then answers to (method of Measures, arguments)."""
    from . import engines

    measures = Measures(engines.ENGINES[name](folder), plan)
    measures.first_token()
    connection.send(None)
    measures.engine.settle()
    while asked := connection.recv():
        method, arguments = asked
        connection.send(getattr(measures, method)(*arguments))
    connection.send(measures.engine.ways())


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
