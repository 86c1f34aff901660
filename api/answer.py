"""One generation: from a `Request` to an answer, whole or streamed, in whatever dialect the renderer speaks.

A worker thread of the server runs all of it. While nothing comes (the request waits, or its prompt is being read)
the thread wakes every `poll_s` to ask whether the client is still there: nothing is written, so nobody else notices.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..engine.events import Event, Failed, FastPaths, Finished, Progress, Started
from .body import read_json
from .errors import as_request_error, send
from .house import Gate, House
from .metrics import Metrics
from .request_ids import id_of
from .settings import Settings
from .sse import SseBody

log = logging.getLogger("smelt")
CLIENT_GONE = "499 Client Closed Request"  # nobody reads it; nginx's number for it shows in logs


class Running:
    """The stream of one generation, and its place at the gate. `close` gives up both, once, from any thread.

    ident        names it in the log
    choices      how many are generated, `per_prompt` of them to one prompt
    """

    def __init__(
        self,
        submit: Callable[[], Any],
        gate: Gate,
        metrics: Metrics,
        ident: str,
        choices: int = 1,
        per_prompt: int = 1,
    ):
        gate.enter()
        try:
            self.stream = submit()
        except BaseException:
            gate.leave()
            raise
        self.gate, self.metrics, self.ident = gate, metrics, ident
        self.open_choices, self.per_prompt = choices, per_prompt
        self.peeked: deque[Event] = deque()
        self.began, self.spoke = time.monotonic(), False
        self.lock = threading.Lock()
        self.closed = False

    @property
    def over(self) -> bool:
        return self.open_choices == 0 and not self.peeked

    def peek(self, timeout_s: float) -> None:
        """Look at what comes soon, up to the first token: what fails at once gets a status, not a broken stream."""
        until = time.monotonic() + timeout_s
        while event := self.take(max(0.0, until - time.monotonic())):
            if isinstance(event, Failed):
                raise as_request_error(event.error)
            self.peeked.append(event)
            if not isinstance(event, (Started, Progress)):
                return

    def next(self, timeout_s: float) -> Event | None:
        return self.peeked.popleft() if self.peeked else self.take(timeout_s)

    def take(self, timeout_s: float) -> Event | None:
        event = self.stream.next(timeout_s)
        if event is not None:
            self.note(event, time.monotonic() - self.began)
        return event

    def note(self, event: Event, seconds: float) -> None:
        if isinstance(event, Finished):
            self.open_choices -= 1
            self.metrics.finished(event, first=event.index % self.per_prompt == 0)
            log_finished(event, seconds, self.ident)
            log_drafts(event.timings.paths, self.ident)
        elif isinstance(event, Failed):
            self.open_choices = 0
            self.metrics.count("generations", "failed")
        elif not self.spoke and not isinstance(event, (Started, Progress)):
            self.spoke = True
            self.metrics.observe("time_to_first_token", seconds)

    def close(self) -> None:
        with self.lock:
            first, self.closed = not self.closed, True
        if first:
            if self.open_choices:  # the client left
                self.metrics.count("generations", "cancelled", amount=self.open_choices)
            self.stream.cancel()
            self.gate.leave()


def log_finished(event: Finished, seconds: float, ident: str) -> None:
    """One line an answer, as mlx-serve writes it, and its request's id."""
    used, timed = event.usage, event.timings
    read = (used.prompt_tokens - used.cached_tokens) / timed.prefill_s if timed.prefill_s else 0
    written = used.completion_tokens / timed.decode_s if timed.decode_s else 0
    log.info(
        "<- %d+%d tokens (%.0f ms) [%.1f/%.1f tok/s] [%s] %s",
        used.prompt_tokens,
        used.completion_tokens,
        seconds * 1e3,
        read,
        written,
        event.reason,
        ident,
    )


def log_drafts(paths: FastPaths, ident: str) -> None:
    """One line an answer that was drafted, as mlx-serve writes it."""
    if not paths.drafts:
        return
    log.info(
        "[spec-stats] mode=%s attempts=%d accepts=%d avg_per_round=%.2f per_draft_pct=%.1f runtime_disabled=%s %s",
        paths.speculation,
        paths.drafts,
        paths.accepted,
        paths.accepted / paths.drafts,
        100 * paths.accepted / paths.drafted,
        str(paths.disabled).lower(),
        ident,
    )


def answer(req, resp, running: Running, renderer, settings: Settings, stream: bool) -> None:
    gone = req.env.get("waitress.client_disconnected", bool)
    try:
        running.peek(settings.poll_s)
        if stream:
            begin_stream(resp, SseBody(running, renderer, gone, settings))
        else:
            send_whole(resp, running, renderer, gone, settings)
    except BaseException:
        running.close()
        raise


def begin_stream(resp, body: SseBody) -> None:
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")  # nginx would hold events back
    resp.stream = body


def send_whole(resp, running: Running, renderer, gone: Callable[[], bool], settings: Settings) -> None:
    seen = list(until_over(running, gone, settings.poll_s))
    running.close()
    if running.over:
        send(resp, renderer.whole_of(seen))
    else:
        resp.status = CLIENT_GONE


def until_over(running: Running, gone: Callable[[], bool], poll_s: float) -> Iterator[Event]:
    """Every event of an answer; it ends early when the client has left."""
    while not running.over:
        event = running.next(poll_s)
        if isinstance(event, Failed):
            raise as_request_error(event.error)
        if event is not None:
            yield event
        if gone():
            return


class Generation:
    """What the resource of every dialect does with a parsed body."""

    def __init__(self, house: House):
        self.house, self.models, self.settings = house, house.models, house.settings

    def body(self, req) -> dict[str, Any]:
        return read_json(req, self.settings.max_body_bytes)

    @contextmanager
    def service_of(self, model: str | None) -> Iterator[Any]:
        """What answers for a model; it stays loaded inside. Waiting for it to be loaded takes a place at the gate."""
        lease = self.models.lease(model)
        try:
            service = lease.ready()
            if service is None:
                with self.house.gate.place():
                    service = lease.wait(self.models.options.timeout_s or None)
            service.check()
            yield service
        finally:
            lease.release()

    def run(self, req, resp, call, submit, choices: int, renderer, watch=lambda stream: stream) -> None:
        """Answer with the events of the stream that `submit(service)` gives, once the call's model is loaded.

        watch  stands between the stream and the answer
        """
        house, per_prompt = self.house, renderer.per_prompt
        begin = lambda: watch(house.models.stream(call.model, submit))  # noqa: E731
        running = Running(begin, house.gate, house.metrics, id_of(req), choices, per_prompt)
        answer(req, resp, running, renderer, self.settings, call.stream)
