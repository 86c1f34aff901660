"""Events to the stream of Anthropic's dialect. The whole message is a fold of the same wire events."""

import json
import uuid
from collections.abc import Iterable
from typing import Any

from ..engine import events
from ..engine.events import Event, Finished, Usage
from .errors import anthropic_envelope, as_request_error, encode, status_of
from .messages import Call
from .openai_chunks import timings

STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
SIGNATURE = "smelt"  # clients send it back with the thinking; it is not checked, since nothing here depends on it


class Renderer:
    """One block is open at a time: thinking, text, or a tool call."""

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    end = b""  # message_stop is an event of its own
    per_prompt = 1

    def __init__(self, call: Call, model: str):
        self.call, self.model = call, model
        self.ident = f"msg_{uuid.uuid4().hex}"
        self.block = -1
        self.open: str | None = None
        self.begun = False
        self.over: list[Finished] = []

    def render(self, event: Event) -> Iterable[dict]:
        takes = {
            events.Started: self.started,
            events.Text: self.text,
            events.Reasoning: self.reasoning,
            events.ToolOpened: self.tool_opened,
            events.ToolArguments: self.tool_arguments,
            events.ToolClosed: self.tool_closed,
            events.Finished: self.finished,
            events.Failed: self.failed,
        }
        take = takes.get(type(event))
        return take(event) if take else []

    def started(self, event) -> Iterable[dict]:
        if self.begun:
            return []
        self.begun = True
        message = self.message([], None, None, usage(Usage(event.prompt_tokens, 1), False))
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def message(self, content: list, reason: str | None, stop: str | None, used: dict) -> dict[str, Any]:
        head = {"id": self.ident, "type": "message", "role": "assistant", "model": self.model, "content": content}
        return head | {"stop_reason": reason, "stop_sequence": stop, "usage": used}

    def switch(self, kind: str | None, block: dict | None = None) -> list[dict]:
        """Close the block that is open, and open one of this kind."""
        made = []
        if self.open == "thinking":
            made.append(self.delta({"type": "signature_delta", "signature": SIGNATURE}))
        if self.open:
            made.append({"type": "content_block_stop", "index": self.block})
        self.open = kind
        if block is not None:
            self.block += 1
            made.append({"type": "content_block_start", "index": self.block, "content_block": block})
        return made

    def delta(self, delta: dict) -> dict:
        return {"type": "content_block_delta", "index": self.block, "delta": delta}

    def text(self, event) -> Iterable[dict]:
        if not event.text:
            return []
        opening = [] if self.open == "text" else self.switch("text", {"type": "text", "text": ""})
        return [*opening, self.delta({"type": "text_delta", "text": event.text})]

    def reasoning(self, event) -> Iterable[dict]:
        empty = {"type": "thinking", "thinking": "", "signature": ""}
        opening = [] if self.open == "thinking" else self.switch("thinking", empty)
        if not self.call.show_thinking:
            return opening
        return [*opening, self.delta({"type": "thinking_delta", "thinking": event.text})]

    def dropped(self, event) -> bool:
        return self.call.single_call and event.call > 0

    def tool_opened(self, event) -> Iterable[dict]:
        if self.dropped(event):
            return []
        return self.switch("tool", {"type": "tool_use", "id": event.id, "name": event.name, "input": {}})

    def tool_arguments(self, event) -> Iterable[dict]:
        if self.dropped(event):
            return []
        return [self.delta({"type": "input_json_delta", "partial_json": event.text})]

    def tool_closed(self, event) -> Iterable[dict]:
        return [] if self.dropped(event) else self.switch(None)

    def finished(self, event: Finished) -> Iterable[dict]:
        self.over.append(event)
        empty = self.switch("text", {"type": "text", "text": ""}) if self.block < 0 else []  # at least one block
        reason = STOP_REASONS.get(event.reason, "stop_sequence" if event.stop is not None else "end_turn")
        delta = {"stop_reason": reason, "stop_sequence": event.stop}
        used = usage(event.usage, self.call.marked)
        last = {"type": "message_delta", "delta": delta, "usage": used, "timings": timings(self.over)}
        return [*empty, *self.switch(None), last, {"type": "message_stop"}]

    def failed(self, event) -> Iterable[dict]:
        error = as_request_error(event.error)
        return [anthropic_envelope(status_of(error, "/v1/messages"), error.message, error.param, error.code)]

    def frame(self, event: dict) -> bytes:
        return b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"

    def whole_of(self, seen: Iterable[Event]) -> dict:
        wire = [made for event in seen for made in self.render(event)]
        last = next(event for event in wire if event["type"] == "message_delta")
        stop = last["delta"]
        message = self.message(fold(wire), stop["stop_reason"], stop["stop_sequence"], last["usage"])
        return message | {"timings": last["timings"]}


def fold(wire: Iterable[dict]) -> list[dict]:
    """The blocks of a message, from its wire events. Arguments come as pieces of JSON, read when they are whole."""
    blocks: list[dict] = []
    for event in wire:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"] | {"pieces": []})
        elif event["type"] == "content_block_delta":
            add(blocks[-1], event["delta"])
    return [closed(block) for block in blocks]


def add(block: dict, delta: dict) -> None:
    if delta["type"] == "signature_delta":
        block["signature"] = delta["signature"]
    else:
        block["pieces"].append(delta.get("text") or delta.get("thinking") or delta.get("partial_json") or "")


def closed(block: dict) -> dict:
    text = "".join(block.pop("pieces"))
    return block | ({"input": arguments(text)} if block["type"] == "tool_use" else {block["type"]: text})


def arguments(text: str) -> dict:
    """A call that max_tokens cut off is no JSON; Anthropic's documentation has clients wrap such a text so."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {"INVALID_JSON": text}


def usage(used: Usage, marked: bool) -> dict[str, Any]:
    """Anthropic's `input_tokens` leaves out what the cache held, and what it keeps now where the caller marked a part
    of the prompt for it; the sum of the three is the prompt.
    """
    created = used.kept_tokens if marked else 0
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens - created,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"thinking_tokens": used.reasoning_tokens},
    }
