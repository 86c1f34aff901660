"""Drive an engine without HTTP: sequences in, collected tokens out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import mlx.core as mx
from smelt.engine.request import Sampling
from smelt.engine.sequence import Done, Lost, Prefilled, Sequence, Token
from smelt.engine.step import TracedStep
from smelt.kernels import launch


class Run:
    """A sequence and what came back for it."""

    def __init__(self, prompt, max_tokens=8, sampling=None, seed=0, end_ids=(), deadline=None, guide=None, speculation=None, **fields):
        self.queue = SimpleQueue()
        sampling = sampling or Sampling(**{"temperature": 0.0, **fields})
        ends = frozenset(end_ids)
        put = self.queue.put
        self.sequence = Sequence(list(prompt), sampling, seed, max_tokens, ends, put, deadline, guide, speculation)
        self.items, self.end = [], None

    def wait(self, timeout_s=60):
        until = time.monotonic() + timeout_s
        while self.end is None:
            self.take(self.queue.get(timeout=max(0.01, until - time.monotonic())))
        return self

    def take(self, item):
        self.items.append(item)
        if isinstance(item, (Done, Lost)):
            self.end = item

    @property
    def tokens(self):
        return [item.id for item in self.items if isinstance(item, Token)]

    @property
    def progress(self):
        return [item for item in self.items if isinstance(item, Prefilled)]


def run(scheduler, *runs, most=10_000):
    """Tick until every run has ended; no thread involved."""
    for r in runs:
        scheduler.add(r.sequence)
    for _ in range(most):
        scheduler.tick()
        for r in runs:
            while not r.queue.empty():
                r.take(r.queue.get())
        if all(r.end is not None for r in runs):
            scheduler.tick()
            return
    raise AssertionError("the runs did not end")


def until_drawn(scheduler, runs, count):
    """Add these and tick until each has more than `count` tokens."""
    for r in runs:
        scheduler.add(r.sequence)
    while not all(len(r.sequence.generated) > count for r in runs):
        scheduler.tick()


@contextmanager
def launches_of_traced_steps(monkeypatch) -> Iterator[list[str]]:
    """The emulator computes at once, which a trace cannot; so launches are only counted here, and give zeros."""
    launched: list[str] = []

    def count(kernel, inputs, outputs, template, groups, threads):
        launched.append(kernel.name)
        return [mx.zeros(shape, dtype) for shape, dtype in outputs]

    monkeypatch.setattr(TracedStep, "worthwhile", True)
    with launch.through(count):
        yield launched
