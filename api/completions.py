"""POST /v1/completions: OpenAI's dialect without a chat template. The prompt is continued as it stands.

Several prompts are several generations whose events are merged; the choices of prompt i are i * n ... i * n + n - 1.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..engine.errors import BadRequest
from ..engine.events import Event, Finished, Started
from ..engine.request import Request
from . import rules
from .errors import Missing, WrongType
from .openai_chunks import Chunks, Head, fold_choices
from .parameters import ANSWER, CACHE, DRAFTING, SAMPLING, TOP_LOGPROBS, UNUSED, Parameter, Table, read
from .rules import Rule
from .shapes import EXTENSIONS, SHAPES, response_format, shape_of

MOST_PROMPTS = 128
SLICE_S = 0.01  # how long one of several silent streams is listened to before the others are looked at again
Prompt = str | list[int]


def check_prompt(name: str, value: Any) -> list[Prompt]:
    """A text, token ids, or a list of either."""
    if isinstance(value, str) or is_tokens(value):
        return [value]
    if not isinstance(value, list) or not value:
        raise WrongType(
            f"{name} is {rules.kind_of(value)}; it must be a string, token ids, or an array of those", name
        )
    if len(value) > MOST_PROMPTS:
        raise BadRequest(f"{name} has {len(value)} prompts; at most {MOST_PROMPTS} are allowed", name)
    for index, item in enumerate(value):
        if not (isinstance(item, str) or is_tokens(item)):
            raise rules.wrong_type(f"{name}[{index}]", item, "a string or an array of token ids")
    return value


def is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)


TABLE = Table(
    "POST /v1/completions",
    (
        Parameter(
            "prompt", Rule("string, token ids, or an array of those; required", check_prompt), "what is continued"
        ),
        *ANSWER,
        Parameter("max_tokens", rules.integer(1), "of the answer; without it, what the context window leaves"),
        *SAMPLING,
        Parameter("logprobs", TOP_LOGPROBS, "log-probabilities of the tokens, and of this many likeliest ones"),
        *EXTENSIONS,
        Parameter(
            "response_format",
            Rule("`{type: json_schema, json_schema: {schema}}`, `{type: json_object}`, `{type: text}`", response_format),
            "the answer is JSON that fits the schema",
        ),
        Parameter("echo", rules.boolean, "begin the answer with the prompt"),
        Parameter("best_of", rules.only(1, why="answers are not ranked here"), "choosing the best of many"),
        Parameter(
            "suffix", rules.refused("filling in the middle is not in this version of Smelt"), "text after the gap"
        ),
        *UNUSED,
        *DRAFTING,
        *CACHE,
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed body: one request a prompt, and how the answer is to be written."""

    requests: tuple[Request, ...]
    stream: bool
    include_usage: bool
    model: str | None
    echo: bool

    @property
    def choices(self) -> int:
        return sum(request.n for request in self.requests)


def parse(body: Mapping[str, Any]) -> Call:
    given = read(TABLE, body)
    prompts = given.get("prompt")
    if prompts is None:
        raise Missing("prompt is missing; it is required", "prompt")
    if given.get("echo") and given.get("logprobs") is not None:
        raise BadRequest(
            "echo with logprobs would need the prompt's own log-probabilities, which Smelt has not", "echo"
        )
    return Call(
        requests=tuple(request(prompt, given) for prompt in prompts),
        stream=given.get("stream", False),
        include_usage=bool(given.get("stream_options", {}).get("include_usage")),
        model=given.get("model"),
        echo=given.get("echo", False),
    )


def request(prompt: Prompt, given) -> Request:
    top = given.get("logprobs")
    return Request(
        text=prompt if isinstance(prompt, str) else None,
        tokens=None if isinstance(prompt, str) else prompt,
        sampling=given.sampling | ({} if top is None else {"top_logprobs": top}),
        max_tokens=given.get("max_tokens"),
        stop=given.get("stop", ()),
        n=given.get("n", 1),
        shape=shape_of(given, *SHAPES),
        **given.drafting,
        kv_quant=given.get("kv_quant"),
    )


