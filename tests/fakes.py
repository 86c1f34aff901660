"""A service without a model: scripted events, in real time where a script asks for it. No thread, no mlx.

A script is a function from a Request to a list of events; a number in it is a silence of so many seconds.
"""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

from smelt.engine import events
from smelt.engine.errors import NotReady
from smelt.engine.events import FastPaths, Finished, Started, Text, Timings, TokenLogprob, Usage
from smelt.engine.options import ModelInfo, Options

WORDS = ("Hello", " from", " the", " fake", ".")
INFO = ModelInfo("fake", 4096, 257, 2, 64, "4-bit", 1000, created=1_700_000_000, tools=True, trained_context=8192, disk_bytes=1200)
TIMES = Timings(0.001, 0.01, 0.1, 0.002, FastPaths("metal", 4, 3, "pld", 4, 9, 6))


def used(prompt=7, completion=len(WORDS), cached=3, reasoning=0):
    return Usage(prompt, completion, cached, reasoning)


def finished(index=0, reason="stop", **counts):
    return Finished(reason, used(**counts), TIMES, index)


def logprob(text, top=0):
    others = tuple(TokenLogprob(i, f"t{i}", b"t", -1.0 - i) for i in range(top))
    return TokenLogprob(1, text, text.encode(), -0.5, others)


def words(request, texts=WORDS):
    """The default script: every choice says the same words, the choices in turn."""
    top = request.sampling.get("top_logprobs")
    said = []
    for text in texts:
        scores = () if top is None else (logprob(text, top),)
        said += [Text(text, index, scores) for index in range(request.n)]
    return [Started(7), *said, *(finished(index) for index in range(request.n))]


def says(*events):
    """A script that says these events to every request."""
    return lambda request: list(events)


def slowly(step_s, texts=WORDS):
    """A script that waits before each event."""

    def script(request):
        return [part for event in words(request, texts) for part in (step_s, event)]

    return script


def prefill(seconds):
    """A script that says nothing for a while, not even Started."""
    return lambda request: [seconds, *words(request)]


class FakeTokenizer:
    """One token a byte; 256 stands for the token before every text."""

    def encode(self, text, *, add_bos=False, parse_special=True):
        return [256] * add_bos + list(text.encode()) + [255] * (not parse_special)

    def decode(self, ids, skip_special=True):
        return bytes(token for token in ids if token < 256).decode("utf-8", "replace")

    def token_bytes(self, ident):
        return bytes([ident]) if ident < 256 else b"<bos>"


class FakeStream:
    def __init__(self, parts):
        self.parts, self.cancelled, self.cancelled_at = list(parts), threading.Event(), None
        self.due = time.monotonic()
        self.reads = 0

    def next(self, timeout_s=None):
        self.reads += 1
        while self.parts and isinstance(self.parts[0], (int, float)):
            self.due = max(self.due, time.monotonic()) + self.parts.pop(0)
        if not self.parts or self.cancelled.is_set():
            self.cancelled.wait(timeout_s or 0)
            return None
        wait = self.due - time.monotonic()
        if wait > 0 and timeout_s is not None and wait > timeout_s:
            self.cancelled.wait(timeout_s)
            return None
        if wait > 0 and self.cancelled.wait(wait):
            return None
        return self.parts.pop(0)

    def __iter__(self):
        while self.parts:
            event = self.next()
            if event is not None:
                yield event

    def cancel(self):
        if not self.cancelled.is_set():
            self.cancelled_at = time.monotonic()
            self.cancelled.set()


class FakeEmbedding(FakeStream):
    """Its vectors, after the silence that a script begins with."""

    def __init__(self, vectors, script):
        silence = [part for part in script(None)[:1] if isinstance(part, (int, float))] if script is not words else []
        super().__init__([*silence, vectors])

    def wait(self, timeout_s=None):
        return self.next(timeout_s)


class FakeService:
    folder = None

    def __init__(
        self, options=None, *, progress=None, name="fake", budget=None, script=words, state="ready", load_s=0.0, error=None
    ):
        self.options, self.progress, self.script = options or Options(), progress, script
        self.budget = budget
        self.name, self.info, self.state, self.error = name, INFO if state == "ready" else None, state, error
        self.load_s, self.loaded = load_s, threading.Event()
        self.requests, self.streams = [], []
        self.tokenizer = FakeTokenizer()
        if state in ("ready", "failed"):
            self.loaded.set()

    def start(self):
        if not self.loaded.is_set():
            threading.Thread(target=self.load, name="fake-engine", daemon=True).start()

    def load(self):
        for step in range(4):
            if self.progress:
                self.progress("loading weights", step + 1, 4)
            time.sleep(self.load_s / 4)
        self.state = "failed" if self.error else "ready"
        self.info = None if self.error else INFO
        self.loaded.set()

    def wait_ready(self, timeout_s=None):
        if not self.loaded.wait(timeout_s):
            raise TimeoutError
        if self.error:
            raise self.error

    def check(self):
        if self.state != "ready":
            raise NotReady("the model is still loading")

    def render(self, request):
        turns = "".join(f"<{message['role']}>{message['content']}\n" for message in request.messages)
        return "".join(f"<tool>{tool['function']['name']}\n" for tool in request.tools) + turns

    def prompt_of(self, request):
        return self.tokenizer.encode(self.render(request))

    def submit(self, request):
        self.check()
        if isinstance(self.script, Exception):
            raise self.script
        self.requests.append(request)
        self.streams.append(FakeStream(self.script(request)))
        return self.streams[-1]

    def embed(self, inputs, pooling=None):
        """Vectors of four components: how many tokens, and how they were pooled."""
        self.check()
        if isinstance(self.script, Exception):
            raise self.script
        lengths = [len(given) for given in inputs]
        self.requests.append((inputs, pooling))
        self.streams.append(FakeEmbedding([[3.0 * n, 4.0 * n, 0.0, float(pooling == "last")] for n in lengths], self.script))
        self.streams[-1].tokens = sum(lengths)
        return self.streams[-1]

    def close(self):
        self.state = "closed"
        for stream in self.streams:  # as the real one does: who still waits gets a clean error
            stream.parts = [events.Failed(NotReady("the server is shutting down"))] if stream.parts else []
            stream.due = 0

    def kernels(self):
        return [SimpleNamespace(op="linear", case="4-bit 64->256", way="reference", why="MLX computes on the CPU", calls=3)]

    def tuning(self):
        return {"chip": "cpu", "table": None, "ignored": None, "pinned": None, "ops": {}}

    def memory(self):
        return {"active_bytes": 1 << 20, "peak_bytes": 3 << 20}

    def stats(self):
        rows = {"running": len([s for s in self.streams if s.parts]), "waiting": 0}
        return self.memory() | rows | {"prefix_entries": 2, "prefix_bytes": 4096}


def at(event, index):
    return replace(event, index=index)
