"""The routes of the Responses dialect: making answers, and asking for those that were made."""

import time
import uuid
from dataclasses import replace
from typing import Any

from ..engine.errors import BadRequest, ContextExceeded
from ..engine.events import Event, Finished, Started, Usage
from ..engine.request import Request
from . import response_items, responses, rules
from .answer import Generation, House
from .errors import Missing, Unsupported, send
from .response_events import Renderer, usage
from .response_store import Entry, Shelf
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


def submit(service, call: Call):
    """The stream of a call; one that may be truncated loses its oldest turns until it fits the context."""
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


class Dialect(Generation):
    def __init__(self, house: House, shelf: Shelf):
        super().__init__(house)
        self.shelf = shelf


class Responses(Dialect):
    def on_post(self, req, resp):
        call = responses.parse(self.body(req), self.shelf.memory, self.settings.enable_thinking)
        renderer = Renderer(call, call.model or self.service.name, self.shelf.seal, keeper(self.shelf.store, call))
        watch = lambda: Watched(submit(self.service, call), renderer, self.shelf.running)  # noqa: E731
        self.run(req, resp, watch, 1, renderer, call.stream)


def keeper(store, call: Call):
    """Puts the finished body into the store, where the call wants that."""
    if not call.store:
        return lambda body: None
    return lambda body: store.put(Entry(body, call.items))


class Response(Dialect):
    def on_get(self, req, resp, ident):
        if req.get_param("stream") == "true":
            raise Unsupported("stream: a finished answer is not streamed again; leave it out", "stream")
        running = self.shelf.running.get(ident)
        send(resp, running.renderer.body("in_progress") if running else self.shelf.entry(ident).body)

    def on_delete(self, req, resp, ident):
        self.shelf.entry(ident)
        self.shelf.store.pop(ident)
        send(resp, {"id": ident, "object": "response", "deleted": True})


class InputItems(Dialect):
    """The items that an answer was given, the newest first, as OpenAI lists them."""

    def on_get(self, req, resp, ident):
        items = [response_items.listed(item) for item in self.shelf.entry(ident).items]
        if rules.one_of("asc", "desc").check("order", req.get_param("order") or "desc") == "desc":
            items.reverse()
        items = items[place(items, "after", req.get_param("after"), 1) :]
        items = items[: place(items, "before", req.get_param("before"), 0) if req.get_param("before") else None]
        page = items[: limit_of(req.get_param("limit"))]
        send(resp, listing(page, len(page) < len(items)))


def place(items: list[dict], name: str, ident: str | None, offset: int) -> int:
    if ident is None:
        return 0
    for index, item in enumerate(items):
        if item["id"] == ident:
            return index + offset
    raise BadRequest(f"{name} is {rules.shown(ident)}, which is none of these items", name)


def limit_of(given: str | None) -> int:
    if given is None:
        return 20
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else given
    return rules.check_integer("limit", number, 1, 100)


def listing(page: list[dict], more: bool) -> dict[str, Any]:
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": more}


class InputTokens(Dialect):
    def on_post(self, req, resp):
        memory, thinking = self.shelf.memory, self.settings.enable_thinking
        call = responses.parse(self.body(req), memory, thinking, responses.COUNT_TABLE)
        self.service.check()
        send(resp, {"object": "response.input_tokens", "input_tokens": len(self.service.prompt_of(call.request))})


class Cancel(Dialect):
    """Ends an answer that is being made; its own stream says so, too."""

    def on_post(self, req, resp, ident):
        running = self.shelf.running.get(ident)
        if running is None:
            status = self.shelf.entry(ident).body["status"]
            raise BadRequest(
                f"the response {rules.shown(ident)} is {status}; only a running one can be cancelled", "id"
            )
        running.stop()
        send(resp, self.settled(ident) or running.renderer.body("cancelled"))

    def settled(self, ident: str) -> dict[str, Any] | None:
        """What became of it, if that was stored before long."""
        until = time.monotonic() + 1.0
        while ident in self.shelf.running and time.monotonic() < until:
            time.sleep(0.01)
        found = self.shelf.store.get(ident)
        return found and found.body


class Compact(Dialect):
    """A conversation as one sealed item: calls and reasoning stay, and a model need not write a summary first."""

    def on_post(self, req, resp):
        body, memory = self.body(req), self.shelf.memory
        if body.get("model") is None:
            raise Missing("model is missing; it is required", "model")
        call = responses.parse(body, memory, None, responses.COMPACT_TABLE)
        blob = self.shelf.seal.close(response_items.COMPACTION, call.items)
        item = {"id": f"cmp_{uuid.uuid4().hex}", "type": "compaction", "encrypted_content": blob}
        send(resp, {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [item],
            "usage": usage(Usage(0, 0)),
        })  # fmt: skip


def routes(house: House, shelf: Shelf) -> dict[str, object]:
    return {
        "/v1/responses": Responses(house, shelf),
        "/v1/responses/compact": Compact(house, shelf),
        "/v1/responses/input_tokens": InputTokens(house, shelf),
        "/v1/responses/{ident}": Response(house, shelf),
        "/v1/responses/{ident}/input_items": InputItems(house, shelf),
        "/v1/responses/{ident}/cancel": Cancel(house, shelf),
    }
