"""POST /v1/chat/completions: OpenAI's chat dialect. A parser to `Request`, and a renderer from events to chunks.

The whole answer is a fold of the same chunks that a stream sends.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.errors import BadRequest
from ..engine.request import Request
from . import conversation, rules
from .errors import Missing, Unsupported
from .openai_chunks import Chunks, Head, fold_choices
from .parameters import (
    ANSWER,
    CACHE,
    DRAFTING,
    EFFORTS_TOLD,
    NO_EFFECT,
    SAMPLING,
    TOP_LOGPROBS,
    UNUSED,
    Parameter,
    Table,
    read,
)
from .rules import Rule
from .shapes import EXTENSIONS, SHAPES, offered, response_format, shape_of, strict_names, tool_use


def check_tool_choice(name: str, value: Any) -> str | dict[str, str]:
    """One of the words, or the function that is called, as {"name": ...}."""
    if not isinstance(value, dict):
        return rules.one_of("none", "auto", "required").check(name, value)
    rules.one_of("function").check(f"{name}.type", rules.require(value, "type", name + "."))
    function = rules.expect(f"{name}.function", rules.require(value, "function", name + "."), dict)
    return {"name": rules.expect(f"{name}.function.name", rules.require(function, "name", f"{name}.function."), str)}


def check_modalities(name: str, value: Any) -> None:
    if rules.expect(name, value, list) != ["text"]:
        raise Unsupported(f"{name} is {rules.shown(value)}; this model answers in text only", name)


def prediction(name: str, value: Any) -> str:
    """{type: content, content} -> the text."""
    rules.one_of("content").check(f"{name}.type", rules.require(rules.expect(name, value, dict), "type", name + "."))
    return conversation.content(f"{name}.content", rules.require(value, "content", name + "."))


TABLE = Table(
    "POST /v1/chat/completions",
    (
        Parameter("messages", Rule("array of messages, required", conversation.messages), "the conversation"),
        *ANSWER,
        Parameter("max_tokens", rules.integer(1), "of the answer", "", ("max_completion_tokens",)),
        *SAMPLING,
        Parameter(
            "logprobs", rules.boolean, "log-probabilities of the answer's tokens, before any sampling parameter"
        ),
        Parameter("top_logprobs", TOP_LOGPROBS, "and of this many likeliest ones; needs `logprobs`"),
        Parameter(
            "tools",
            Rule("array of function tools", conversation.tools),
            "given to the chat template; the arguments of `strict` ones fit their schemas",
        ),
        Parameter(
            "tool_choice",
            Rule("`none`, `auto`, `required`, `{type: function, function: {name}}`", check_tool_choice),
            "`none` keeps the tools from the model; `required` lets nothing but calls be written, a name one call of it",
        ),
        Parameter("parallel_tool_calls", rules.boolean, "false: an answer cannot have more than one call"),
        Parameter("enable_thinking", rules.boolean, "given to the chat template", "template"),
        Parameter("chat_template_kwargs", rules.mapping, "further variables of the chat template"),
        Parameter(
            "reasoning_effort",
            rules.one_of("none", "minimal", "low", "medium", "high", "xhigh"),
            "given to the chat template; `none` means `enable_thinking: false`. " + EFFORTS_TOLD,
        ),
        Parameter(
            "reasoning_budget_tokens",
            rules.integer(-1),
            "tokens of reasoning at most, then it is closed and the answer begins; 0 also means `enable_thinking: false`,"
            " -1 no limit",
        ),
        Parameter(
            "continue_final_message",
            rules.boolean,
            "whether a last message of the assistant is continued (the default) or answered",
        ),
        Parameter("return_progress", rules.boolean, "chunks with `prompt_progress` while the prompt is being read"),
        Parameter(
            "response_format",
            Rule("`{type: json_schema, json_schema: {schema}}`, `{type: json_object}`, `{type: text}`", response_format),
            "the answer is JSON that fits the schema; a keyword that cannot be enforced is refused by name",
        ),
        *EXTENSIONS,
        Parameter("modalities", Rule('only `["text"]`', check_modalities), "the kind of answer", NO_EFFECT),
        Parameter(
            "verbosity",
            rules.only("medium", why="models here have no such setting"),
            "length of the answer",
            NO_EFFECT,
        ),
        *UNUSED,
        *DRAFTING,
        Parameter(
            "prediction",
            Rule("`{type: content, content}`, the content a string or an array of text parts", prediction),
            "what the answer will be like, a file to be edited for instance: drafts come from there. The answer is the same",
        ),
        *CACHE,
        Parameter(
            "functions", rules.refused("send tools instead; OpenAI dropped functions in 2023"), "tools' old name"
        ),
        Parameter(
            "function_call",
            rules.refused("send tool_choice instead; OpenAI dropped it in 2023"),
            "tool_choice's old name",
        ),
        Parameter("audio", rules.refused("this model answers in text only"), "spoken answers"),
        Parameter("moderation", rules.refused("Smelt has no model for moderation"), "checking the content"),
        Parameter("web_search_options", rules.refused("Smelt does not search the web"), "web search"),
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed body: what the engine is asked, and how the answer is to be written."""

    request: Request
    stream: bool
    include_usage: bool
    model: str | None
    single_call: bool = False
    progress: bool = False


