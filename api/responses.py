"""POST /v1/responses and its neighbours: the parser of OpenAI's Responses dialect; `response_events` renders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.errors import BadRequest
from ..engine.request import Request
from . import response_items, response_tools, rules
from .errors import Missing, Unsupported
from .parameters import (
    ANSWER,
    CACHE,
    DRAFTING,
    EFFORTS_TOLD,
    NO_EFFECT,
    SAMPLING,
    TOP_LOGPROBS,
    UNUSED,
    Given,
    Parameter,
    Table,
    read,
)
from .response_store import Item, Memory
from .response_tools import Toolbox
from .rules import Rule
from .shapes import text_format

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed", "none")
INCLUDABLE = (
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)


def check_text(name: str, value: Any) -> dict[str, Any]:
    """With the shape that its format asks for, besides what was given."""
    given, shape = rules.expect(name, value, dict), None
    for key, item in given.items():
        if key == "verbosity" and item is not None:
            rules.one_of("low", "medium", "high").check(f"{name}.verbosity", item)
        elif key == "format" and item is not None:
            shape = text_format(f"{name}.format", item)
        elif key not in ("verbosity", "format"):
            raise Unsupported(f"{name}.{rules.shown(key)} is unknown; format and verbosity are what there is", name)
    return given | {"shape": shape}


def check_reasoning(name: str, value: Any) -> dict[str, Any]:
    given = rules.expect(name, value, dict)
    allowed = {"effort": EFFORTS, "summary": SUMMARIES, "generate_summary": SUMMARIES}
    allowed |= {"context": ("auto", "all_turns"), "mode": ("standard",)}
    for key, item in given.items():
        if key not in allowed:
            raise Unsupported(f"{name}.{rules.shown(key)} is unknown; {', '.join(allowed)} are what there is", name)
        if item is not None:
            rules.one_of(*allowed[key]).check(f"{name}.{key}", item)
    return given


def check_include(name: str, value: Any) -> list[str]:
    return [
        rules.one_of(*INCLUDABLE).check(f"{name}[{index}]", item)
        for index, item in enumerate(rules.expect(name, value, list))
    ]


MODEL = ANSWER[0]
INPUT = Parameter(
    "input",
    Rule("string, or array of items", response_items.check_input),
    "messages, calls and their outputs, reasoning, compactions; required, unless `previous_response_id` is given",
)
PREVIOUS = Parameter("previous_response_id", rules.string, "the answer that this goes on from; unknown ones are a 404")
INSTRUCTIONS = Parameter("instructions", rules.string, "the system message; not part of what a chain passes on")
SHAPE = (
    Parameter(
        "tools",
        Rule("array of tools", response_tools.tools),
        "function, custom and namespace tools are given to the chat template; others are accepted and never called. The"
        " arguments of `strict` functions fit their schemas, the input of custom tools its grammar",
    ),
    Parameter(
        "tool_choice",
        Rule(
            "`none`, `auto`, `required`, `{type: function, name}`, `{type: custom, name}`,"
            " `{type: allowed_tools, mode, tools}`",
            response_tools.check_choice,
        ),
        "`none` keeps the tools from the model, `allowed_tools` all but these; `required` lets nothing but calls be"
        " written, a name one call of it",
    ),
    Parameter("parallel_tool_calls", rules.boolean, "false: an answer cannot have more than one call"),
    Parameter(
        "text",
        Rule("`{format, verbosity}`", check_text),
        "`format` is `{type: json_schema, schema}`, `{type: json_object}` or `{type: text}`: the answer is JSON that fits"
        " the schema; `verbosity` has no effect",
    ),
    Parameter(
        "reasoning",
        Rule("`{effort, summary}`", check_reasoning),
        "effort is given to the chat template as `reasoning_effort` and turns `enable_thinking` on, `none` off;"
        " the summary is the whole reasoning. " + EFFORTS_TOLD,
    ),
    Parameter(
        "truncation",
        rules.one_of("auto", "disabled"),
        "`auto` leaves out the oldest turns of a conversation that does not fit the context window",
    ),
    Parameter("enable_thinking", rules.boolean, "given to the chat template", "template"),
    Parameter("chat_template_kwargs", rules.mapping, "further variables of the chat template"),
    Parameter("personality", rules.refused("models here have no such setting: say it in the instructions"), "a style"),
    Parameter("conversation", rules.refused("conversations are not kept here: use previous_response_id"), "a store"),
)
ECHOED = {"metadata": {}, "user": None, "safety_identifier": None, "prompt_cache_key": None}
NOTES = tuple(p for p in UNUSED if p.name not in (*ECHOED, "store", "service_tier"))
TABLE = Table(
    "POST /v1/responses",
    (
        MODEL,
        INPUT,
        INSTRUCTIONS,
        PREVIOUS,
        *SHAPE,
        Parameter("stream", rules.boolean, "server-sent events as tokens come"),
        next(p for p in ANSWER if p.name == "stream_options"),
        Parameter("store", rules.boolean, "false: cannot be asked for or continued later; by default it can"),
        Parameter(
            "max_output_tokens",
            rules.integer(1),
            "of the answer, reasoning included; what is cut off has the status `incomplete`",
            "",
            ("max_tokens",),
        ),
        *SAMPLING,
        next(p for p in ANSWER if p.name == "stop"),
        Parameter("top_logprobs", TOP_LOGPROBS, "log-probabilities of the answer's tokens and of this many likeliest"),
        Parameter(
            "include",
            Rule("array of names", check_include),
            "`reasoning.encrypted_content` and `message.output_text.logprobs`; the others concern tools of OpenAI's",
        ),
        *(Parameter(n, rules.mapping if n == "metadata" else rules.string, "repeated in the answer") for n in ECHOED),
        *NOTES,
        Parameter(
            "service_tier",
            rules.one_of("auto", "default", "flex", "priority", "scale", "fast"),
            "there is one tier",
            NO_EFFECT,
        ),
        Parameter("client_metadata", rules.mapping, "notes of the caller", NO_EFFECT),
        Parameter("access_programs", rules.anything, "rules of OpenAI's own service", NO_EFFECT),
        Parameter("image", rules.refused("this model reads text only"), "how images are read"),
        Parameter("background_options", rules.refused("answers in the background are not in this version of Smelt"),
                  "answering without a connection"),
        Parameter("max_tool_calls", rules.integer(0), "concerns tools that OpenAI runs; repeated in the answer"),
        Parameter("background", rules.only(False, why="answers in the background are not in this version of Smelt"),
                  "answering without a connection", NO_EFFECT),
        Parameter("prompt", rules.refused("no prompts are stored here: send them as instructions and input"),
                  "a stored prompt"),
        Parameter("context_management", rules.refused("a conversation is shortened only by /v1/responses/compact"),
                  "shortening as one goes"),
        Parameter("moderation", rules.refused("Smelt has no model for moderation"), "checking the content"),
        Parameter("response_format", rules.refused("send text.format"), "chat's name of text.format"),
        *DRAFTING,
        *CACHE,
    ),
)  # fmt: skip
COUNT_TABLE = Table("POST /v1/responses/input_tokens", (MODEL, INPUT, INSTRUCTIONS, PREVIOUS, *SHAPE))
COMPACT_TABLE = Table(
    "POST /v1/responses/compact",
    (
        Parameter("model", rules.string, "any name; required, as OpenAI has it"),
        INPUT,
        PREVIOUS,
        Parameter("instructions", rules.string, "they are sent again with the next request", NO_EFFECT),
        Parameter("prompt_cache_key", rules.string, "kept prompts are found by how they begin", NO_EFFECT),
        Parameter("service_tier", rules.string, "no model is asked", NO_EFFECT),
        Parameter("image", rules.refused("images cannot be read here"), "how images are read"),
        *NOTES,
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed body. `items` are all that the model is given, those of the chain included; `envelope` is repeated."""

    request: Request
    stream: bool
    model: str | None
    tools: Toolbox
    items: list[Item]
    envelope: dict[str, Any]
    store: bool = True
    single_call: bool = False
    logprobs: bool = False
    encrypted: bool = False
    truncate: bool = False


