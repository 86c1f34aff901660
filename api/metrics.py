"""GET /metrics, in Prometheus' text format.

Written by hand, 100 lines: the client library takes 33 ms to import (2-core Linux), a fifth of the whole start-up.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .version import VERSION

if TYPE_CHECKING:
    from ..engine.events import Finished

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
COUNTERS = {
    "http_requests": "answers, by route and status",
    "generations": "finished choices, by what ended them",
    "prompt_tokens": "tokens of prompts",
    "cached_prompt_tokens": "those of them that the prefix cache held",
    "completion_tokens": "tokens generated",
    "reasoning_tokens": "those of them that were thinking",
}
HISTOGRAMS = {
    "queue": "seconds from a request's arrival to its prefill",
    "prefill": "seconds of reading a prompt",
    "decode": "seconds of generating",
    "time_to_first_token": "seconds from a request's arrival to its first token",
}
Labels = tuple[tuple[str, str], ...]


class Histogram:
    def __init__(self):
        self.counts, self.sum = [0] * (len(SECONDS) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[next((at for at, bound in enumerate(SECONDS) if value <= bound), len(SECONDS))] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*SECONDS, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What was counted since the start. Any thread may count."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counters: dict[str, dict[Labels, float]] = {name: {} for name in COUNTERS}
        self.histograms = {name: Histogram() for name in HISTOGRAMS}

    def count(self, counter: str, amount: float = 1, **labels: str) -> None:
        with self.lock:
            values, key = self.counters[counter], tuple(sorted(labels.items()))
            values[key] = values.get(key, 0) + amount

    def observe(self, histogram: str, seconds: float) -> None:
        with self.lock:
            self.histograms[histogram].observe(seconds)

    def finished(self, event: "Finished") -> None:
        used, timed = event.usage, event.timings
        self.count("generations", reason=event.reason)
        self.count("completion_tokens", used.completion_tokens)
        self.count("reasoning_tokens", used.reasoning_tokens)
        self.observe("decode", timed.decode_s)
        if event.index == 0:  # n choices share one prompt
            self.count("prompt_tokens", used.prompt_tokens)
            self.count("cached_prompt_tokens", used.cached_tokens)
            self.observe("queue", timed.queue_s)
            self.observe("prefill", timed.prefill_s)

    def lines(self) -> Iterator[str]:
        for name, doc in COUNTERS.items():
            yield from family(f"smelt_{name}_total", "counter", doc)
            for labels, value in sorted(self.counters[name].items()):
                yield sample(f"smelt_{name}_total", value, labels)
        for name, doc in HISTOGRAMS.items():
            yield from family(f"smelt_{name}_seconds", "histogram", doc)
            yield from self.histograms[name].lines(f"smelt_{name}_seconds")

    def process_response(self, req, resp, resource, req_succeeded):
        """As Falcon's middleware. Unknown paths share one label: anyone may make up any number of them."""
        self.count("http_requests", route=req.uri_template or "none", status=str(resp.status_code))


def family(name: str, kind: str, doc: str) -> Iterable[str]:
    return (f"# HELP {name} {doc}", f"# TYPE {name} {kind}")


def sample(name: str, value: float, labels: Labels = ()) -> str:
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels)
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Scrape:
    def __init__(self, house):
        self.house = house

    def on_get(self, req, resp):
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        with self.house.metrics.lock:
            lines = [*self.house.metrics.lines(), *self.gauges()]
        resp.text = "\n".join(lines) + "\n"

    def gauges(self) -> Iterator[str]:
        service = self.house.service
        yield from gauge("info", "what runs", 1, (("model", service.name), ("version", VERSION)))
        yield from gauge("ready", "1 when requests are answered", int(service.state == "ready"))
        yield from gauge("generations_inside", "requests that are running or waiting", self.house.gate.inside)
        if service.state == "ready":
            now = service.stats()
            yield from gauge("rows_running", "choices that are being read or generated", now["running"])
            yield from gauge("rows_waiting", "choices that wait for a place", now["waiting"])
            for name, value in service.memory().items():
                yield from gauge(f"memory_{name}", "of MLX", value)


def gauge(name: str, doc: str, value: float, labels: Labels = ()) -> Iterator[str]:
    yield from family(f"smelt_{name}", "gauge", doc)
    yield sample(f"smelt_{name}", value, labels)
