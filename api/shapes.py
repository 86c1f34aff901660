"""What the dialects say of the shape of an answer, and of how tools are called, made the engine's own words."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..engine.errors import BadRequest
from ..engine.request import Shape, ToolUse
from . import rules
from .errors import Unsupported
from .parameters import Given, Parameter
from .rules import Rule

SHAPES = ("response_format", "grammar", "regex", "choice")  # the parameters that say what an answer must be
ANY_OBJECT = {"type": "object"}


def json_shape(name: str, given: Mapping[str, Any]) -> Shape:
    """{schema, strict, name, description}: any JSON where there is no schema. Every schema is enforced, strict or not."""
    for key, rule in {"name": rules.string, "description": rules.string, "strict": rules.boolean}.items():
        if given.get(key) is not None:
            rule.check(f"{name}.{key}", given[key])
    schema = given.get("schema")
    where = f"{name}.schema"
    return Shape("json", True if schema is None else rules.expect(where, schema, dict), where)


def typed(name: str, value: Any, kinds: Iterable[str]) -> str:
    given = rules.require(rules.expect(name, value, dict), "type", name + ".")
    if rules.expect(f"{name}.type", given, str) not in kinds:
        raise Unsupported(f"{name}.type is {rules.shown(given)}; it must be one of {', '.join(kinds)}", f"{name}.type")
    return given


def response_format(name: str, value: Any) -> Shape | None:
    """Chat's: {type: json_schema, json_schema: {...}}, {type: json_object}, {type: text}."""
    kind = typed(name, value, ("text", "json_object", "json_schema"))
    if kind == "json_schema":
        inner = rules.require(value, "json_schema", name + ".")
        return json_shape(f"{name}.json_schema", rules.expect(f"{name}.json_schema", inner, dict))
    return Shape("json", ANY_OBJECT, name) if kind == "json_object" else None


def text_format(name: str, value: Any) -> Shape | None:
    """Of Responses and of Anthropic, where the schema stands beside the type."""
    kind = typed(name, value, ("text", "json_object", "json_schema"))
    if kind == "json_schema":
        return json_shape(name, value)
    return Shape("json", ANY_OBJECT, name) if kind == "json_object" else None


def check_lark(name: str, value: Any) -> Shape:
    return Shape("lark", text(name, value), name)


def check_regex(name: str, value: Any) -> Shape:
    return Shape("regex", text(name, value), name)


def text(name: str, value: Any) -> str:
    if not rules.expect(name, value, str):
        raise BadRequest(f"{name} is empty; it must have at least one character", name)
    return value


def check_choice(name: str, value: Any) -> Shape:
    if not rules.expect(name, value, list):
        raise BadRequest(f"{name} is empty; it needs at least one text", name)
    return Shape("choice", tuple(text(f"{name}[{index}]", item) for index, item in enumerate(value)), name)


EXTENSIONS = (
    Parameter("grammar", Rule("Lark grammar, as llguidance has it", check_lark), "the answer is a sentence of it"),
    Parameter("regex", Rule("regular expression", check_regex), "the whole answer matches it"),
    Parameter("choice", Rule("array of strings", check_choice), "the answer is one of them"),
)


def shape_of(given: Given, *names: str) -> Shape | None:
    """The one that was asked for."""
    found = {name: shape for name in names if (shape := given.get(name)) is not None}
    if len(found) > 1:
        first, second, *_ = found
        raise BadRequest(f"{first} and {second} both say what the answer must be: send one of them", second)
    return next(iter(found.values()), None)


# Tools


def tool_use(
    name: str, tools: Iterable[Mapping[str, Any]], *, required: bool = False, called: str | None = None, **further: Any
) -> ToolUse:
    """`name` is the parameter that says whether a call is required, or which tool is called."""
    names = [tool["function"]["name"] for tool in tools]
    if (required or called is not None) and not names:
        raise BadRequest(f"{name} asks for a tool call, and there are no tools: send tools as well", name)
    if called is not None and called not in names:
        raise BadRequest(f"{name} names {rules.shown(called)}; the tools are {', '.join(names)}", name)
    return ToolUse(required=required or called is not None, name=called, **further)


def strict_names(tools: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(tool["function"]["name"] for tool in tools if tool["function"].get("strict"))


def offered(tools: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """As templates write tools: whether arguments are forced to fit is not the model's to know."""
    return tuple({**tool, "function": {k: v for k, v in tool["function"].items() if k != "strict"}} for tool in tools)
