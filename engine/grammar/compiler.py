"""Grammars made matchers, by llguidance, which is imported with the first grammar.

The vocabulary's tree takes a while to build: it is built once, on the thread of the first request that has a grammar.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Collection
from functools import cached_property
from typing import Any

from ..errors import BadRequest
from ..guide import Matcher, told_of
from ..tokenizer import Tokenizer
from .lark import Grammar
from .nested import Nested
from .vocabulary import PLACES, Names, QuotedNames

KEPT = 32  # grammars that are remembered, compiled
EXCERPT = re.compile(r"\n +\d+ \| ")  # where an error begins to quote the grammar


class Grammars:
    """vocab: how many tokens the logits have. special: those that are no part of any text. ends: those that may end it."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, special: Collection[int], ends: Collection[int]):
        self.tokenizer, self.vocab = tokenizer, vocab
        self.special = frozenset(special)
        self.ends = frozenset(end for end in ends if end < vocab) or frozenset({vocab + PLACES - 1})  # one must be named
        self.lock = threading.Lock()
        self.compiled: OrderedDict[Grammar, Any] = OrderedDict()

    def matcher(self, grammar: Grammar) -> Matcher:
        """At the beginning. Raises BadRequest for a grammar that is wrong, or that llguidance cannot follow."""
        with self.lock:
            if grammar not in self.compiled:
                self.compiled[grammar] = self.compile(grammar)
            self.compiled.move_to_end(grammar)
            while len(self.compiled) > KEPT:
                self.compiled.popitem(last=False)
            return self.compiled[grammar].deep_copy()

    def compile(self, grammar: Grammar) -> Any:
        outer = compiled(self.tree, grammar)
        if not grammar.places:
            return outer
        if len(grammar.places) >= PLACES:
            raise BadRequest(f"{len(grammar.places)} tools have a grammar for their input; at most {PLACES - 1} may", "tools")
        inners = [compiled(self.quoted_tree, place) for place in grammar.places]
        return Nested(outer, inners, self.vocab, self.quoted)

    @cached_property
    def tree(self) -> Any:
        return tree(Names(self.tokenizer, self.vocab, self.special, self.ends), self.ends)

    @cached_property
    def quoted(self) -> QuotedNames:
        return QuotedNames(self.tokenizer, self.vocab, self.special)

    @cached_property
    def quoted_tree(self) -> Any:
        return tree(self.quoted, self.quoted.ends)


def tree(names: Names, ends: Collection[int]) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    size = len(names.tokens)
    plain = LLTokenizer(TokenizerWrapper(names), n_vocab=size, eos_token=sorted(ends), slices=[])
    return plain.with_slices(LLTokenizer.general_slices())  # apart, since each holds the interpreter for a while


def compiled(tree: Any, grammar: Grammar) -> Any:
    from llguidance import LLMatcher

    made = LLMatcher(tree, grammar.text, log_level=0)
    if not made.is_error():
        made.compute_bitmask()  # the first mask of a grammar takes longest: not on the engine's thread
    if made.is_error():  # also where nothing fits the grammar
        raise refusal(made.get_error(), grammar.param)
    return made


def refusal(error: str, param: str) -> BadRequest:
    """In llguidance's words, without the places in a grammar that nobody but us has seen."""
    told = told_of(error).split("failed to compile JSON schema: ")[-1]
    told = " ".join(EXCERPT.split(told)[0].split())
    if told == "NoExtensionBias":
        told = "nothing fits it"
    if told.startswith("oneOf constraints"):
        told = "oneOf has parts that may fit the same value; send anyOf"
    return BadRequest(f"{param} cannot be enforced: {told or 'it is not valid'}", param)
