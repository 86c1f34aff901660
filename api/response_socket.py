"""The Responses dialect over a WebSocket: each text frame asks for an answer, one after another.

A frame is a body of POST /v1/responses with the type response.create; each event of the answer is a frame. Answers
made with store: false can be gone on from on the same connection, and nowhere else. `generate: false` only reads the
prompt, so that the answer to the next frame comes sooner.
"""

import time
from collections import deque
from dataclasses import replace
from typing import Any

from ..engine.errors import BadRequest, RequestError
from ..engine.events import Event, Finished, Started, Usage
from . import responses, rules
from .answer import Running
from .body import parse as parse_json
from .errors import as_request_error, encode, openai_envelope
from .house import House
from .response_events import Renderer, WarmUp
from .response_store import Memory, Shelf, Store, keeper
from .response_watch import Watched, submit
from .responses import Call
from .websocket import Closed, WebSocket

KEPT_HERE = 32  # answers of one connection with store: false; a chain needs only its last one
WAITING = 16  # frames that may wait for the answer before them
IDLE_S = 0.5  # how often a quiet connection looks whether the server drains


def serve(house: House, shelf: Shelf, sock, environ, free: bool) -> None:
    """A connection from its handshake to its end; one that there is no place for is closed at once."""
    try:
        ws = WebSocket(sock, environ)
        if free:
            Session(house, shelf, ws).run()
        else:
            ws.close(1013, "too many connections")
    except Closed:
        pass


class Nothing:
    """The stream of a warm-up without any input."""

    def __init__(self):
        self.events = deque[Event]([Started(0), Finished("stop", Usage(0, 0))])

    def next(self, timeout_s: float | None = None) -> Event | None:
        return self.events.popleft() if self.events else None

    def cancel(self) -> None:
        pass


class Session:
    """One connection."""

    def __init__(self, house: House, shelf: Shelf, ws: WebSocket):
        self.house, self.shelf, self.ws, self.settings = house, shelf, ws, house.settings
        self.local = Store(KEPT_HERE)
        self.waiting: deque[str | bytes] = deque()
        self.heard = time.monotonic()

    def run(self) -> None:
        while not self.house.gate.draining:
            message = self.waiting.popleft() if self.waiting else self.ws.receive(IDLE_S)
            if message is not None:
                self.answer(message)
                self.heard = time.monotonic()
            elif time.monotonic() - self.heard >= self.settings.keep_alive_s:
                self.ws.ping()
                self.heard = time.monotonic()
        self.ws.close(1001, "the server is shutting down")

    # One answer

    def answer(self, message: str | bytes) -> None:
        body: dict[str, Any] = {}
        try:
            body = self.body(message)
            done = self.make(body)
        except Closed:
            raise
        except Exception as error:
            done = False
            self.refuse(as_request_error(error))
        if not done and isinstance(past := body.get("previous_response_id"), str):
            self.local.pop(past)  # as OpenAI has it: a turn that failed ends its chain

    def body(self, message: str | bytes) -> dict[str, Any]:
        if isinstance(message, bytes):
            raise BadRequest("the frame is binary; send JSON as text")
        body = parse_json(message.encode())
        kind = body.pop("type", None)
        if kind != "response.create":
            raise BadRequest(f"type is {rules.shown(kind)}; response.create is what this socket takes", "type")
        return body

    def make(self, body: dict[str, Any]) -> bool:
        """Whether the answer came to its end."""
        fields = dict(body)
        generate = fields.pop("generate", None)
        warm = generate is not None and not rules.expect("generate", generate, bool)
        memory = Memory(self.shelf.seal, self.local, self.shelf.store)
        call = responses.parse(fields, memory, self.settings.enable_thinking, may_be_empty=warm)
        kind = WarmUp if warm else Renderer
        keep = keeper(self.shelf.store if call.store else self.local, call.items)
        renderer = kind(call, call.model or self.house.models.name, self.shelf.seal, keep)
        if warm:
            call = replace(call, request=replace(call.request, max_tokens=1))
        running = Running(
            lambda: self.stream(call, renderer), self.house.gate, self.house.metrics, renderer.ident
        )
        try:
            running.peek(self.settings.poll_s)
            return self.tell(running, renderer)
        finally:
            running.close()

    def stream(self, call: Call, renderer: Renderer):
        models, ask = self.house.models, lambda service: submit(service, call)
        return Watched(models.stream(call.model, ask) if call.items else Nothing(), renderer, self.shelf.running)

    def tell(self, running: Running, renderer: Renderer) -> bool:
        told_at, completed = time.monotonic(), False
        while not running.over:
            event = running.next(self.settings.poll_s)
            self.listen()
            frames = self.frames(renderer, event)
            if not frames and time.monotonic() - told_at >= self.settings.keep_alive_s:
                frames = renderer.alive()
            for frame in frames:
                self.ws.send(encode(frame))
                told_at = time.monotonic()
            completed = completed or isinstance(event, Finished)
        return completed

    def frames(self, renderer: Renderer, event: Event | None) -> list[dict]:
        return [] if event is None else list(renderer.render(event))

    def listen(self) -> None:
        """While an answer is made: notice a client that leaves, answer pings, let further frames wait."""
        while (message := self.ws.receive(0)) is not None:
            if len(self.waiting) >= WAITING:
                self.ws.close(1008, f"{WAITING} frames wait for their answers: wait for them")
                raise Closed(1008)
            self.waiting.append(message)

    def refuse(self, error: RequestError) -> None:
        wrapped = openai_envelope(error.status, error.message, error.param, error.code)
        self.ws.send(encode({"type": "error", "status": error.status, **wrapped}))