class Merged:
    """Several streams as one. They are listened to in turn, since each has a queue of its own."""

    def __init__(self, streams: list, n: int):
        self.streams, self.n = streams, n
        self.open = {position: n for position in range(len(streams))}

    def next(self, timeout_s: float) -> Event | None:
        until = time.monotonic() + timeout_s
        while self.open:
            for position in list(self.open):
                if event := self.streams[position].next(0):
                    return self.placed(event, position)
            left = until - time.monotonic()
            if left <= 0:
                return None
            position = next(iter(self.open))
            if event := self.streams[position].next(min(left, SLICE_S)):
                return self.placed(event, position)
        return None

    def placed(self, event: Event, position: int) -> Event:
        left = self.open.pop(position) - isinstance(event, Finished)
        if left:
            self.open[position] = left  # last in turn
        index = getattr(event, "index", None)
        return event if index is None else replace(event, index=position * self.n + index)

    def cancel(self) -> None:
        for stream in self.streams:
            stream.cancel()


def echoed(service, call: Call) -> list[str]:
    """The prompts as texts."""
    decode = service.tokenizer.decode
    return [request.text if request.tokens is None else decode(request.tokens) for request in call.requests]


def submit(service, call: Call):
    """The stream of all prompts. If one is refused, those before it are not left running."""
    streams = []
    try:
        for each in call.requests:
            streams.append(service.submit(each))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return streams[0] if len(streams) == 1 else Merged(streams, call.requests[0].n)


class Renderer(Chunks):
    """Events to `text_completion` objects; a stream's chunks carry the same name, as OpenAI's do."""

    kind, stream_kind = "text_completion", ""

    def __init__(self, call: Call, head: Head, prompts: Sequence[str] = ()):
        """`prompts` are the texts to begin with, where they are to be echoed."""
        super().__init__(head, call.choices, call.include_usage, call.requests[0].n)
        self.prompts = prompts
        self.offsets: dict[int, int] = {}

    def started(self, event: Started) -> Iterable[dict]:
        if not self.prompts or self.offsets:
            return []
        return [self.piece(index, self.prompts[index // self.per_prompt]) for index in range(self.n)]

    def text(self, event) -> Iterable[dict]:
        if not event.text and not event.logprobs:
            return []
        return [self.piece(event.index, event.text, event.logprobs)]

    def reasoning(self, event) -> Iterable[dict]:
        return [self.piece(event.index, event.text)]

    def piece(self, index: int, text: str, tokens=()) -> dict:
        offset = self.offsets.get(index, 0)
        self.offsets[index] = offset + len(text)
        return self.chunk(index, text, logprobs=scores(tokens, offset) if tokens else None)

    def chunk(self, index: int, text: str, reason: str | None = None, logprobs: dict | None = None) -> dict:
        return self.wrap({"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason})

    def finished(self, event) -> Iterable[dict]:
        reason = "length" if event.reason == "length" else "stop"
        return self.last(event, self.chunk(event.index, "", reason))

    def whole(self, chunks: Iterable[dict]) -> dict:
        return fold_choices(chunks, self.head, self.kind, Choice)


class Choice:
    def __init__(self):
        self.parts, self.scores, self.reason = [], None, None

    def add(self, choice: dict) -> None:
        self.parts.append(choice["text"])
        self.reason = choice["finish_reason"] or self.reason
        for key, values in (choice["logprobs"] or {}).items():
            self.scores = self.scores or {}
            self.scores[key] = self.scores.get(key, []) + values

    def done(self, index: int) -> dict:
        return {"text": "".join(self.parts), "index": index, "logprobs": self.scores, "finish_reason": self.reason}


def scores(tokens, offset: int) -> dict[str, list]:
    """OpenAI's older form: parallel lists. Offsets count characters of the answer."""
    made: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        made["tokens"].append(token.text)
        made["token_logprobs"].append(finite(token.logprob))
        made["top_logprobs"].append({other.text: finite(other.logprob) for other in token.top})
        made["text_offset"].append(offset)
        offset += len(token.text)
    return made


def finite(value: float) -> float:
    return value if value > -9999 else -9999.0