def parse(
    body: Mapping[str, Any],
    memory: Memory,
    enable_thinking: bool | None = None,
    table: Table = TABLE,
    may_be_empty: bool = False,
) -> Call:
    given = read(table, body)
    named = named_items(given, memory, may_be_empty)
    reader = response_items.Reader(memory)
    reader.read(named)
    include, top = given.get("include", ()), given.get("top_logprobs")
    logprobs = bool(top) or "message.output_text.logprobs" in include
    tools = response_tools.chosen(given.get("tools", Toolbox()).plus(reader.tools), given.get("tool_choice", "auto"))
    scores = {"top_logprobs": top or 0} if logprobs else {}
    return Call(
        request=request(given, reader.messages, tools, scores, enable_thinking, may_be_empty),
        stream=given.get("stream", False),
        model=given.get("model"),
        tools=tools,
        items=[item for _, item in named],
        envelope=envelope(given, tools),
        store=given.get("store", True),
        single_call=given.get("parallel_tool_calls") is False,
        logprobs=logprobs,
        encrypted="reasoning.encrypted_content" in include,
        truncate=given.get("truncation") == "auto",
    )


def named_items(given: Given, memory: Memory, may_be_empty: bool) -> list[tuple[str, Item]]:
    """What the conversation is made of, each with the name that an error gives it."""
    past = given.get("previous_response_id")
    if given.get("input") is None and past is None:
        raise Missing("input is missing; it is required", "input")
    history = [] if past is None else memory.history(past)
    made = [("previous_response_id", item) for item in history]
    made += response_items.expanded("input", given.get("input", []), memory)
    if not made and not may_be_empty:
        raise BadRequest("input is empty; it needs at least one item", "input")
    return made


