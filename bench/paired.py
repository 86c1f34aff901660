"""Engines side by side: a process of each, of which one at a time is asked for a value, the others wait.

What a host does beside slows programs for seconds, often by half. So all that is measured is measured in turns: one
value of everything, each engine's right after the other's, and only values of the same turn are compared.
"""

import multiprocessing
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from .measures import Plan, Value, say, serve

GRACE_S = 180.0  # that one answer may take, beyond the time that is left
Values = dict[str, list[Value]]


class Late(Exception):
    """An answer did not come in time."""


class Worker:
    """A process that measures one engine. until: as time.monotonic gives it."""

    def __init__(self, name: str, folder: Path, plan: Plan, until: float):
        self.name, self.until = name, until
        context = multiprocessing.get_context("spawn")
        self.connection, end = context.Pipe()
        self.process = context.Process(target=serve, args=(end, name, folder, plan), daemon=True)
        begin = time.monotonic()
        self.process.start()
        end.close()
        self.receive()
        self.start_s = time.monotonic() - begin

    def receive(self):
        if not self.connection.poll(max(0.0, self.until - time.monotonic()) + GRACE_S):
            raise Late(f"{self.name} did not answer within {GRACE_S:.0f} s after time was up")
        try:
            return self.connection.recv()
        except EOFError:
            sys.exit(f"the process of {self.name} ended; what it said stands above")

    def ask(self, method: str, *arguments):
        self.connection.send((method, arguments))
        return self.receive()

    def finish(self) -> list[str]:
        """How its kernels ran; then it ends."""
        self.connection.send(None)
        return self.receive()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()


class Turns:
    """found  {engine: {key: values}}; those of the same index are of the same turn"""

    def __init__(self, names: list[str], folder: Path, plan: Plan, on_device: bool):
        self.names, self.folder, self.plan, self.on_device = names, folder, plan, on_device
        self.until = time.monotonic() + plan.seconds
        self.found: dict[str, Values] = {name: {} for name in names}
        self.ways: list[str] = []

    def run(self) -> None:
        """As far as time allows."""
        try:
            for _ in range(1, self.plan.starts):
                with ExitStack() as ended:
                    self.started(ended)
            with ExitStack() as ended:
                self.measure(self.started(ended))
        except Late as late:
            say(str(late))

    def started(self, ended: ExitStack) -> dict[str, Worker]:
        workers = {}
        for name in self.names:
            workers[name] = ended.enter_context(Worker(name, self.folder, self.plan, self.until))
            self.put(name, "start", workers[name].start_s)
        return workers

    def put(self, name: str, key: str, value: Value) -> None:
        self.found[name].setdefault(key, []).append(value)

    def measure(self, workers: dict[str, Worker]) -> None:
        """A turn that warms all shapes; memory is read in it before streams run together, which only Smelt's do."""
        prompts = [f"decode@{n}" for n in self.plan.contexts] + [f"prefill@{n}" for n in self.plan.prefill]
        steps = {name: worker.ask("steps", self.on_device) for name, worker in workers.items()}
        together = list(dict.fromkeys(key for keys in steps.values() for key in keys))
        asked = [(key, name) for key in prompts for name in workers]
        batches = [(key, name) for key in together for name in workers if key in steps[name]]
        tried = self.warm(workers, asked)
        for name, worker in workers.items():
            self.put(name, "dispatches", worker.ask("dispatches"))
            for key, value in worker.ask("memory").items():
                self.put(name, key, value)
        self.turns(workers, tried + self.warm(workers, batches))
        self.ways = [way for worker in workers.values() for way in worker.finish()]

    def warm(self, workers: dict[str, Worker], asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of (key, engine) that there was time for, and that have a value."""
        tried = []
        for key, name in asked:
            if time.monotonic() > self.until:
                say(f"out of time before {key} of {name}")
                break
            if workers[name].ask("value", key, 0) is not None:
                tried.append((key, name))
        return tried

    def turns(self, workers: dict[str, Worker], asked: list[tuple[str, str]]) -> None:
        """Whole ones, every other one with the engines the other way round."""
        for turn in range(1, 1 + self.plan.turns):
            if time.monotonic() > self.until:
                say(f"out of time: {turn - 1} of {self.plan.turns} turns")
                return
            due = [pair for pair in asked if turn <= self.plan.prefills or not pair[0].startswith("prefill@")]
            for key, name in due if turn % 2 else due[::-1]:
                self.put(name, key, workers[name].ask("value", key, turn))


def known(values: list[Value]) -> list[float]:
    return [value for value in values if value is not None]


def medians(values: Values) -> dict[str, float]:
    found = {key: known(side) for key, side in values.items()}
    return {key: statistics.median(side) for key, side in found.items() if side}


def ratios(ours: list[Value], theirs: list[Value]) -> list[float]:
    """Of values of the same turn, where both are known."""
    pairs = zip(ours, theirs, strict=True)
    return [a / b for a, b in pairs if a is not None and b is not None]
