"""Every parameter of every dialect: its rule, where it goes, and what the documentation says of it.

A parameter is honoured or refused by name. The tables are data: `read` checks a body against one, and
`python -m smelt.api.parameters` prints the documentation that is made of them.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.errors import BadRequest
from ..engine.options import KV_MODES
from ..engine.request import EFFORT_BUDGETS, LIMITS, MAX_TOP_LOGPROBS
from . import rules
from .errors import UnknownParameter
from .rules import Rule

NO_EFFECT = "no effect"  # accepted because clients always send it and it means nothing on one's own machine
BOUNDS = {name: (low, high) for name, low, high in LIMITS}


@dataclass(frozen=True, slots=True)
class Parameter:
    """
    name     as `read` returns it; `aliases` are read as it is, and both at once must agree
    group    "sampling", "template" and "drafting" go to the engine, "" is handled by the dialect, NO_EFFECT is dropped
    """

    name: str
    rule: Rule
    doc: str
    group: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """The parameters of one route."""

    route: str
    parameters: tuple[Parameter, ...]
    by_name: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        names = {name: parameter for parameter in self.parameters for name in (parameter.name, *parameter.aliases)}
        object.__setattr__(self, "by_name", names)

    def find(self, name: str) -> Parameter:
        if name in self.by_name:
            return self.by_name[name]
        close = difflib.get_close_matches(name[:64], self.by_name, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see the documentation's table of parameters"
        raise UnknownParameter(f"{rules.shown(name)} is not a parameter of {self.route}: {hint}", name[:64])


@dataclass(slots=True)
class Given:
    """What a body gave: `values` for the dialect, `sampling`, `template` and `drafting` for the engine."""

    values: dict[str, Any]
    sampling: dict[str, Any]
    template: dict[str, Any]
    drafting: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


def read(table: Table, body: Mapping[str, Any]) -> Given:
    """The parameters of a body, checked. null means what leaving the parameter out means."""
    given = Given({}, {}, {}, {})
    groups = {"sampling": given.sampling, "template": given.template, "drafting": given.drafting}
    for name, value in body.items():
        parameter = table.find(name)
        if value is not None:
            put(groups.get(parameter.group, given.values), parameter, name, parameter.rule.check(name, value))
    return given


def put(values: dict[str, Any], parameter: Parameter, name: str, value: Any) -> None:
    if parameter.name in values and values[parameter.name] != value:
        both = " and ".join((parameter.name, *parameter.aliases))
        raise BadRequest(f"{both} mean the same and were given different values: send one of them", name)
    values[parameter.name] = value


def ranged(name: str) -> Rule:
    return rules.number(*BOUNDS[name])


def ranged_integer(name: str) -> Rule:
    return rules.integer(*BOUNDS[name])


def check_bias(name: str, value: Any) -> dict[int, float]:
    bias = {}
    for token, change in rules.expect(name, value, dict).items():
        where = f"{name}[{token[:20]}]"
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise BadRequest(f"{where}: the keys of {name} are token ids; {rules.shown(token)} is none", name)
        bias[int(token)] = rules.check_number(where, change, -100, 100)
    return bias


def check_seed(name: str, value: Any) -> int | None:
    """-1 asks for a random seed in llama.cpp's clients."""
    seed = rules.check_integer(name, value, -1, 2**63 - 1)
    return None if seed < 0 else seed


SAMPLING = (
    Parameter("temperature", ranged("temperature"), "0 is greedy", "sampling"),
    Parameter("top_p", ranged("top_p"), "the smallest set of tokens that reaches this probability", "sampling"),
    Parameter("top_k", ranged_integer("top_k"), "the k most likely tokens; 0 keeps all", "sampling"),
    Parameter("min_p", ranged("min_p"), "tokens at least this times as likely as the likeliest", "sampling"),
    Parameter(
        "repetition_penalty",
        ranged("repetition_penalty"),
        "divides the logits of recent tokens; 1 is off",
        "sampling",
        ("repeat_penalty",),
    ),
    Parameter(
        "repetition_window",
        ranged_integer("repetition_window"),
        "how many recent tokens that penalty looks at",
        "sampling",
        ("repeat_last_n", "repetition_context_size"),
    ),
    Parameter("presence_penalty", ranged("presence_penalty"), "once for each token already in the answer", "sampling"),
    Parameter("frequency_penalty", ranged("frequency_penalty"), "for each time it is in the answer", "sampling"),
    Parameter(
        "logit_bias", Rule("object, token id to -100...100", check_bias), "added to these tokens' logits", "sampling"
    ),
    Parameter(
        "seed",
        Rule("integer, 0 to 2^63 - 1; -1 for a random one", check_seed),
        "the same seed gives the same answer, alone or beside others; choice i of n draws with seed + i",
        "sampling",
    ),
)


