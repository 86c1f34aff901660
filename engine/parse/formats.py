"""Which format a checkpoint writes: told by its chat template and its vocabulary, never by looking at what it wrote."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..chat_jinja import abilities
from .gemma import FunctionGemma, Gemma4
from .grammar import Grammar
from .llama import Llama3
from .mistral import Mistral
from .parser import Parser
from .pythonic import Lfm2
from .reasoning import FAMILIES, Tags
from .tagged import Hermes, Nemotron, Xml


class Vocabulary(Protocol):
    def id_of(self, token: str) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Format:
    """How a checkpoint writes calls and reasoning.

    name     of the tool format
    grammar  reads it; keeps no state, so one serves all answers
    tags     the reasoning marks, where the checkpoint has any
    """

    name: str
    grammar: Grammar
    tags: Tags | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """The tokens that the format is made of."""
        return self.grammar.marks + (() if self.tags is None else self.tags.marks)

    def keep(self, vocabulary: Vocabulary) -> frozenset[int]:
        """Ids that the detokenizer must not leave out, although some families call them special."""
        return frozenset(ident for mark in self.marks if (ident := vocabulary.id_of(mark)) is not None)

    def parser(
        self, tools: Iterable[Mapping[str, Any]] = (), *, opened: bool = False, reasoning: bool = True
    ) -> Parser:
        """The machine of one answer.

        tools      the declared ones, in OpenAI's form; without any, no call is looked for
        opened     the prompt ends inside the reasoning block
        reasoning  False leaves the marks of reasoning in the text
        """
        return Parser(self.grammar, self.tags if reasoning else None, tools, opened=opened)


HERMES = Format("hermes", Hermes())
# name, grammar, what a template that teaches it says (any of them)
BY_TEMPLATE: tuple[tuple[str, Callable[[], Grammar], tuple[str, ...]], ...] = (
    ("gemma-4", Gemma4, ("<|tool_call>",)),
    ("function-gemma", FunctionGemma, ("<start_function_call>",)),
    ("mistral", Mistral, ("[TOOL_CALLS]",)),
    ("lfm2", Lfm2, ("<|tool_call_start|>", "<|tool_list_start|>")),
    ("nemotron", Nemotron, ("<TOOLCALL>",)),
    ("xml", Xml, ("<function=",)),
    ("llama-3", Llama3, ("<|python_tag|>", '"parameters": dictionary')),
    ("hermes", Hermes, ("<tool_call>",)),
    ("llama-3", Llama3, ("ipython",)),
)
# What a template that names no marks leaves to the vocabulary.
BY_TOKEN = ("<|tool_call>", "<start_function_call>", "[TOOL_CALLS]", "<|tool_call_start|>", "<|python_tag|>")


def choose(template_source: str, tokenizer: Vocabulary) -> Format:
    """The format of a checkpoint.

    template_source  the chat template that is used for conversations with tools, built in or not. Where it takes no
                     tools, the system message teaches the Hermes format
    tokenizer        looked at where the template names no marks
    """
    taught = bool(template_source) and abilities(template_source).tools
    name, grammar = tool_format(template_source, tokenizer) if taught else (HERMES.name, HERMES.grammar)
    return Format(name, grammar, reasoning_tags(template_source, tokenizer))


def tool_format(source: str, tokenizer: Vocabulary) -> tuple[str, Grammar]:
    for name, grammar, marks in BY_TEMPLATE:
        if any(mark in source for mark in marks):
            return name, grammar()
    for token in BY_TOKEN:
        if tokenizer.id_of(token) is not None:
            return next((name, grammar()) for name, grammar, marks in BY_TEMPLATE if token in marks)
    return HERMES.name, HERMES.grammar


def reasoning_tags(source: str, tokenizer: Vocabulary) -> Tags | None:
    """By the template; else by the vocabulary, for templates that leave the marks to the model."""
    for tags in FAMILIES:
        if any(mark in source for mark in tags.marks):
            return tags
    for tags in FAMILIES:
        if any(tokenizer.id_of(mark) is not None for mark in tags.marks):
            return tags
    return None