def request(
    given: Given,
    said: list[dict[str, Any]],
    tools: Toolbox,
    scores: dict[str, int],
    enable_thinking: bool | None,
    may_be_empty: bool,
) -> Request:
    system = [{"role": "system", "content": given.get("instructions")}] if given.get("instructions") else []
    messages = [*system, *said]
    if not messages and not may_be_empty:
        raise BadRequest("input has no message in it; it needs at least one", "input")
    last = messages[-1] if messages else {"role": "nobody"}
    return Request(
        messages=messages,
        tools=tuple(tools.functions.values()),
        template_kwargs=template_kwargs(given, enable_thinking),
        sampling=given.sampling | scores,
        max_tokens=given.get("max_output_tokens"),
        stop=given.get("stop", ()),
        continue_final=last["role"] == "assistant" and bool(last["content"]) and not last.get("tool_calls"),
        shape=(given.get("text") or {}).get("shape"),
        tool_use=tools.use(given.get("tool_choice", "auto"), given.get("parallel_tool_calls") is False),
        **given.drafting,
        kv_quant=given.get("kv_quant"),
    )


def template_kwargs(given: Given, enable_thinking: bool | None) -> dict[str, Any]:
    """The request's words go before the server's; what it names goes before what follows from an effort."""
    made: dict[str, Any] = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    effort = (given.get("reasoning") or {}).get("effort")
    if effort == "none":
        made["enable_thinking"] = False
    elif effort:
        made |= {"reasoning_effort": effort, "enable_thinking": True}
    return made | given.get("chat_template_kwargs", {}) | given.template


def envelope(given: Given, tools: Toolbox) -> dict[str, Any]:
    """What an answer repeats of its request: every key is there, whether it was given or not."""
    sampling, reasoning, text = given.sampling, given.get("reasoning") or {}, given.get("text") or {}
    return {
        "background": False,
        "conversation": None,
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "max_tool_calls": given.get("max_tool_calls"),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": given.get("previous_response_id"),
        "prompt": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": "default",
        "store": given.get("store", True),
        "temperature": sampling.get("temperature", 1.0),
        "top_p": sampling.get("top_p", 1.0),
        "presence_penalty": sampling.get("presence_penalty", 0.0),
        "frequency_penalty": sampling.get("frequency_penalty", 0.0),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": tools.given,
        "top_logprobs": given.get("top_logprobs", 0),
        "truncation": given.get("truncation", "disabled"),
    } | {name: given.get(name, nothing) for name, nothing in ECHOED.items()}


def cuts(request: Request) -> list[Sequence[Mapping[str, Any]]]:
    """The conversation without its first turns, one more left out each time; what the system said stays."""
    messages = list(request.messages or ())
    turns = [index for index, message in enumerate(messages) if message["role"] == "user"][1:]
    system = [message for message in messages if message["role"] == "system"]
    kept = [[m for m in messages[start:] if m["role"] != "system"] for start in turns]
    return [[*system, *rest] for rest in kept]
