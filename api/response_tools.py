"""The tools of the Responses dialect, made the functions that chat templates write, and calls made items again.

A custom tool takes free text: it is offered as a function with the one parameter `input`, which follows the tool's
grammar where it has one. The functions of a namespace are offered as namespace__name. Tools that OpenAI's own service
would run (web_search, ...) are accepted, since clients send them to every server, and not offered, so they are never
called.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.errors import BadRequest
from ..engine.request import Shape, ToolUse
from . import rules
from .conversation import FUNCTION
from .shapes import tool_use

INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


@dataclass(frozen=True, slots=True)
class Offered:
    """What a function that the model knows is to its client.

    strict  its arguments must fit their schema
    input   what the text of a custom tool must be
    """

    name: str
    namespace: str | None = None
    custom: bool = False
    strict: bool = False
    input: Shape | None = None


@dataclass(frozen=True)
class Toolbox:
    """`functions` for the template and `offered` by the same names; `given` as the client wrote them."""

    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    offered: dict[str, Offered] = field(default_factory=dict)
    given: list[dict[str, Any]] = field(default_factory=list)

    def plus(self, other: "Toolbox") -> "Toolbox":
        """With further tools; one of the same name takes the place of the earlier one."""
        functions, offered = self.functions | other.functions, self.offered | other.offered
        return Toolbox(functions, offered, self.given)

    def only(self, names: set[str]) -> "Toolbox":
        kept = {name for name, tool in self.offered.items() if tool.name in names or name in names}
        return Toolbox(*({n: v for n, v in d.items() if n in kept} for d in (self.functions, self.offered)), self.given)

    def named(self, name: str) -> str | None:
        """What the model calls the tool that its client calls so."""
        return next((known for known, tool in self.offered.items() if name in (known, tool.name)), None)

    def use(self, choice: Any, single: bool) -> ToolUse:
        """As `tool_choice` has it; `chosen` has left out what may not be called."""
        mode = choice.get("mode") if isinstance(choice, dict) else choice
        called = choice["name"] if isinstance(choice, dict) and choice["type"] != "allowed_tools" else None
        return tool_use(
            "tool_choice",
            self.functions.values(),
            required=mode == "required",
            called=called and (self.named(called) or called),
            single=single,
            strict=frozenset(name for name, tool in self.offered.items() if tool.strict),
            inputs={name: tool.input for name, tool in self.offered.items() if tool.input is not None},
        )

    def known(self, name: str) -> Offered:
        return self.offered.get(name, Offered(name))

    def put(self, offered: Offered, description: str | None, parameters: Mapping[str, Any] | None) -> None:
        name = joined(offered.namespace, offered.name)
        function: dict[str, Any] = {"name": name}
        if description is not None:
            function["description"] = description
        if parameters is not None:
            function["parameters"] = parameters
        self.functions[name] = {"type": "function", "function": function}
        self.offered[name] = offered


def joined(namespace: str | None, name: str) -> str:
    if not namespace:
        return name
    return namespace + ("" if namespace.endswith("__") else "__") + name


def tools(name: str, value: Any) -> Toolbox:
    box = Toolbox()
    for index, item in enumerate(rules.expect(name, value, list)):
        add(box, f"{name}[{index}]", rules.expect(f"{name}[{index}]", item, dict))
        box.given.append(echo(item))
    return box


def add(box: Toolbox, name: str, given: dict, namespace: str | None = None) -> None:
    kind = rules.expect(f"{name}.type", rules.require(given, "type", name + "."), str)
    makers = {"function": function, "custom": custom} | ({} if namespace else {"namespace": group})
    if kind in makers:
        makers[kind](box, name, given, namespace)


def named(name: str, given: dict) -> str:
    found = rules.expect(f"{name}.name", rules.require(given, "name", name + "."), str)
    if not found:
        raise BadRequest(f"{name}.name is empty; it must have at least one character", f"{name}.name")
    return found


def optional(name: str, given: dict, key: str, kind: type) -> Any:
    return None if given.get(key) is None else rules.expect(f"{name}.{key}", given[key], kind)


def function(box: Toolbox, name: str, given: dict, namespace: str | None) -> None:
    called = named(name, given)
    for key, rule in FUNCTION.items():
        if given.get(key) is not None:
            rule.check(f"{name}.{key}", given[key])
    if not optional(name, given, "defer_loading", bool):  # else it comes by a tool_search_output
        offered = Offered(called, namespace, strict=given.get("strict") is True)
        box.put(offered, given.get("description"), given.get("parameters"))


def custom(box: Toolbox, name: str, given: dict, namespace: str | None) -> None:
    called, description = named(name, given), optional(name, given, "description", str) or ""
    form, shape = optional(name, given, "format", dict) or {}, None
    if form.get("type") == "grammar":
        shape = input_shape(f"{name}.format", form)
        description += f"\nThe input follows this grammar ({shape.kind}):\n{shape.value}"
    if not optional(name, given, "defer_loading", bool):
        box.put(Offered(called, namespace, custom=True, input=shape), description, INPUT)


def input_shape(name: str, form: dict) -> Shape:
    syntax = rules.one_of("lark", "regex").check(f"{name}.syntax", rules.require(form, "syntax", name + "."))
    definition = rules.expect(f"{name}.definition", rules.require(form, "definition", name + "."), str)
    return Shape(syntax, definition, f"{name}.definition")


def group(box: Toolbox, name: str, given: dict, namespace: str | None) -> None:
    called = named(name, given)
    optional(name, given, "description", str)
    listed = rules.expect(f"{name}.tools", rules.require(given, "tools", name + "."), list)
    for index, item in enumerate(listed):
        where = f"{name}.tools[{index}]"
        add(box, where, rules.expect(where, item, dict), called)


def echo(tool: dict) -> dict:
    """As answers repeat a tool: a function with all its keys."""
    nothing = {"description": None, "parameters": None, "strict": None}
    return nothing | tool if tool.get("type") == "function" else tool


def check_choice(name: str, value: Any) -> Any:
    """A word, a tool, or a set of allowed tools."""
    if not isinstance(value, dict):
        return rules.one_of("none", "auto", "required").check(name, value)
    kind = rules.require(value, "type", name + ".")
    rules.one_of("function", "custom", "allowed_tools").check(f"{name}.type", kind)
    if kind != "allowed_tools":
        rules.expect(f"{name}.name", rules.require(value, "name", name + "."), str)
        return value
    rules.one_of("auto", "required").check(f"{name}.mode", value.get("mode", "auto"))
    for index, item in enumerate(rules.expect(f"{name}.tools", value.get("tools"), list)):
        rules.expect(f"{name}.tools[{index}]", item, dict)
    return value


def chosen(box: Toolbox, choice: Any) -> Toolbox:
    if choice == "none":
        return Toolbox(given=box.given)
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        return box.only({tool["name"] for tool in choice["tools"] if isinstance(tool.get("name"), str)})
    return box


def text_of_input(arguments: str) -> str:
    """The text that a custom tool gets, from the arguments of the function it was offered as."""
    try:
        spelled = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments  # a call that was cut off, or a model that wrote the text itself
    given = spelled.get("input") if isinstance(spelled, dict) else spelled
    return given if isinstance(given, str) else arguments
