"""Events to the stream of the Responses dialect. The whole answer is what the stream's last event holds."""

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..engine import events
from ..engine.events import Event, Finished, Usage
from .errors import as_request_error, encode, openai_envelope
from .openai_chunks import DONE, timings
from .response_items import REASONING
from .response_output import Called, CalledCustom, Part, Said, Thought
from .response_seal import Seal
from .responses import Call

ENDS = {"length": ("incomplete", {"reason": "max_output_tokens"}), "cancelled": ("cancelled", None)}


class Renderer:
    """One item is open at a time. Every event has the next sequence number. `keep` gets the finished body."""

    def __init__(self, call: Call, model: str, seal: Seal, keep: Callable[[dict], None] = lambda body: None):
        self.call, self.model, self.seal, self.keep = call, model, seal, keep
        self.ident = f"resp_{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.sequence, self.begun = 0, False
        self.output: list[dict] = []
        self.open: Part | None = None
        self.takes = {
            events.Started: self.started,
            events.Text: self.text,
            events.Reasoning: self.reasoning,
            events.ToolOpened: self.tool_opened,
            events.ToolArguments: self.tool_arguments,
            events.ToolClosed: self.tool_closed,
            events.Finished: self.finished,
            events.Failed: self.failed,
        }

    end = DONE  # OpenAI sends none, Open Responses asks for it
    per_prompt = 1

    def render(self, event: Event) -> Iterable[dict]:
        take = self.takes.get(type(event))
        return take(event) if take else []

    def emit(self, kind: str, **fields: Any) -> dict[str, Any]:
        made = {"type": kind, "sequence_number": self.sequence, **fields}
        self.sequence += 1
        return made

    def body(self, status: str, **fields: Any) -> dict[str, Any]:
        over = status in ("completed", "incomplete", "cancelled", "failed")
        return {
            "id": self.ident,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": list(self.output) if over else [],
            "usage": None,
            **self.call.envelope,
            **fields,
        }

    # Keep-alives

    def alive(self) -> list[dict]:
        """What a silent stream says: clients count events, not comments."""
        return self.begin() or [self.emit("response.in_progress", response=self.body("in_progress"))]

    @property
    def ping(self) -> bytes:
        return b"".join(self.frame(event) for event in self.alive())

    # Events

    def begin(self) -> list[dict]:
        if self.begun:
            return []
        self.begun = True
        body = self.body("in_progress")
        return [self.emit(f"response.{kind}", response=body) for kind in ("created", "in_progress")]

    def started(self, event) -> Iterable[dict]:
        return self.begin()

    def switch(self, make: Callable[..., Part] | None, *more: Any, status: str = "completed") -> list[dict]:
        """Close the item that is open, and open another one."""
        made = self.begin()
        if self.open:
            made += self.open.closing(status)
            self.output.append(self.open.item(status))
        self.open = make(self.emit, len(self.output), *more) if make else None
        return made + (self.open.opening() if self.open else [])

    def text(self, event) -> Iterable[dict]:
        if not event.text and not event.logprobs:
            return []
        opening = [] if isinstance(self.open, Said) else self.switch(Said)
        return [*opening, *self.open.add(event)]

    def reasoning(self, event) -> Iterable[dict]:
        seal = (lambda text: self.seal.close(REASONING, text)) if self.call.encrypted else None
        opening = [] if isinstance(self.open, Thought) else self.switch(Thought, seal)
        return [*opening, *self.open.add(event)]

    def dropped(self, event) -> bool:
        return self.call.single_call and event.call > 0

    def tool_opened(self, event) -> Iterable[dict]:
        if self.dropped(event):
            return []
        tool = self.call.tools.known(event.name)
        return self.switch(CalledCustom if tool.custom else Called, event.id, tool)

    def tool_arguments(self, event) -> Iterable[dict]:
        return self.open.add(event) if isinstance(self.open, Called) and not self.dropped(event) else []

    def tool_closed(self, event) -> Iterable[dict]:
        return self.switch(None) if isinstance(self.open, Called) and not self.dropped(event) else []

    def finished(self, event: Finished) -> Iterable[dict]:
        status, details = ENDS.get(event.reason, ("completed", None))
        empty = not self.output and self.open is None and status == "completed"
        made = self.switch(Said) if empty else []  # clients look for a message
        made += self.switch(None, status="completed" if status == "completed" else "incomplete")
        spent = {"usage": usage(event.usage), "timings": timings([event])}
        body = self.body(status, incomplete_details=details, **spent)
        self.keep(body)
        kind = "completed" if status == "completed" else "incomplete"
        return [*made, self.emit(f"response.{kind}", response=body)]

    def failed(self, event) -> Iterable[dict]:
        """An `error`, which the SDKs raise, and `response.failed`, which others look for."""
        error = as_request_error(event.error)
        told = {"code": error.code if error.status < 500 else "server_error", "message": error.message}
        wrapped = openai_envelope(error.status, error.message, error.param, error.code)
        made = self.switch(None, status="incomplete")
        first = self.emit("error", status=error.status, **told, param=error.param, **wrapped)
        return [*made, first, self.emit("response.failed", response=self.body("failed", error=told))]

    def frame(self, event: dict) -> bytes:
        return b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"

    def whole_of(self, seen: Iterable[Event]) -> dict:
        wire = [made for event in seen for made in self.render(event)]
        return wire[-1]["response"]


class WarmUp(Renderer):
    """For `generate: false`: the prompt was read, and what came after it is not told."""

    def render(self, event: Event) -> Iterable[dict]:
        quiet = (events.Text, events.Reasoning, events.ToolOpened, events.ToolArguments, events.ToolClosed)
        return [] if isinstance(event, quiet) else super().render(event)

    def finished(self, event: Finished) -> Iterable[dict]:
        read = replace(event.usage, completion_tokens=0, reasoning_tokens=0)
        body = self.body("completed", usage=usage(read), timings=timings([event]))
        self.keep(body)
        return [*self.begin(), self.emit("response.completed", response=body)]


def usage(used: Usage) -> dict[str, Any]:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": used.kept_tokens},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