def parse(body: Mapping[str, Any], enable_thinking: bool | None = None) -> Call:
    given = read(TABLE, body)
    if given.get("messages") is None:
        raise Missing("messages is missing; it is required", "messages")
    options = given.get("stream_options", {})
    return Call(
        request=request(given, enable_thinking),
        stream=given.get("stream", False),
        include_usage=bool(options.get("include_usage")),
        model=given.get("model"),
        single_call=given.get("parallel_tool_calls") is False,
        progress=given.get("return_progress", False),
    )


def request(given, enable_thinking: bool | None) -> Request:
    messages, choice = given.get("messages"), given.get("tool_choice")
    tools = () if choice == "none" else given.get("tools", ())
    use = tool_use(
        "tool_choice",
        tools,
        required=choice == "required",
        called=choice["name"] if isinstance(choice, dict) else None,
        single=given.get("parallel_tool_calls") is False,
        strict=strict_names(tools),
    )
    return Request(
        messages=messages,
        tools=offered(tools),
        template_kwargs=template_kwargs(given, enable_thinking),
        sampling=given.sampling | logprobs(given),
        max_tokens=given.get("max_tokens"),
        stop=given.get("stop", ()),
        n=given.get("n", 1),
        continue_final=continues(messages, given.get("continue_final_message")),
        shape=shape_of(given, *SHAPES),
        tool_use=use,
        reasoning_budget=given.get("reasoning_budget_tokens"),
        prediction=given.get("prediction"),
        **given.drafting,
        kv_quant=given.get("kv_quant"),
    )


def logprobs(given) -> dict[str, int]:
    if given.get("logprobs"):
        return {"top_logprobs": given.get("top_logprobs", 0)}
    if given.get("top_logprobs"):
        raise BadRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    return {}


def template_kwargs(given, enable_thinking: bool | None) -> dict[str, Any]:
    """The request's words go before the server's; what it names goes before what follows from an effort."""
    made = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    effort = given.get("reasoning_effort")
    if effort == "none" or given.get("reasoning_budget_tokens") == 0:
        made["enable_thinking"] = False
    elif effort:
        made |= {"reasoning_effort": effort, "enable_thinking": True}
    return made | given.get("chat_template_kwargs", {}) | given.template


def continues(messages, wanted: bool | None) -> bool:
    last = messages[-1]
    possible = last["role"] == "assistant" and not last.get("tool_calls")
    if wanted and not possible:
        raise BadRequest(
            "continue_final_message is true, but the last message is not a text of the assistant",
            "continue_final_message",
        )
    return possible and wanted is not False


