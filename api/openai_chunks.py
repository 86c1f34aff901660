"""What OpenAI's two dialects of chunks share: their head, usage, timings, and the fold to a whole answer."""

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..engine import events
from ..engine.events import Event, FastPaths, Finished
from .errors import as_request_error, encode, openai_envelope
from .version import VERSION

DONE = b"data: [DONE]\n\n"
DETAILS = ("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of an answer repeats."""

    model: str
    prefix: str = "chatcmpl"
    created: int = field(default_factory=lambda: int(time.time()))
    unique: str = field(default_factory=lambda: uuid.uuid4().hex)

    def fields(self, kind: str) -> dict[str, Any]:
        made = {"id": f"{self.prefix}-{self.unique}", "object": kind, "created": self.created, "model": self.model}
        return made | {"system_fingerprint": f"smelt-{VERSION}"}


class Chunks:
    """Events to chunks: `render` gives the wire objects of one event. Pure, but for remembering what was said."""

    kind = ""
    stream_kind = ".chunk"
    ping = b": keep-alive\n\n"
    end = DONE

    def __init__(self, head: Head, n: int, include_usage: bool, per_prompt: int | None = None):
        """`n` choices in all, `per_prompt` of them to one prompt."""
        self.head, self.n, self.include_usage = head, n, include_usage
        self.per_prompt = per_prompt or n
        self.fields = head.fields(self.kind + self.stream_kind)
        self.over: list[Finished] = []
        self.by_type: dict[type, Callable[[Any], Iterable[dict]]] = {
            events.Started: self.started,
            events.Progress: self.progress,
            events.Text: self.text,
            events.Reasoning: self.reasoning,
            events.ToolOpened: self.tool_opened,
            events.ToolArguments: self.tool_arguments,
            events.Finished: self.finished,
            events.Failed: self.failed,
        }

    def render(self, event: Event) -> Iterable[dict]:
        return self.by_type.get(type(event), self.nothing)(event)

    def nothing(self, event) -> Iterable[dict]:
        return []

    started = progress = text = reasoning = tool_opened = tool_arguments = finished = nothing

    def failed(self, event) -> Iterable[dict]:
        error = as_request_error(event.error)
        return [openai_envelope(error.status, error.message, error.param, error.code)]

    def wrap(self, choice: dict) -> dict:
        """OpenAI sends `usage: null` in every chunk before the one that holds it."""
        chunk = self.fields | {"choices": [choice]}
        return chunk | {"usage": None} if self.include_usage else chunk

    def last(self, event: Finished, chunk: dict) -> list[dict]:
        """The chunk that ends a choice; the last of all carries the timings, and the usage where it is wanted."""
        self.over.append(event)
        if len(self.over) < self.n:
            return [chunk]
        timed = {"timings": timings(self.over, self.per_prompt)}
        if not self.include_usage:
            return [chunk | timed]
        return [chunk, self.fields | {"choices": [], "usage": usage(self.over, self.per_prompt)} | timed]

    def totals(self) -> dict:
        return {"usage": usage(self.over, self.per_prompt), "timings": timings(self.over, self.per_prompt)}

    def frame(self, chunk: dict) -> bytes:
        return b"data: " + encode(chunk) + b"\n\n"

    def whole_of(self, seen: Iterable[Event]) -> dict:
        chunks = [chunk for event in seen for chunk in self.render(event)]
        return self.whole(chunks) | self.totals()

    def whole(self, chunks: Iterable[dict]) -> dict:
        raise NotImplementedError


def fold_choices(chunks: Iterable[dict], head: Head, kind: str, make: Callable[[], Any]) -> dict:
    choices: dict[int, Any] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices.setdefault(choice["index"], make()).add(choice)
    return head.fields(kind) | {"choices": [choices[index].done(index) for index in sorted(choices)]}


def prompts_of(over: list[Finished], per_prompt: int) -> list[Finished]:
    """One choice of each prompt: n choices share what was read, and its cost is told once."""
    return [done for done in over if done.index % per_prompt == 0] or over[:1]


def usage(over: list[Finished], per_prompt: int) -> dict[str, Any]:
    read = prompts_of(over, per_prompt)
    prompt = sum(done.usage.prompt_tokens for done in read)
    completion = sum(done.usage.completion_tokens for done in over)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(done.usage.cached_tokens for done in read)},
        "completion_tokens_details": {name: sum(getattr(done.usage, name) for done in over) for name in DETAILS},
    }


def timings(over: list[Finished], per_prompt: int = 1) -> dict[str, Any]:
    """By the names of llama.cpp, which many clients show. `prompt_n` was computed, `cache_n` was there."""
    read = prompts_of(over, per_prompt)
    cached = sum(done.usage.cached_tokens for done in read)
    computed = sum(done.usage.prompt_tokens for done in read) - cached
    written = sum(done.usage.completion_tokens for done in over)
    drafted = sum(done.timings.paths.drafted for done in over)
    accepted = sum(done.timings.paths.accepted for done in over)
    return {
        "queue_ms": milliseconds(max(done.timings.queue_s for done in over)),
        "template_ms": milliseconds(sum(done.timings.template_s for done in read)),
        "cache_n": cached,
        **spent("prompt", computed, max(done.timings.prefill_s for done in read)),
        **spent("predicted", written, max(done.timings.decode_s for done in over)),
        **({"draft_n": drafted, "draft_n_accepted": accepted} if drafted else {}),
        "fast_paths": fast_paths([done.timings.paths for done in over]),
    }


def fast_paths(each: list[FastPaths]) -> dict[str, Any]:
    """What the choices have in common, and their longest; absent kernels and traces are told as well."""
    return {
        "kernels": each[0].kernels,
        "traced_steps": max(paths.traced_steps for paths in each),
        "rows": max(paths.rows for paths in each),
        "prefix": each[0].prefix,
        "speculation": next((paths.speculation for paths in each if paths.speculation), None),
    }


def spent(name: str, tokens: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": milliseconds(seconds),
        f"{name}_per_token_ms": milliseconds(seconds / tokens) if tokens else 0.0,
        f"{name}_per_second": round(tokens / seconds, 3) if seconds else 0.0,
    }


def milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
