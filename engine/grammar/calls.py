"""The grammar of calls, as each format writes them: what the parser of the same name reads, in its plainest form."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadRequest
from ..parse import Format
from ..request import Shape, ToolUse
from .lark import ANYTHING, Lark, literal, without
from .values import gemma_object, python_arguments, xml_parameters


@dataclass(frozen=True, slots=True)
class Call:
    """One tool that may be called. lenient: what llguidance does not know of the schema is not enforced."""

    name: str
    schema: Mapping[str, Any]
    lenient: bool = False
    input: Shape | None = None

    @classmethod
    def of(cls, tool: Mapping[str, Any], use: ToolUse) -> "Call":
        """A tool that is not strict is held to its schema only where the call itself is forced."""
        function = tool["function"]
        name, strict = function["name"], function["name"] in use.strict
        schema = {"type": "object", **(function.get("parameters") or {})} if strict or use.required else {"type": "object"}
        return cls(name, schema, not strict, use.inputs.get(name))


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands around calls: head begin open CALL close between open CALL close ... tail.

    begin    a rule, not a text
    body     a call between `open` and `close`
    openers  texts that begin a call for the parser: a free text has none of them
    first    what a free text does not begin with
    """

    lark: Lark
    body: Callable[[Lark, Call], str]
    open: str = ""
    close: str = ""
    between: str = ""
    head: str = ""
    begin: str = ""
    tail: str = ""
    openers: tuple[str, ...] = ()
    first: str = ""

    def calls(self, calls: Sequence[Call], *, single: bool) -> str:
        """One call, or one and more."""
        return self.sequence(self.lark.text(self.head), self.lark.text(self.open), calls, single)

    def sequence(self, head: str, open: str, calls: Sequence[Call], single: bool) -> str:
        """`head` and `open` of the first one, which may be there already."""
        text = self.lark.text
        body = self.lark.rule(" | ".join(self.body(self.lark, call) for call in calls))
        further = f"({text(self.between)} {text(self.open)} {body} {text(self.close)})*"
        return self.lark.rule(
            f"{head} {self.begin} {open} {body} {text(self.close)} {'' if single else further} {text(self.tail)}"
        )

    def after_text(self, calls: Sequence[Call], *, single: bool) -> str:
        """A free text, which calls may follow."""
        opener = self.head or self.open
        free = self.lark.rule(without(self.openers), terminal=True)
        if not opener:  # nothing marks a call but where it stands
            other = self.lark.rule(f"{free} & /([^{self.first}](?s:.*))?/", terminal=True)
            return f"{other} | {self.calls(calls, single=single)}"
        if any(opener.startswith(mark) for mark in self.lark.marks):
            return f"{free} ({self.calls(calls, single=single)})?"
        lead = self.lark.rule(f"{ANYTHING} {literal(opener)}", "[lazy]")
        open = self.lark.text(self.open) if self.head else ""
        return f"{free} | {lead} {self.sequence('', open, calls, single)}"


def named(lark: Lark, call: Call, key: str = "arguments") -> str:
    """{"name": ..., "arguments": ...}"""
    begin = f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "{key}": '
    return f'{lark.text(begin)} {arguments(lark, call)} "}}"'


def whole(lark: Lark, call: Call) -> str:
    """The same as a value of JSON, beside another one that begins in the same way."""
    if any(f'"$ref": "{pointer}' in json.dumps(call.schema) for pointer in ('#"', "#/p")):
        raise BadRequest(f"the schema of {call.name} refers to itself other than by its $defs", "tools")
    kept = {key: call.schema[key] for key in ("$defs", "definitions") if key in call.schema}
    members = {"name": {"const": call.name}, "parameters": call.schema}
    call_schema = {"type": "object", "properties": members, "required": [*members], "additionalProperties": False}
    return lark.json(call_schema | kept, lenient=call.lenient)


def arguments(lark: Lark, call: Call) -> str:
    if call.input is not None:
        return lark.text('{"input": "') + f" {lark.quoted(call.input)} " + lark.text('"}')
    return lark.json(call.schema, lenient=call.lenient)


def hermes(lark: Lark) -> Layout:
    return Layout(lark, named, "<tool_call>\n", "\n</tool_call>", "\n", openers=("<tool_call",))


def xml(lark: Lark) -> Layout:
    def body(lark: Lark, call: Call) -> str:
        return f"{lark.text(f'<function={call.name}>')} {xml_parameters(lark, call)}"

    return Layout(
        lark, body, "<tool_call>\n", "\n</tool_call>", "\n", openers=("<tool_call", "<function=", "<function name=")
    )


def nemotron(lark: Lark) -> Layout:
    return Layout(lark, named, between=", ", head="<TOOLCALL>[", tail="]</TOOLCALL>", openers=("<TOOLCALL>",))


def mistral(lark: Lark) -> Layout:
    """By the age of the vocabulary: a list of objects, or a name and its arguments behind a mark each."""
    start, args = "[TOOL_CALLS]", "[ARGS]"
    if args not in lark.marks:
        return Layout(lark, named, between=", ", head=start, begin='" "? "["', tail="]", openers=(start,))

    def body(lark: Lark, call: Call) -> str:
        return f"{lark.text(call.name + args)} {arguments(lark, call)}"

    return Layout(lark, body, start, openers=(start,))


def llama(lark: Lark) -> Layout:
    def body(lark: Lark, call: Call) -> str:
        plain = lark.alone or call.input is not None
        return named(lark, call, "parameters") if plain else whole(lark, call)

    return Layout(lark, body, between="; ", openers=("<|python_tag|>", "<function="), first=r"\s{\[")


def lfm2(lark: Lark) -> Layout:
    def body(lark: Lark, call: Call) -> str:
        return f'{lark.text(call.name + "(")} {python_arguments(lark, call)} ")"'

    start = "<|tool_call_start|>"
    return Layout(lark, body, between=", ", head=start + "[", tail="]<|tool_call_end|>", openers=(start,))


def gemma(start: str, end: str, quote: str) -> Callable[[Lark], Layout]:
    def body(lark: Lark, call: Call) -> str:
        return f"{lark.text('call:' + call.name)} {gemma_object(lark, call, quote)}"

    return lambda lark: Layout(lark, body, start, end, openers=(start,))


LAYOUTS: dict[str, Callable[[Lark], Layout]] = {
    "hermes": hermes,
    "xml": xml,
    "nemotron": nemotron,
    "mistral": mistral,
    "llama-3": llama,
    "lfm2": lfm2,
    "gemma-4": gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
    "function-gemma": gemma("<start_function_call>", "<end_function_call>", "<escape>"),
}


def layout_of(format: Format, lark: Lark) -> Layout:
    return LAYOUTS[format.name](lark)
