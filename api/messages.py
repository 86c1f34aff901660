"""POST /v1/messages and /v1/messages/count_tokens: the parser of Anthropic's dialect; `message_events` renders.

What Claude Code sends is what decides here: system blocks whose first line changes with every session (it would spoil
the reuse of every prefix, so it is left out), system messages in mid-conversation, tools that are to be loaded later.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.errors import BadRequest
from ..engine.request import Request, Shape
from . import message_blocks, rules, shapes
from .errors import Missing, NoThreads, Unsupported
from .parameters import CACHE, DRAFTING, EFFORTS_TOLD, NO_EFFECT, SAMPLING, Parameter, Table, read
from .rules import Rule

ATTRIBUTION = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")
EFFORTS = ("low", "medium", "high", "xhigh", "max")


def check_system(name: str, value: Any) -> str:
    if isinstance(value, str):
        return ATTRIBUTION.sub("", value)
    if not isinstance(value, list):
        raise rules.wrong_type(name, value, "a string or an array of text blocks")
    texts = [message_blocks.text_of(f"{name}[{index}]", block) for index, block in enumerate(value)]
    kept = [ATTRIBUTION.sub("", text) for text in texts]
    return "\n".join(text for text in kept if text)


def check_thinking(name: str, value: Any) -> dict[str, Any]:
    given = rules.expect(name, value, dict)
    kind = rules.one_of("enabled", "adaptive", "disabled").check(
        f"{name}.type", rules.require(given, "type", name + ".")
    )
    made: dict[str, Any] = {"on": kind != "disabled", "shown": True}
    if given.get("display") is not None:
        shown = rules.one_of("summarized", "omitted", "full").check(f"{name}.display", given["display"])
        made["shown"] = shown != "omitted"
    if kind == "enabled":
        budget = rules.require(given, "budget_tokens", name + ".")
        made["budget"] = rules.check_integer(f"{name}.budget_tokens", budget, 1, 2**31)
    return made


def check_tool_choice(name: str, value: Any) -> dict[str, Any]:
    given = rules.expect(name, value, dict)
    kind = rules.one_of("auto", "any", "tool", "none").check(f"{name}.type", rules.require(given, "type", name + "."))
    if kind == "tool":
        rules.expect(f"{name}.name", rules.require(given, "name", name + "."), str)
    if given.get("disable_parallel_tool_use") is not None:
        rules.expect(f"{name}.disable_parallel_tool_use", given["disable_parallel_tool_use"], bool)
    return given


def check_output_config(name: str, value: Any) -> dict[str, Any]:
    """effort and format, as far as they are given."""
    made: dict[str, Any] = {}
    for key, item in rules.expect(name, value, dict).items():
        if key not in ("effort", "format"):
            raise Unsupported(f"{name}.{rules.shown(key)} is unknown; effort and format are what there is", name)
        if key == "format" and item is not None:
            made["format"] = check_format(f"{name}.format", item)
        elif item is not None:
            made["effort"] = rules.one_of(*EFFORTS).check(f"{name}.effort", item)
    return made


def check_format(name: str, value: Any) -> Shape:
    kind = rules.require(rules.expect(name, value, dict), "type", name + ".")
    rules.one_of("json_schema").check(f"{name}.type", kind)
    rules.require(value, "schema", name + ".")
    return shapes.json_shape(name, value)


def check_context_management(name: str, value: Any) -> None:
    """Claude Code asks for all thinking to be kept, which is what happens anyway."""
    edits = rules.expect(name, value, dict).get("edits") or []
    for index, edit in enumerate(rules.expect(f"{name}.edits", edits, list)):
        where = f"{name}.edits[{index}]"
        given = rules.expect(where, edit, dict)
        if given.get("type") != "clear_thinking_20251015" or given.get("keep") != "all":
            raise Unsupported(f"{where} is {rules.shown(given)}; nothing of a conversation is cleared here", where)


MAX_TOKENS = Parameter("max_tokens", rules.integer(1), "of the answer; required")
CONVERSATION = (
    Parameter(
        "model", rules.string, "any name: the one model that is loaded answers, and the answer repeats the name"
    ),
    Parameter("messages", Rule("array of messages, required", message_blocks.messages), "the conversation"),
    Parameter(
        "system",
        Rule("string, or array of text blocks", check_system),
        "joined by newlines, without the line `x-anthropic-billing-header`, which changes and would spoil every prefix",
    ),
    Parameter(
        "tools",
        Rule("array of tools", message_blocks.tools),
        "given to the chat template; the arguments of `strict` ones fit their schemas, and those with `defer_loading`"
        " are given once a `tool_reference` names them",
    ),
    Parameter(
        "tool_choice",
        Rule("`{type: auto}`, `{type: any}`, `{type: tool, name}`, `{type: none}`", check_tool_choice),
        "`any` lets nothing but calls be written, `tool` one call of this tool; `none` keeps the tools back;"
        " `disable_parallel_tool_use` allows one call at most",
    ),
    Parameter(
        "thinking",
        Rule("`{type: enabled, budget_tokens}`, `{type: adaptive}`, `{type: disabled}`", check_thinking),
        "given to the template as `enable_thinking` and `thinking_budget`; thinking is closed after `budget_tokens`;"
        " `display: omitted` leaves its text out",
    ),
    Parameter(
        "output_config",
        Rule("`{effort, format: {type: json_schema, schema}}`", check_output_config),
        "the answer is JSON that fits the schema; effort is given to the chat template as `reasoning_effort`. "
        + EFFORTS_TOLD,
    ),
    Parameter(
        "context_management",
        Rule("only `{type: clear_thinking_20251015, keep: all}`", check_context_management),
        "edits of the conversation",
        NO_EFFECT,
    ),
    Parameter("speed", rules.only("standard", why="there is one speed"), "the pace of the answer", NO_EFFECT),
    Parameter(
        "cache_control",
        rules.mapping,
        "every prompt is kept while there is room; where a part is marked, here or on its block, `usage` tells as"
        " `cache_creation_input_tokens` what was",
    ),
    Parameter("mcp_servers", rules.refused("Smelt calls no servers: give their tools as tools"), "remote tools"),
    Parameter(
        "thread", rules.refused("conversations are not kept here: send the whole", NoThreads), "a kept conversation"
    ),
    Parameter("compaction", rules.refused("conversations are not shortened here"), "a summary in place of an answer"),
    Parameter("user_profile_id", rules.string, "who asks", NO_EFFECT),
    Parameter("workspace_id", rules.string, "who asks", NO_EFFECT),
    Parameter("billing_policy", rules.mapping, "nothing is billed", NO_EFFECT),
)
TABLE = Table(
    "POST /v1/messages",
    (
        *CONVERSATION,
        MAX_TOKENS,
        Parameter("stop_sequences", rules.strings(16), "strings that end the answer; they are not part of it"),
        Parameter("stream", rules.boolean, "server-sent events as tokens come"),
        *SAMPLING,
        Parameter("metadata", rules.mapping, "who asks", NO_EFFECT),
        Parameter("safeguards", rules.anything, "rules of Anthropic's own service", NO_EFFECT),
        Parameter("service_tier", rules.one_of("auto", "standard_only"), "there is one tier", NO_EFFECT),
        Parameter("inference_geo", rules.string, "it runs here", NO_EFFECT),
        Parameter("fallbacks", rules.anything, "no request is declined here, so no other model is asked", NO_EFFECT),
        Parameter("fallback_credit_token", rules.anything, "the same", NO_EFFECT),
        Parameter("diagnostics", rules.refused("a prompt is not compared with earlier ones"), "of the prompt cache"),
        Parameter(
            "output_format",
            Rule("`{type: json_schema, schema}`", check_format),
            "the older name of `output_config.format`",
        ),
        Parameter("container", rules.refused("Smelt runs no code"), "code execution"),
        *DRAFTING,
        *CACHE,
    ),
)
COUNT_TABLE = Table("POST /v1/messages/count_tokens", CONVERSATION)


@dataclass(frozen=True, slots=True)
class Call:
    request: Request
    stream: bool
    model: str | None
    single_call: bool
    show_thinking: bool
    marked: bool  # some part of the prompt is to be cached


def parse(body: Mapping[str, Any], enable_thinking: bool | None = None, table: Table = TABLE) -> Call:
    given = read(table, body)
    required = ("messages", "max_tokens") if table is TABLE else ("messages",)
    for name in required:
        if given.get(name) is None:
            raise Missing(f"{name} is missing; it is required", name)
    choice = given.get("tool_choice", {})
    return Call(
        request=request(given, choice, enable_thinking),
        stream=given.get("stream", False),
        model=given.get("model"),
        single_call=choice.get("disable_parallel_tool_use") is True,
        show_thinking=given.get("thinking", {}).get("shown", True),
        marked=message_blocks.marked(body),
    )


def request(given, choice: Mapping[str, Any], enable_thinking: bool | None) -> Request:
    system = [{"role": "system", "content": given.get("system")}] if given.get("system") else []
    said = given.get("messages")
    messages = [*system, *said.messages]
    last, kind = messages[-1], choice.get("type")
    tools = () if kind == "none" else message_blocks.known(given.get("tools", ()), said.found)
    use = shapes.tool_use(
        "tool_choice",
        tools,
        required=kind == "any",
        called=choice["name"] if kind == "tool" else None,
        single=choice.get("disable_parallel_tool_use") is True,
        strict=shapes.strict_names(tools),
    )
    return Request(
        messages=messages,
        tools=shapes.offered(tools),
        template_kwargs=template_kwargs(given, enable_thinking),
        sampling=given.sampling,
        max_tokens=given.get("max_tokens"),
        stop=given.get("stop_sequences", ()),
        continue_final=last["role"] == "assistant" and not last.get("tool_calls"),
        shape=shape(given),
        tool_use=use,
        reasoning_budget=given.get("thinking", {}).get("budget"),
        **given.drafting,
        kv_quant=given.get("kv_quant"),
    )


def shape(given) -> Shape | None:
    asked = given.get("output_config", {}).get("format"), given.get("output_format")
    if None not in asked and asked[0].value != asked[1].value:
        raise BadRequest("output_format and output_config.format differ: send one of them", "output_format")
    return asked[0] or asked[1]


def template_kwargs(given, enable_thinking: bool | None) -> dict[str, Any]:
    made: dict[str, Any] = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    if effort := given.get("output_config", {}).get("effort"):
        made["reasoning_effort"] = effort
    thinking = given.get("thinking")
    if thinking is not None:
        made["enable_thinking"] = thinking["on"]
        if "budget" in thinking:
            made["thinking_budget"] = thinking["budget"]
    return made