class Renderer(Chunks):
    """Events to `chat.completion.chunk` objects."""

    kind = "chat.completion"

    def __init__(self, call: Call, head: Head):
        super().__init__(head, call.request.n, call.include_usage)
        self.single_call, self.shows_progress = call.single_call, call.progress
        self.logprobs = "top_logprobs" in call.request.sampling
        self.opened: set[int] = set()

    def started(self, event) -> Iterable[dict]:
        return [self.open(index) for index in range(self.n) if index not in self.opened]

    def open(self, index: int) -> dict:
        self.opened.add(index)
        return self.chunk(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, delta: dict, logprobs: Any = None) -> Iterable[dict]:
        opening = [] if index in self.opened else [self.open(index)]
        return [*opening, self.chunk(index, delta, logprobs=logprobs)]

    def chunk(self, index: int, delta: dict, reason: str | None = None, logprobs: Any = None) -> dict:
        return self.wrap({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})

    def progress(self, event) -> Iterable[dict]:
        """As llama.cpp has it; `ahead` counts the requests before this one while it waits."""
        if not self.shows_progress:
            return []
        progress = {"total": event.total, "processed": event.done, "ahead": event.ahead}
        return [self.fields | {"choices": [], "prompt_progress": progress}]

    def text(self, event) -> Iterable[dict]:
        if not event.text and not event.logprobs:
            return []
        scores = {"content": [score(token) for token in event.logprobs], "refusal": None} if self.logprobs else None
        return self.delta(event.index, {"content": event.text}, scores)

    def reasoning(self, event) -> Iterable[dict]:
        return self.delta(event.index, {"reasoning_content": event.text})

    def tool_opened(self, event) -> Iterable[dict]:
        function = {"name": event.name, "arguments": ""}
        return self.tool(event, {"id": event.id, "type": "function", "function": function})

    def tool_arguments(self, event) -> Iterable[dict]:
        return self.tool(event, {"function": {"arguments": event.text}})

    def tool(self, event, call: dict) -> Iterable[dict]:
        if self.single_call and event.call > 0:
            return []
        return self.delta(event.index, {"tool_calls": [{"index": event.call, **call}]})

    def finished(self, event) -> Iterable[dict]:
        opening = [] if event.index in self.opened else [self.open(event.index)]
        reason = "stop" if event.reason == "cancelled" else event.reason
        return [*opening, *self.last(event, self.chunk(event.index, {}, reason))]

    def whole(self, chunks: Iterable[dict]) -> dict:
        return fold_choices(chunks, self.head, self.kind, Choice)


class Choice:
    """One choice of the whole answer, from the deltas of its chunks."""

    def __init__(self):
        self.content, self.reasoning, self.scores = [], [], None
        self.calls: dict[int, dict] = {}
        self.reason = None

    def add(self, choice: dict) -> None:
        delta = choice["delta"]
        self.content.append(delta.get("content", ""))
        self.reasoning.append(delta.get("reasoning_content", ""))
        for call in delta.get("tool_calls", ()):
            self.add_call(call)
        if choice["logprobs"]:
            self.scores = (self.scores or []) + choice["logprobs"]["content"]
        self.reason = choice["finish_reason"] or self.reason

    def add_call(self, part: dict) -> None:
        call = self.calls.setdefault(
            part["index"], {"id": None, "type": "function", "function": {"name": None, "arguments": ""}}
        )
        call["id"] = part.get("id", call["id"])
        call["function"]["name"] = part["function"].get("name", call["function"]["name"])
        call["function"]["arguments"] += part["function"].get("arguments", "")

    def done(self, index: int) -> dict:
        text, thoughts = "".join(self.content), "".join(self.reasoning)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text or (None if self.calls else ""),
            "refusal": None,
        }
        if thoughts:
            message["reasoning_content"] = thoughts
        if self.calls:
            message["tool_calls"] = [self.calls[call] for call in sorted(self.calls)]
        scores = None if self.scores is None else {"content": self.scores, "refusal": None}
        return {"index": index, "message": message, "logprobs": scores, "finish_reason": self.reason}


def score(token) -> dict:
    return plain_score(token) | {"top_logprobs": [plain_score(other) for other in token.top]}


def plain_score(token) -> dict:
    """JSON has no minus infinity: OpenAI writes -9999 for a token that cannot come."""
    value = token.logprob if token.logprob > -9999 else -9999.0  # NaN too
    return {"token": token.text, "logprob": value, "bytes": list(token.bytes)}
