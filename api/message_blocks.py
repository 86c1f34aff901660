"""The messages, blocks and tools of Anthropic's dialect, made what chat templates expect.

The blocks of one message become several where templates want it so: each tool_result is a message of the role `tool`,
before what else its user said. `cache_control` changes nothing of the prompt, which is kept in any case.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..engine.errors import BadRequest
from . import rules
from .errors import Unsupported

ROLES = ("user", "assistant", "system")
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """`found` are the names of tools that a search for tools gave as its result."""

    messages: list[Message]
    found: frozenset[str]


def messages(name: str, value: Any) -> Conversation:
    if not rules.expect(name, value, list):
        raise BadRequest(f"{name} is empty; it needs at least one message", name)
    turns = [turn_of(f"{name}[{index}]", item) for index, item in enumerate(value)]
    found = frozenset(reference for turn in turns for reference in turn.references)
    return Conversation([message for turn in turns for message in turn.messages()], found)


def marked(body: Any) -> bool:
    """Whether any part of a request has a mark for the cache."""
    if isinstance(body, dict):
        parts = [body[name] for name in ("system", "tools", "messages", "content") if name in body]
        return body.get("cache_control") is not None or any(marked(part) for part in parts)
    return isinstance(body, list) and any(marked(part) for part in body)


def turn_of(name: str, value: Any) -> "Turn":
    given = rules.expect(name, value, dict)
    role = rules.one_of(*ROLES).check(f"{name}.role", rules.require(given, "role", name + "."))
    content = rules.require(given, "content", name + ".")
    turn = Turn(role)
    if isinstance(content, str):
        turn.texts.append(content)
        return turn
    if not isinstance(content, list):
        raise rules.wrong_type(f"{name}.content", content, "a string or an array of blocks")
    for index, block in enumerate(content):
        turn.add(f"{name}.content[{index}]", block)
    return turn


class Turn:
    """The blocks of one message, sorted by what they become."""

    def __init__(self, role: str):
        self.role = role
        self.references: list[str] = []
        self.texts: list[str] = []
        self.results: list[Message] = []
        self.calls: list[Message] = []
        self.thoughts: list[str] = []

    def add(self, name: str, block: Any) -> None:
        kind = kind_of(name, block)
        takes: dict[str, Callable[[str, dict], None]] = {"text": self.text, "document": self.document}
        if self.role == "user":
            takes |= {"tool_result": self.result}
        if self.role == "tool":
            takes |= {"tool_reference": self.reference}
        if self.role == "assistant":
            takes |= {"tool_use": self.call, "thinking": self.thought, "redacted_thinking": lambda name, block: None}
        if kind not in takes:
            raise refusal(name, kind, self.role, takes)
        takes[kind](name, block)

    def text(self, name: str, block: dict) -> None:
        self.texts.append(rules.expect(f"{name}.text", rules.require(block, "text", name + "."), str))

    def document(self, name: str, block: dict) -> None:
        source = rules.expect(f"{name}.source", rules.require(block, "source", name + "."), dict)
        if source.get("type") != "text":
            raise Unsupported(f"{name}.source.type is {rules.shown(source.get('type'))}; only text is read", name)
        text = rules.expect(f"{name}.source.data", rules.require(source, "data", f"{name}.source."), str)
        title = block.get("title")
        self.texts.append(text if title is None else rules.expect(f"{name}.title", title, str) + "\n" + text)

    def result(self, name: str, block: dict) -> None:
        ident = rules.expect(f"{name}.tool_use_id", rules.require(block, "tool_use_id", name + "."), str)
        text = self.result_text(f"{name}.content", block.get("content"))
        failed = block.get("is_error")
        if failed is not None and rules.expect(f"{name}.is_error", failed, bool):
            text = "Error: " + text  # templates have no other place for it
        self.results.append({"role": "tool", "content": text, "tool_call_id": ident})

    def result_text(self, name: str, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        if not isinstance(value, list):
            raise rules.wrong_type(name, value, "a string or an array of blocks")
        inner = Turn("tool")
        for index, block in enumerate(value):
            inner.add(f"{name}[{index}]", block)
        self.references += inner.references
        return "\n".join(inner.texts)

    def reference(self, name: str, block: dict) -> None:
        """What a search for tools has found: from here on the model is offered that tool."""
        found = rules.expect(f"{name}.tool_name", rules.require(block, "tool_name", name + "."), str)
        self.references.append(found)
        self.texts.append(f"Found the tool {found}")

    def call(self, name: str, block: dict) -> None:
        called = rules.expect(f"{name}.name", rules.require(block, "name", name + "."), str)
        arguments = rules.expect(f"{name}.input", block.get("input") or {}, dict)
        ident = rules.expect(f"{name}.id", rules.require(block, "id", name + "."), str)
        function = {"name": called, "arguments": arguments}
        self.calls.append({"id": ident, "type": "function", "function": function})

    def thought(self, name: str, block: dict) -> None:
        self.thoughts.append(rules.expect(f"{name}.thinking", block.get("thinking") or "", str))

    def messages(self) -> list[Message]:
        said: Message = {"role": self.role, "content": ("" if self.role == "assistant" else "\n").join(self.texts)}
        if self.calls:
            said["tool_calls"] = self.calls
        if any(self.thoughts):
            said["reasoning_content"] = "".join(self.thoughts)
        return [*self.results, *([said] if len(said) > 2 or self.texts or not self.results else [])]


def kind_of(name: str, block: Any) -> str:
    given = rules.expect(name, block, dict)
    return rules.expect(f"{name}.type", rules.require(given, "type", name + "."), str)


def refusal(name: str, kind: str, role: str, takes) -> Exception:
    if kind in ("image", "audio", "video"):
        return Unsupported(
            f"{name} is of the type {kind}, and this model reads text only: leave it out", f"{name}.type"
        )
    allowed = ", ".join(takes)
    return BadRequest(
        f"{name}.type is {rules.shown(kind)}; a message of the role {role} takes {allowed}", f"{name}.type"
    )


def text_of(name: str, block: Any) -> str:
    kind = kind_of(name, block)
    if kind != "text":
        raise refusal(name, kind, "system", ("text",))
    return rules.expect(f"{name}.text", rules.require(block, "text", name + "."), str)


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as OpenAI's dialect and templates write it; a deferred one is offered once a search has found it."""

    function: Message
    deferred: bool