def check_stream_options(name: str, value: Any) -> dict[str, bool]:
    options = rules.expect(name, value, dict)
    for key, on in options.items():
        if key not in ("include_usage", "include_obfuscation"):
            raise UnknownParameter(
                f"{name}.{rules.shown(key)} is unknown; include_usage is what there is", f"{name}.{key[:64]}"
            )
        if on is not None:
            rules.expect(f"{name}.{key}", on, bool)
    return options


ANSWER = (
    Parameter(
        "model",
        rules.string,
        "one of /v1/models, which is loaded if need be; for any other name the default model answers. The answer repeats"
        " it",
    ),
    Parameter("stream", rules.boolean, "server-sent events as tokens come"),
    Parameter(
        "stream_options",
        Rule("object", check_stream_options),
        "`include_usage` adds a last chunk with the usage; `include_obfuscation` has no effect",
    ),
    Parameter("stop", rules.strings(16), "strings that end the answer; they are not part of it"),
    Parameter("n", rules.integer(1, 128), "answers to one prompt"),
)

UNUSED = (
    Parameter("user", rules.string, "who asks", NO_EFFECT),
    Parameter("metadata", rules.mapping, "notes of the caller", NO_EFFECT),
    Parameter("safety_identifier", rules.string, "who asks", NO_EFFECT),
    Parameter("prompt_cache_key", rules.string, "kept prompts are found by how they begin", NO_EFFECT),
    Parameter("prompt_cache_retention", rules.string, "prompts are kept while there is room", NO_EFFECT),
    Parameter("prompt_cache_options", rules.mapping, "the same", NO_EFFECT),
    Parameter("service_tier", rules.one_of("auto", "default"), "there is one tier", NO_EFFECT),
    Parameter("store", rules.only(False, why="chat completions are not stored"), "nothing is stored", NO_EFFECT),
)

DRAFTING = (
    Parameter(
        "enable_pld",
        rules.boolean,
        "draft by prompt lookup, whatever the prompt looks like, or do not; the answer is the same",
        "drafting",
    ),
    Parameter(
        "enable_drafter",
        rules.boolean,
        "draft by the model of `--drafter`, or do not; left out: unless the model is a mixture. The answer is the same",
        "drafting",
    ),
)


def check_kv_quant(name: str, value: Any) -> str:
    """mlx-serve's numbers are words here."""
    given = {0: "off", 4: "4", 8: "8"}.get(value) if type(value) is int else value
    if given not in KV_MODES:
        raise BadRequest(f"{name} is {rules.shown(value)}; it must be one of {', '.join(KV_MODES)}", name)
    return given


CACHE = (
    Parameter(
        "kv_quant",
        Rule("`off` or 0, 4, 8, `turbo2`, `turbo4`", check_kv_quant),
        "bits of the KV cache: what the server runs with (`--kv-quant`); any other is refused",
    ),
)

EFFORTS_TOLD = "Where the template has no word for efforts, reasoning is closed after " + ", ".join(
    f"{budget} tokens ({effort})" for effort, budget in EFFORT_BUDGETS.items() if budget is not None
)
TOP_LOGPROBS = rules.integer(0, MAX_TOP_LOGPROBS)


def markdown(tables: Iterable[Table]) -> str:
    return "\n".join(section(table) for table in tables)


def section(table: Table) -> str:
    rows = [row(parameter) for parameter in table.parameters]
    return "\n".join([f"## {table.route}", "", "| parameter | allowed | meaning |", "|---|---|---|", *rows, ""])


def row(parameter: Parameter) -> str:
    names = ", ".join(f"`{name}`" for name in (parameter.name, *parameter.aliases))
    doc = f"accepted without effect: {parameter.doc}" if parameter.group == NO_EFFECT else parameter.doc
    return f"| {names} | {parameter.rule.words} | {doc} |"


def main() -> None:
    from .dialects import TABLES

    print(markdown(TABLES))


if __name__ == "__main__":
    main()
