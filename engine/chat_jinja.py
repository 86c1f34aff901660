"""Chat templates as Hugging Face runs them: the same sandbox, filters, globals and tags. jinja2 is imported on first use.

Checkpoints are downloaded, so their templates are foreign code: the sandbox keeps them from Python's internals and
from changing what they are given, and they see nothing but JSON values.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

REASONING_NAMES = {"enable_thinking", "thinking", "thinking_budget", "reasoning_effort", "reasoning_content"}
REASONING_TAGS = ("<think>", "</think>", "[THINK]", "<|channel>", "<seed:think>")


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template knows, by the names that occur in its code.

    tools       reads the variable `tools`
    results     tells messages of the role "tool" from others
    calls       reads an assistant message's tool_calls
    thinking    knows reasoning: a switch, past reasoning, or the tags themselves
    effort      reads the variable `reasoning_effort`
    """

    tools: bool
    results: bool
    calls: bool
    thinking: bool
    effort: bool


@lru_cache(1)
def environment():
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %}...{% endgeneration %} marks the assistant's words for training; here it changes nothing."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        def _inside(self, caller):
            return caller()

    def raise_exception(message):
        raise TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = to_json
    made.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return made


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Jinja's own filter writes < and & as escapes, for HTML; models were not trained on that."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(64)
def compiled(source: str):
    return environment().from_string(source)


@lru_cache(64)
def abilities(source: str) -> Abilities:
    from jinja2 import meta, nodes

    tree = environment().parse(source)
    words = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    words |= {node.attr for node in tree.find_all(nodes.Getattr)}
    free = meta.find_undeclared_variables(tree)
    thinking = bool(REASONING_NAMES & (words | free)) or any(tag in source for tag in REASONING_TAGS)
    return Abilities("tools" in free, "tool" in words, "tool_calls" in words, thinking, "reasoning_effort" in free)


def render(source: str, variables: Mapping[str, Any]) -> str:
    return compiled(source).render(dict(variables))
