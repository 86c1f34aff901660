"""The input items of the Responses dialect, checked, and made the messages that chat templates expect.

The items of one turn of the assistant (reasoning, text, calls) become one message. What an answer gave out, a client
or the store gives back in, and it must become the very message that the model wrote: prefixes are reused by it.
"""

import uuid
from typing import Any

from ..engine.errors import BadRequest
from . import conversation, response_tools, rules
from .errors import Unsupported
from .response_store import Item, Memory
from .response_tools import Toolbox, joined

ROLES = ("user", "assistant", "system", "developer")
PREFIXES = {"reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc", "compaction": "cmp"}
# Calls that OpenAI's service or a client ran for another model; what they found is in the text that follows.
SKIPPED = ("web_search_call", "file_search_call", "tool_search_call", "compaction_trigger")
COMPACTION, REASONING = "compaction", "reasoning"  # what a seal is closed as


def check_input(name: str, value: Any) -> list[Item]:
    """A list of objects with a type; what is in them is looked at when they become messages."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise rules.wrong_type(name, value, "a string or an array of items")
    return [item_of(f"{name}[{index}]", item) for index, item in enumerate(value)]


def item_of(name: str, value: Any) -> Item:
    given = rules.expect(name, value, dict)
    if given.get("type") is None:  # a bare role and content; the SDKs allow it. A bare id is a reference
        kind = "item_reference" if "role" not in given and "id" in given else "message"
        return {**given, "type": kind}
    rules.expect(f"{name}.type", given["type"], str)
    return given


def expanded(name: str, items: list[Item], memory: Memory) -> list[tuple[str, Item]]:
    """With references and compactions replaced by what they stand for, and an id for every item.

    Each comes with the name of the place where the client put it.
    """
    made: list[tuple[str, Item]] = []
    for index, item in enumerate(items):
        where = f"{name}[{index}]"
        if item["type"] == "item_reference":
            ident = rules.expect(f"{where}.id", rules.require(item, "id", where + "."), str)
            made.append((where, memory.item(f"{where}.id", ident)))
        elif item["type"] in ("compaction", "compaction_summary"):
            made += [(where, each) for each in opened(where, item, memory)]
        else:
            made.append((where, identified(where, item)))
    return made


def opened(name: str, item: Item, memory: Memory) -> list[Item]:
    where = f"{name}.encrypted_content"
    blob = rules.expect(where, rules.require(item, "encrypted_content", name + "."), str)
    try:
        return memory.seal.open(COMPACTION, blob)
    except (ValueError, RecursionError):
        raise BadRequest(
            f"{where} was not made by this server's /v1/responses/compact, or was changed on its way: send the"
            " conversation itself",
            where,
        ) from None


def identified(name: str, item: Item) -> Item:
    if item.get("id") is not None:
        rules.expect(f"{name}.id", item["id"], str)
        return item
    return item | {"id": f"{PREFIXES.get(item['type'], 'msg')}_{uuid.uuid4().hex}"}


def listed(item: Item) -> Item:
    """As /input_items gives an item: the content of a message is an array of parts."""
    content = item.get("content")
    if item["type"] != "message" or not isinstance(content, str):
        return item
    if item.get("role") == "assistant":
        return item | {"content": [{"type": "output_text", "text": content, "annotations": []}]}
    return item | {"content": [{"type": "input_text", "text": content}]}


class Reader:
    """Items to `messages`, in their order, and to the `tools` that items brought."""

    def __init__(self, memory: Memory):
        self.memory, self.messages, self.tools = memory, [], Toolbox()
        self.turn: dict[str, Any] | None = None  # the assistant's message that further items belong to
        self.calls: set[str] = set()
        self.takes = {
            "message": self.message,
            "reasoning": self.reasoning,
            "function_call": self.function_call,
            "custom_tool_call": self.custom_tool_call,
            "function_call_output": self.output,
            "custom_tool_call_output": self.output,
            "additional_tools": self.additional_tools,
            "tool_search_output": self.additional_tools,
        }

    def read(self, named: list[tuple[str, Item]]) -> None:
        for where, item in named:
            kind = item["type"]
            if kind in self.takes:
                self.takes[kind](where, item)
            elif kind not in SKIPPED:
                allowed = ", ".join((*self.takes, "item_reference", "compaction"))
                raise Unsupported(f"{where}.type is {rules.shown(kind)}; this server takes {allowed}", f"{where}.type")

    def message(self, name: str, item: Item) -> None:
        role = rules.one_of(*ROLES).check(f"{name}.role", rules.require(item, "role", name + "."))
        text = conversation.content(f"{name}.content", rules.require(item, "content", name + "."))
        if role != "assistant":
            self.turn = None
            self.messages.append({"role": "system" if role == "developer" else role, "content": text})
        else:
            self.turn_without("content", "tool_calls")["content"] = text

    def turn_without(self, *keys: str) -> dict[str, Any]:
        """The assistant's open message, or a new one if it has one of these already: they come in this order."""
        if self.turn is None or any(self.turn.get(key) for key in keys):
            self.turn = {"role": "assistant", "content": ""}
            self.messages.append(self.turn)
        return self.turn

    def reasoning(self, name: str, item: Item) -> None:
        if text := self.thought(name, item):
            self.turn_without("reasoning_content", "content", "tool_calls")["reasoning_content"] = text

    def thought(self, name: str, item: Item) -> str:
        """Its text; sealed, if it is ours. What another service encrypted says nothing here, and is left out."""
        sealed = item.get("encrypted_content")
        if sealed is not None:
            try:
                return self.memory.seal.open(REASONING, rules.expect(f"{name}.encrypted_content", sealed, str))
            except (ValueError, RecursionError):
                pass
        for key in ("content", "summary"):
            if parts := item.get(key):
                return "\n".join(thought_part(f"{name}.{key}", parts))
        return ""

    def function_call(self, name: str, item: Item) -> None:
        self.call(name, item, conversation.arguments(f"{name}.arguments", item.get("arguments")))

    def custom_tool_call(self, name: str, item: Item) -> None:
        text = rules.expect(f"{name}.input", rules.require(item, "input", name + "."), str)
        self.call(name, item, {"input": text})

    def call(self, name: str, item: Item, arguments: Any) -> None:
        ident = rules.expect(f"{name}.call_id", rules.require(item, "call_id", name + "."), str)
        called = joined(response_tools.optional(name, item, "namespace", str), response_tools.named(name, item))
        function = {"name": called, "arguments": arguments}
        made = {"id": ident, "type": "function", "function": function}
        self.turn_without().setdefault("tool_calls", []).append(made)
        self.calls.add(ident)

    def output(self, name: str, item: Item) -> None:
        ident = rules.expect(f"{name}.call_id", rules.require(item, "call_id", name + "."), str)
        if ident not in self.calls:
            raise BadRequest(
                f"{name}.call_id is {rules.shown(ident)}, and no call before it has that id: send the call as well, or"
                " name the response that made it as previous_response_id",
                f"{name}.call_id",
            )
        self.turn = None
        text = conversation.content(f"{name}.output", item.get("output")) or ""
        self.messages.append({"role": "tool", "content": text, "tool_call_id": ident})

    def additional_tools(self, name: str, item: Item) -> None:
        self.tools = self.tools.plus(response_tools.tools(f"{name}.tools", item.get("tools") or []))


def thought_part(name: str, parts: Any) -> list[str]:
    texts = []
    for index, part in enumerate(rules.expect(name, parts, list)):
        given = rules.expect(f"{name}[{index}]", part, dict)
        texts.append(rules.expect(f"{name}[{index}].text", rules.require(given, "text", f"{name}[{index}]."), str))
    return texts
