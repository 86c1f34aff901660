"""An answer of the Responses dialect on its way into the engine, and what can stop it there."""

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..engine.errors import BadRequest, ContextExceeded
from ..engine.events import Event, Finished, Started, Usage
from ..engine.request import Request
from . import responses
from .response_events import Renderer
from .responses import Call


class Watched:
    """A stream that /cancel can find while it runs, by the id of its answer."""

    def __init__(self, stream, renderer: Renderer, running: dict[str, Any]):
        self.stream, self.renderer, self.running = stream, renderer, running
        self.stopped, self.prompt_tokens = False, 0
        running[renderer.ident] = self

    def next(self, timeout_s: float | None = None) -> Event | None:
        event = self.stream.next(timeout_s)
        if isinstance(event, Started):
            self.prompt_tokens = event.prompt_tokens
        if event is None and self.stopped:
            self.stopped = False
            return Finished("cancelled", Usage(self.prompt_tokens, 0))
        return event

    def stop(self) -> None:
        self.stopped = True
        self.stream.cancel()

    def cancel(self) -> None:
        self.running.pop(self.renderer.ident, None)
        self.stream.cancel()


@contextmanager
def naming_input():
    """The engine calls a conversation `messages`; here its name is `input`."""
    try:
        yield
    except BadRequest as error:
        error.param = "input" if error.param == "messages" else error.param
        raise


def submit(service, call: Call):
    """The stream of a call; one that may be truncated loses its oldest turns until it fits the context."""
    with naming_input():
        try:
            return service.submit(call.request)
        except ContextExceeded as error:
            if not call.truncate:
                raise
            return service.submit(shortened(service, call.request, error))


def shortened(service, request: Request, error: ContextExceeded) -> Request:
    """With as few turns left out as will do, found by bisection: each probe renders and tokenises."""
    tries = responses.cuts(request)
    low, high = 0, len(tries)
    while low < high:
        middle = (low + high) // 2
        fits = len(service.prompt_of(replace(request, messages=tries[middle]))) < error.context
        low, high = (low, middle) if fits else (middle + 1, high)
    if low == len(tries):
        raise error
    return replace(request, messages=tries[low])
