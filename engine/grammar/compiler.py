"""Grammars made matchers, by llguidance, which is imported with the first grammar.

The vocabulary's tree takes a while to build: it is built once, on the thread of the first request that has a grammar.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from ..errors import BadRequest
from ..guide import Matcher
from ..tokenizer import Tokenizer

KEPT = 32  # grammars that are remembered, compiled
EXCERPT = re.compile(r"\n +\d+ \| ")  # where an error begins to quote the grammar
SENTINEL = "\x02"  # before a text, so that no tokenizer takes it for the beginning of one


class Grammars:
    """vocab: how many tokens the logits have. special: those that are no part of any text. ends: those that may end it."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, special: Collection[int], ends: Collection[int]):
        self.tokenizer, self.vocab = tokenizer, vocab
        self.special, self.ends = frozenset(special), sorted(end for end in ends if end < vocab)
        self.lock = threading.Lock()
        self.tree: Any = None
        self.compiled: OrderedDict[str, Any] = OrderedDict()

    def matcher(self, grammar: str, param: str) -> Matcher:
        """At the beginning of the grammar, which is in llguidance's JSON form.

        Raises BadRequest for one that is wrong, or that llguidance cannot follow; `param` is what it came from.
        """
        with self.lock:
            if grammar not in self.compiled:
                self.compiled[grammar] = self.compile(grammar, param)
            self.compiled.move_to_end(grammar)
            while len(self.compiled) > KEPT:
                self.compiled.popitem(last=False)
            return self.compiled[grammar].deep_copy()

    def compile(self, grammar: str, param: str):
        from llguidance import LLMatcher

        if self.tree is None:
            self.tree = tree(self.tokenizer, self.vocab, self.special, self.ends)
        made = LLMatcher(self.tree, grammar, log_level=0)
        if made.is_error():
            raise refusal(made.get_error(), param)
        made.compute_bitmask()  # the first mask of a grammar takes longest: not on the engine's thread
        return made


def refusal(error: str, param: str) -> BadRequest:
    """In llguidance's words, without the places in a grammar that nobody but us has seen."""
    told = error.split("failed to compile JSON schema: ")[-1]
    told = " ".join(EXCERPT.split(told)[0].split())
    if told.startswith("oneOf constraints"):
        told = "oneOf has parts that may fit the same value; send anyOf"
    return BadRequest(f"{param} cannot be enforced: {told or 'it is not valid'}", param)


def tree(tokenizer: Tokenizer, vocab: int, special: Collection[int], ends: list[int]):
    """llguidance's view of a vocabulary."""
    from llguidance import LLTokenizer, TokenizerWrapper

    names = Names(tokenizer, vocab, special, ends[0])
    unsliced = LLTokenizer(TokenizerWrapper(names), n_vocab=vocab, eos_token=ends, slices=[])
    return unsliced.with_slices(LLTokenizer.general_slices())  # apart: each holds the interpreter for a while


class Names:
    """A tokenizer in the form that llguidance asks for."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, special: Collection[int], end: int):
        self.tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = end, tokenizer.bos_id
        self.special_token_ids = sorted(ident for ident in special if ident < vocab)
        self.tokens = [tokenizer.token_bytes(ident) for ident in range(vocab)]
        self.known = {text: ident for ident, text in enumerate(self.tokens) if ident not in special and text}
        self.longest = max(map(len, self.known))

    def __call__(self, text: bytes) -> list[int]:
        """As the model was trained to read it, where the tokens spell exactly this; else the longest that fit."""
        spelled = text.decode("utf-8", "replace")
        skip = len(self.tokenizer.encode(SENTINEL, parse_special=False))
        for made in (
            self.tokenizer.encode(spelled, parse_special=False),
            self.tokenizer.encode(SENTINEL + spelled, parse_special=False)[skip:],
        ):
            if b"".join(self.tokens[ident] for ident in made) == text:
                return made
        return self.greedy(text)

    def greedy(self, text: bytes) -> list[int]:
        made: list[int] = []
        while text:
            sizes = range(min(self.longest, len(text)), 0, -1)
            size = next((n for n in sizes if text[:n] in self.known), 0)
            made += [self.known[text[:size]]] if size else []
            text = text[size or 1 :]
        return made
