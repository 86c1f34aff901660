"""The messages of OpenAI's chat dialect, checked and made what chat templates expect.

Content becomes one string (text parts are joined by newlines), `developer` becomes `system`, and a tool call's
arguments become the object that they spell: templates write them as JSON themselves. Keys that are not named here are
notes which clients add for themselves and send back (`refusal`, `annotations`, `provider_specific_fields`); no
template reads them, so they are dropped.
"""

import json
from collections.abc import Mapping
from typing import Any

from ..engine.errors import BadRequest
from . import rules
from .errors import Unsupported

ROLES = ("system", "developer", "user", "assistant", "tool")
FUNCTION = {
    "description": rules.string,
    "parameters": rules.mapping,
    "strict": rules.boolean,
}
MEDIA = ("image_url", "input_image", "image", "input_audio", "video_url", "file")


def messages(name: str, value: Any) -> list[dict[str, Any]]:
    if not rules.expect(name, value, list):
        raise BadRequest(f"{name} is empty; it needs at least one message", name)
    return [message(f"{name}[{index}]", item) for index, item in enumerate(value)]


def message(name: str, value: Any) -> dict[str, Any]:
    given = rules.expect(name, value, dict)
    role = rules.one_of(*ROLES).check(f"{name}.role", rules.require(given, "role", name + "."))
    calls = tool_calls(f"{name}.tool_calls", given.get("tool_calls")) if role == "assistant" else []
    made = {
        "role": "system" if role == "developer" else role,
        "content": content(f"{name}.content", given.get("content")),
    }
    if made["content"] is None:
        if role != "assistant":
            raise BadRequest(f"{name}.content is missing; a message of the role {role} needs one", f"{name}.content")
        made["content"] = ""
    if calls:
        made["tool_calls"] = calls
    return made | strings(name, given, role)


def strings(name: str, given: Mapping[str, Any], role: str) -> dict[str, str]:
    """The further keys that some template reads."""
    wanted = {"tool": ("tool_call_id", "name"), "assistant": ("reasoning_content", "name")}.get(role, ("name",))
    found = {key: rules.expect(f"{name}.{key}", given[key], str) for key in wanted if given.get(key) is not None}
    if role == "assistant" and isinstance(given.get("reasoning"), str):  # what OpenRouter's clients call it
        found.setdefault("reasoning_content", given["reasoning"])
    return found


def content(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise rules.wrong_type(name, value, "a string or an array of parts")
    return "\n".join(part(f"{name}[{index}]", item) for index, item in enumerate(value))


def part(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    given = rules.expect(name, value, dict)
    kind = rules.expect(f"{name}.type", rules.require(given, "type", name + "."), str)
    if kind in MEDIA:
        raise Unsupported(
            f"{name} is of the type {kind}, and this model reads text only: leave it out", f"{name}.type"
        )
    key = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}.get(kind)
    if key is None:
        raise BadRequest(f"{name}.type is {rules.shown(kind)}; it must be text", f"{name}.type")
    return rules.expect(f"{name}.{key}", rules.require(given, key, name + "."), str)


def tool_calls(name: str, value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    return [tool_call(f"{name}[{index}]", item) for index, item in enumerate(rules.expect(name, value, list))]


def tool_call(name: str, value: Any) -> dict[str, Any]:
    given = rules.expect(name, value, dict)
    function = rules.expect(f"{name}.function", rules.require(given, "function", name + "."), dict)
    called = rules.expect(f"{name}.function.name", rules.require(function, "name", f"{name}.function."), str)
    made = {"name": called, "arguments": arguments(f"{name}.function.arguments", function.get("arguments"))}
    ident = given.get("id")
    identity = {} if ident is None else {"id": rules.expect(f"{name}.id", ident, str)}
    return {**identity, "type": "function", "function": made}


def arguments(name: str, value: Any) -> Any:
    """The object that the JSON text spells; the text itself when it spells none, as after a call that was cut off."""
    if value is None or isinstance(value, dict):
        return value or {}
    try:
        spelled = json.loads(rules.expect(name, value, str) or "{}")
    except (ValueError, RecursionError):
        return value
    return spelled if isinstance(spelled, dict) else value


def tools(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    return tuple(tool(f"{name}[{index}]", item) for index, item in enumerate(rules.expect(name, value, list)))


def tool(name: str, value: Any) -> dict[str, Any]:
    given = rules.expect(name, value, dict)
    kind = rules.require(given, "type", name + ".")
    if kind != "function":
        raise Unsupported(
            f"{name}.type is {rules.shown(kind)}; only function tools can be called here", f"{name}.type"
        )
    function = rules.expect(f"{name}.function", rules.require(given, "function", name + "."), dict)
    if not rules.expect(f"{name}.function.name", rules.require(function, "name", f"{name}.function."), str):
        raise BadRequest(f"{name}.function.name is empty", f"{name}.function.name")
    for key, rule in FUNCTION.items():
        if function.get(key) is not None:
            rule.check(f"{name}.function.{key}", function[key])
    return {"type": "function", "function": {key: item for key, item in function.items() if item is not None}}