def known(offers: Iterable[Offer], found: frozenset[str]) -> tuple[Message, ...]:
    """The tools that the model is to be told of: all but those that are deferred and were not found yet."""
    functions = [(each.function, each.deferred) for each in offers]
    return tuple(each for each, deferred in functions if not deferred or each["function"]["name"] in found)


def tools(name: str, value: Any) -> tuple[Offer, ...]:
    return tuple(tool(f"{name}[{index}]", item) for index, item in enumerate(rules.expect(name, value, list)))


def tool(name: str, value: Any) -> Offer:
    given = rules.expect(name, value, dict)
    kind = given.get("type")
    if kind not in (None, "custom"):
        raise Unsupported(
            f"{name}.type is {rules.shown(kind)}; only tools of the client's own work here", f"{name}.type"
        )
    called = rules.expect(f"{name}.name", rules.require(given, "name", name + "."), str)
    deferred = rules.expect(f"{name}.defer_loading", given.get("defer_loading") or False, bool)
    function = {
        "name": called,
        "parameters": rules.expect(f"{name}.input_schema", given.get("input_schema") or {}, dict),
    }
    if given.get("description") is not None:
        function["description"] = rules.expect(f"{name}.description", given["description"], str)
    if given.get("strict") is not None:
        function["strict"] = rules.expect(f"{name}.strict", given["strict"], bool)
    return Offer({"type": "function", "function": function}, deferred)
