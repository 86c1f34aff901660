"""Conversations as clients send them, made what templates expect, or refused with the reason.

After `normalise` every message is an object of plain JSON values with a string `role` and a string `content`; tool
calls have the form {"type": "function", "function": {"name", "arguments"}}, the arguments an object if they spell one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import BadRequest

Message = dict[str, Any]

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
MEDIA = ("image", "audio", "video", "file", "document")
REASONING = ("reasoning_content", "thinking", "reasoning")
ROLES = {"developer": "system", "function": "tool", "model": "assistant"}


def normalise(messages: Any) -> list[Message]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise BadRequest(f"messages is {kind(messages)}; it must be an array of messages", "messages")
    if not messages:
        raise BadRequest("messages is empty; it needs at least one message", "messages")
    return [message(f"messages[{index}]", item) for index, item in enumerate(messages)]


def message(name: str, value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise BadRequest(f"{name} is {kind(value)}; it must be an object with role and content", name)
    role = value.get("role")
    if not isinstance(role, str) or not role:
        raise BadRequest(f"{name}.role is {kind(role)}; it must be a string such as user or assistant", f"{name}.role")
    made = {key: plain(f"{name}.{key}", item) for key, item in value.items() if item is not None}
    made |= {"role": ROLES.get(role, role), "content": content(f"{name}.content", value.get("content"))}
    if made.get("tool_calls") is not None:
        made["tool_calls"] = tool_calls(f"{name}.tool_calls", made["tool_calls"])
        if not made["tool_calls"]:
            del made["tool_calls"]  # templates ask whether the key is there
    return made | reasoning(name, value)


def reasoning(name: str, value: Mapping[str, Any]) -> dict[str, str]:
    """Past reasoning under both names that templates read."""
    for key in REASONING:
        if value.get(key) is not None:
            text = content(f"{name}.{key}", value[key])
            return {"reasoning_content": text, "thinking": text}
    return {}


def content(name: str, value: Any) -> str:
    """One string: the text parts of a list are joined by newlines."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
        raise BadRequest(f"{name} is {kind(value)}; it must be a string or an array of parts", name)
    return "\n".join(part(f"{name}[{index}]", item) for index, item in enumerate(value))


def part(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise BadRequest(f"{name} is {kind(value)}; it must be a string or an object with type and text", name)
    given = value.get("type", "text")
    key = TEXT_PARTS.get(given) if isinstance(given, str) else None
    if key is None:
        raise BadRequest(unreadable(name, given), name)
    if not isinstance(value.get(key), str):
        raise BadRequest(f"{name}.{key} is {kind(value.get(key))}; it must be a string", f"{name}.{key}")
    return value[key]


def unreadable(name: str, given: Any) -> str:
    if isinstance(given, str) and any(word in given for word in MEDIA):
        return (
            f"{name} is of the type {given!r}, and this model reads text only: leave it out or load a model that sees"
        )
    shown = repr(given) if isinstance(given, str) else kind(given)
    return f"{name}.type is {shown}; parts of the type 'text' can be read"


def tool_calls(name: str, value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise BadRequest(f"{name} is {kind(value)}; it must be an array of calls", name)
    return [tool_call(f"{name}[{index}]", item) for index, item in enumerate(value)]


def tool_call(name: str, value: Any) -> Message:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} is {kind(value)}; it must be an object with function", name)
    function = value.get("function", value)  # some clients leave the wrapper out
    if not isinstance(function, dict):
        raise BadRequest(f"{name}.function is {kind(function)}; it must be an object", f"{name}.function")
    called = function.get("name")
    if not isinstance(called, str) or not called:
        raise BadRequest(f"{name}.function.name is {kind(called)}; it must be a name", f"{name}.function.name")
    identity = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    made = {"name": called, "arguments": arguments(f"{name}.function.arguments", function.get("arguments"))}
    return {**identity, "type": "function", "function": made}


def arguments(name: str, value: Any) -> Any:
    """The object that a JSON text spells; the text itself where it spells none, as after a call that was cut off."""
    if value is None or value == "":
        return {}
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise BadRequest(f"{name} is {kind(value)}; it must be a JSON text or an object", name)
    try:
        spelled = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return spelled if isinstance(spelled, dict) else value


def tools(value: Any) -> list[Message]:
    """The catalogue for the template, each tool in the form {"type": "function", "function": {...}}."""
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise BadRequest(f"tools is {kind(value)}; it must be an array of tools", "tools")
    return [tool(f"tools[{index}]", item) for index, item in enumerate(value)]


def tool(name: str, value: Any) -> Message:
    given = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or not given["name"]:
        raise BadRequest(f"{name} is not a tool; it must be an object with a function that has a name", name)
    made = plain(name, value)
    if given is not value:
        return made
    return {"type": "function", "function": {key: item for key, item in made.items() if key != "type"}}


def completed(tools: list[Message]) -> list[Message]:
    """Tools with all that a template may ask for."""
    absent = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return [
        one | {"type": "function", "function": absent | {k: v for k, v in one["function"].items() if v is not None}}
        for one in tools
    ]


def plain(name: str, value: Any, depth: int = 0) -> Any:
    """A copy made of JSON's own types: the template can neither change the caller's nor meet anything else."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth > 100:
        raise BadRequest(f"{name} is nested more than 100 deep", name)
    if isinstance(value, Mapping):
        return {str(key): plain(name, item, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(name, item, depth + 1) for item in value]
    raise BadRequest(f"{name} has {kind(value)}, which JSON cannot hold", name)


def kind(value: Any) -> str:
    """A value's type in JSON's words, with the value where it is short."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value!r:.30}"
    if isinstance(value, str):
        return f"the string {value!r:.30}" if value else "an empty string"
    if isinstance(value, Mapping):
        return "an object"
    return "an array" if isinstance(value, Sequence) else f"a {type(value).__name__}"
