"""The routes of the Responses dialect: making answers, and asking for those that were made."""

import threading
import time
import uuid
from typing import Any

import falcon

from ..engine.errors import BadRequest
from ..engine.events import Usage
from . import response_items, responses, rules
from .answer import Generation
from .errors import Missing, Unsupported, send
from .guards import Origins
from .house import House
from .response_events import Renderer, usage
from .response_store import Shelf, keeper
from .response_watch import Watched, naming_input, submit

UPGRADE = "GET /v1/responses is for WebSockets: send POST, or the headers of a WebSocket handshake"


SPARE = 64  # WebSockets beyond the streams that the server takes


class Sockets:
    """Serves the WebSockets that are handed over, and bounds how many there are: each holds a thread."""

    def __init__(self, house: House, shelf: Shelf):
        self.house, self.shelf = house, shelf
        self.places = threading.BoundedSemaphore(house.settings.max_streams + SPARE)

    def __call__(self, sock, environ) -> None:
        from . import response_socket  # websockets takes 16 ms to import: the port opens without it

        free = self.places.acquire(blocking=False)
        try:
            response_socket.serve(self.house, self.shelf, sock, environ, free)
        finally:
            if free:
                self.places.release()


class Dialect(Generation):
    def __init__(self, house: House, shelf: Shelf):
        super().__init__(house)
        self.shelf = shelf


class Responses(Dialect):
    def __init__(self, house: House, shelf: Shelf):
        super().__init__(house, shelf)
        self.origins, self.sockets = Origins(house.settings), Sockets(house, shelf)

    def on_get(self, req, resp):
        """The WebSocket. Browsers ask no leave before they open one, so the page's origin is looked at here."""
        upgrade = req.env.get("smelt.upgrade")
        if upgrade is None or (req.get_header("Upgrade") or "").lower() != "websocket":
            raise falcon.HTTPError(falcon.HTTP_426, description=UPGRADE)
        origin = req.get_header("Origin")
        if origin and not self.origins.allows(origin):
            raise falcon.HTTPForbidden(description=f"pages of {origin} may not use this server")
        upgrade(self.sockets)

    def on_post(self, req, resp):
        call = responses.parse(self.body(req), self.shelf.memory, self.settings.enable_thinking)
        keep = keeper(self.shelf.store, call.items) if call.store else lambda body: None
        renderer = Renderer(call, call.model or self.models.name, self.shelf.seal, keep)
        watch = lambda stream: Watched(stream, renderer, self.shelf.running)  # noqa: E731
        self.run(req, resp, call, lambda service: submit(service, call), 1, renderer, watch)


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
        with self.service_of(call.model) as service, naming_input():
            tokens = len(service.prompt_of(call.request))
        send(resp, {"object": "response.input_tokens", "input_tokens": tokens})


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
