"""The messages, blocks and tools of Anthropic's dialect, made what chat templates expect.

The blocks of one message become several where templates want it so: each tool_result is a message of the role `tool`,
before what else its user said. `cache_control` on blocks has no effect: prefixes are kept as long as there is room.
"""

from collections.abc import Callable
from typing import Any

from ..engine.errors import BadRequest
from . import rules
from .errors import Unsupported

ROLES = ("user", "assistant", "system")
Message = dict[str, Any]


def messages(name: str, value: Any) -> list[Message]:
    if not rules.expect(name, value, list):
        raise BadRequest(f"{name} is empty; it needs at least one message", name)
    return [made for index, item in enumerate(value) for made in message(f"{name}[{index}]", item)]


def message(name: str, value: Any) -> list[Message]:
    given = rules.expect(name, value, dict)
    role = rules.one_of(*ROLES).check(f"{name}.role", rules.require(given, "role", name + "."))
    content = rules.require(given, "content", name + ".")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise rules.wrong_type(f"{name}.content", content, "a string or an array of blocks")
    turn = Turn(role)
    for index, block in enumerate(content):
        turn.add(f"{name}.content[{index}]", block)
    return turn.messages()


class Turn:
    """The blocks of one message, sorted by what they become."""

    def __init__(self, role: str):
        self.role = role
        self.texts: list[str] = []
        self.results: list[Message] = []
        self.calls: list[Message] = []
        self.thoughts: list[str] = []

    def add(self, name: str, block: Any) -> None:
        kind = kind_of(name, block)
        takes: dict[str, Callable[[str, dict], None]] = {"text": self.text, "document": self.document}
        if self.role == "user":
            takes |= {"tool_result": self.result}
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
        text = result_text(f"{name}.content", block.get("content"))
        failed = block.get("is_error")
        if failed is not None and rules.expect(f"{name}.is_error", failed, bool):
            text = "Error: " + text  # templates have no other place for it
        self.results.append({"role": "tool", "content": text, "tool_call_id": ident})

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


def result_text(name: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise rules.wrong_type(name, value, "a string or an array of blocks")
    turn = Turn("tool")
    for index, block in enumerate(value):
        turn.add(f"{name}[{index}]", block)
    return "\n".join(turn.texts)


def tools(name: str, value: Any) -> tuple[Message, ...]:
    made = [tool(f"{name}[{index}]", item) for index, item in enumerate(rules.expect(name, value, list))]
    return tuple(each for each in made if each is not None)


def tool(name: str, value: Any) -> Message | None:
    """A tool as OpenAI's dialect and templates write it; None for one that is to be loaded later, by a search."""
    given = rules.expect(name, value, dict)
    kind = given.get("type")
    if kind not in (None, "custom"):
        raise Unsupported(
            f"{name}.type is {rules.shown(kind)}; only tools of the client's own work here", f"{name}.type"
        )
    called = rules.expect(f"{name}.name", rules.require(given, "name", name + "."), str)
    if given.get("defer_loading") is not None and rules.expect(f"{name}.defer_loading", given["defer_loading"], bool):
        return None
    function = {
        "name": called,
        "parameters": rules.expect(f"{name}.input_schema", given.get("input_schema") or {}, dict),
    }
    if given.get("description") is not None:
        function["description"] = rules.expect(f"{name}.description", given["description"], str)
    if given.get("strict") is not None:
        function["strict"] = rules.expect(f"{name}.strict", given["strict"], bool)
    return {"type": "function", "function": function}
