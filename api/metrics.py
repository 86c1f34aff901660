"""GET /metrics, by Prometheus' client library.

The counts are kept here, in dictionaries: the library takes 33 ms to import (2-core Linux), a fifth of the whole
start-up, so it is imported by the first scrape, and collects what has been counted by then.
"""

import bisect
import functools
import itertools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .version import VERSION

if TYPE_CHECKING:
    from ..engine.events import Finished

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "http_requests": ("answers, by route and status", ("route", "status")),
    "generations": ("finished choices, by what ended them", ("reason",)),
    "prompt_tokens": ("tokens of prompts", ()),
    "cached_prompt_tokens": ("those of them that the prefix cache held", ()),
    "cached_prompts": ("prompts of which it held a part", ()),
    "completion_tokens": ("tokens generated", ()),
    "reasoning_tokens": ("those of them that were thinking", ()),
    "drafted_tokens": ("tokens that were guessed, to be verified several at once", ()),
    "accepted_tokens": ("those of them that were right", ()),
    "embedding_tokens": ("tokens of texts that were made vectors", ()),
}
HISTOGRAMS = {
    "template": "seconds of making a prompt's text and tokens",
    "queue": "seconds from a request's arrival to its prefill",
    "prefill": "seconds of reading a prompt",
    "decode": "seconds of generating",
    "time_to_first_token": "seconds from a request's arrival to its first token",
}


class Histogram:
    def __init__(self):
        self.counts, self.sum = [0] * (len(SECONDS) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(SECONDS, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*map(str, map(float, SECONDS)), "+Inf"]
        return list(zip(bounds, itertools.accumulate(self.counts), strict=True))


class Metrics:
    """What was counted since the start. Any thread may count."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counters: dict[str, dict[tuple[str, ...], float]] = {
            name: {} if labels else {(): 0} for name, (_, labels) in COUNTERS.items()
        }
        self.histograms = {name: Histogram() for name in HISTOGRAMS}

    def count(self, counter: str, *labels: str, amount: float = 1) -> None:
        with self.lock:
            values = self.counters[counter]
            values[labels] = values.get(labels, 0) + amount

    def observe(self, histogram: str, seconds: float) -> None:
        with self.lock:
            self.histograms[histogram].observe(seconds)

    def finished(self, event: "Finished", first: bool) -> None:
        """`first`: of the choices that share a prompt, whose cost is counted once."""
        used, timed = event.usage, event.timings
        self.count("generations", event.reason)
        self.count("completion_tokens", amount=used.completion_tokens)
        self.count("reasoning_tokens", amount=used.reasoning_tokens)
        self.count("drafted_tokens", amount=timed.paths.drafted)
        self.count("accepted_tokens", amount=timed.paths.accepted)
        self.observe("decode", timed.decode_s)
        if first:
            self.count("prompt_tokens", amount=used.prompt_tokens)
            self.count("cached_prompt_tokens", amount=used.cached_tokens)
            self.count("cached_prompts", amount=used.cached_tokens > 0)
            self.observe("template", timed.template_s)
            self.observe("queue", timed.queue_s)
            self.observe("prefill", timed.prefill_s)

    def process_response(self, req, resp, resource, req_succeeded):
        """As Falcon's middleware. Unknown paths share one label: anyone may make up any number of them."""
        self.count("http_requests", req.uri_template or "none", str(resp.status_code))


class Collector:
    """What Prometheus' library asks for at every scrape."""

    def __init__(self, house):
        self.models, self.gate, self.metrics = house.models, house.gate, house.metrics

    def collect(self) -> Iterator:
        with self.metrics.lock:  # not while they are written
            counted = [*self.counters(), *self.histograms()]
        yield from counted
        yield from self.gauges()

    def counters(self) -> Iterator:
        from prometheus_client.core import CounterMetricFamily

        for name, (doc, labels) in COUNTERS.items():
            family = CounterMetricFamily(f"smelt_{name}", doc, labels=labels)
            for values, count in sorted(self.metrics.counters[name].items()):
                family.add_metric(values, count)
            yield family

    def histograms(self) -> Iterator:
        from prometheus_client.core import HistogramMetricFamily

        for name, doc in HISTOGRAMS.items():
            histogram = self.metrics.histograms[name]
            yield HistogramMetricFamily(
                f"smelt_{name}_seconds", doc, buckets=histogram.buckets(), sum_value=histogram.sum
            )

    def gauges(self) -> Iterator:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        models, ready = self.models, self.models.state == "ready"
        yield InfoMetricFamily("smelt", "what runs", {"model": models.name, "version": VERSION})
        yield GaugeMetricFamily("smelt_ready", "1 when requests are answered", int(ready))
        yield GaugeMetricFamily("smelt_generations_inside", "requests that are running or waiting", self.gate.inside)
        yield from self.of_models([resident for resident in models.loaded() if resident.state == "ready"])
        if ready:
            for name, value in models.process.memory().items():
                yield GaugeMetricFamily(f"smelt_memory_{name}", "of MLX", value)

    def of_models(self, residents: list) -> Iterator:
        from prometheus_client.core import GaugeMetricFamily

        now = [(resident.name, resident.service.stats(), resident.resident_bytes) for resident in residents]
        values = {
            "rows_running": ("choices that are being read or generated", [(name, s["running"]) for name, s, _ in now]),
            "rows_waiting": ("choices that wait for a place", [(name, s["waiting"]) for name, s, _ in now]),
            "prefix_cache_entries": ("sequences that are kept", [(name, s["prefix_entries"]) for name, s, _ in now]),
            "prefix_cache_bytes": ("that they take besides rows", [(name, s["prefix_bytes"]) for name, s, _ in now]),
            "model_bytes_resident": ("of the weights of each loaded model", [(name, size) for name, _, size in now]),
        }
        for name, (doc, rows) in values.items():
            family = GaugeMetricFamily(f"smelt_{name}", doc, labels=("model",))
            for model, value in rows:
                family.add_metric((model,), value)
            yield family


class Scrape:
    def __init__(self, house):
        self.house = house

    @functools.cached_property
    def registry(self):
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(self.house))
        ProcessCollector(registry=registry)
        return registry

    def on_get(self, req, resp):
        from prometheus_client.exposition import choose_encoder

        encode, resp.content_type = choose_encoder(req.get_header("Accept") or "")
        resp.data = encode(self.registry)
