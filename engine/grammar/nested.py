"""A grammar with texts in it that have grammars of their own, and are written inside JSON strings.

A tool that takes free text is called with {"input": "..."} by models that write calls as JSON. The grammar of the call
has a place there, an id of no token; when it comes to the place, the grammar of the text takes over, on a vocabulary
in which every token is what it stands for inside the string, until the quote that ends it.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

from .vocabulary import QuotedNames


class Quoted:
    """A Matcher of the text, up to and with the quote. half: the last token was a backslash, and its letter follows."""

    def __init__(self, text: Any, names: QuotedNames):
        self.text, self.names, self.half, self.ended = text, names, False, False

    def deep_copy(self) -> "Quoted":
        other = copy(self)
        other.text = self.text.deep_copy()
        return other

    def compute_bitmask(self) -> bytes:
        mask = bytearray(self.text.compute_bitmask())
        fitting = [letter for letter, place in self.names.letters.items() if mask[place >> 3] >> (place & 7) & 1]
        if self.half:
            mask = bytearray(len(mask))
        for token in fitting if self.half else self.names.halves if fitting else ():
            mask[token >> 3] |= 1 << (token & 7)
        return bytes(mask)

    def validate_tokens(self, tokens: list[int]) -> int:
        mask = self.compute_bitmask()
        return int(mask[tokens[0] >> 3] >> (tokens[0] & 7) & 1)

    def consume_token(self, token: int) -> bool:
        if self.half:
            self.half = False
            return self.text.consume_token(self.names.letters[token])
        if token in self.names.halves:
            self.half = True
            return True
        self.ended = token in self.names.ends
        return self.text.consume_token(token)


class Nested:
    """A Matcher. outer: of the call. inners: of the texts, at the places first, first + 1, ..."""

    def __init__(self, outer: Any, inners: Sequence[Any], first: int, names: QuotedNames):
        self.outer, self.inners, self.first, self.names = outer, inners, first, names
        self.inner: Quoted | None = None
        self.place = first

    def deep_copy(self) -> "Nested":
        """The inners are only ever copied."""
        other = copy(self)
        other.outer = self.outer.deep_copy()
        other.inner = None if self.inner is None else self.inner.deep_copy()
        return other

    def compute_bitmask(self) -> bytes:
        return (self.inner or self.outer).compute_bitmask()

    def validate_tokens(self, tokens: list[int]) -> int:
        return (self.inner or self.outer).validate_tokens(tokens)

    def consume_tokens(self, tokens: list[int]) -> bool:
        return all(self.consume_token(token) for token in tokens)

    def consume_token(self, token: int) -> bool:
        if self.inner is None:
            taken = self.outer.consume_token(token)
            self.enter()
            return taken
        taken = self.inner.consume_token(token)
        if taken and self.inner.ended:
            self.inner = None
            taken = self.outer.consume_tokens([self.place, token])
        return taken

    def enter(self) -> None:
        for place, inner in enumerate(self.inners, self.first):
            if self.outer.validate_tokens([place]) == 1:
                self.place, self.inner = place, Quoted(inner.deep_copy(), self.names)

    def is_stopped(self) -> bool:
        return self.inner is None and self.outer.is_stopped()

    def is_error(self) -> bool:
        return self.current.is_error()

    def get_error(self) -> str:
        return self.current.get_error()

    @property
    def current(self) -> Any:
        return self.outer if self.inner is None else self.inner.text
