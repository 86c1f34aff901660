"""A vocabulary as llguidance sees it: of texts as they are, and of texts inside a JSON string."""

import json
from collections.abc import Collection
from functools import cached_property

from ..tokenizer import Tokenizer

SENTINEL = "\x02"  # before a text, so that no tokenizer takes it for the beginning of one
PLACES = 64  # ids behind the vocabulary, which stand for texts with grammars of their own
ESCAPES = {b'"': b'"', b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
QUOTE, BACKSLASH = b'"', b"\\"


class Names:
    """What llguidance's TokenizerWrapper asks for. special: ids that are no part of any text."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, special: Collection[int], ends: Collection[int]):
        self.tokenizer = tokenizer
        self.bos_token_id, self.eos_token_id = tokenizer.bos_id, min(ends)
        self.tokens = [self.spelled(ident) for ident in range(vocab)] + [b"<place>"] * PLACES
        places = range(vocab, vocab + PLACES)
        self.special_token_ids = sorted({ident for ident in special if ident < vocab} | set(ends) | set(places))

    def spelled(self, ident: int) -> bytes:
        return self.tokenizer.token_bytes(ident)

    def written(self, text: str) -> str:
        """What the model writes for a text."""
        return text

    @cached_property
    def unspoken(self) -> frozenset[int]:
        return frozenset(self.special_token_ids)

    @cached_property
    def known(self) -> dict[bytes, int]:
        return {text: ident for ident, text in enumerate(self.tokens) if text and ident not in self.unspoken}

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.known))

    def __call__(self, text: bytes) -> list[int]:
        """As the model was trained to read it, where the tokens spell exactly this; else the longest that fit."""
        written = self.written(text.decode("utf-8", "replace"))
        skip = len(self.tokenizer.encode(SENTINEL, parse_special=False))
        for made in (
            self.tokenizer.encode(written, parse_special=False),
            self.tokenizer.encode(SENTINEL + written, parse_special=False)[skip:],
        ):
            if self.spell(made, text):
                return made
        return self.greedy(text)

    def spell(self, tokens: list[int], text: bytes) -> bool:
        parts = [self.tokens[ident] for ident in tokens if ident not in self.unspoken]
        return len(parts) == len(tokens) and all(parts) and b"".join(parts) == text

    def greedy(self, text: bytes) -> list[int]:
        made: list[int] = []
        while text:
            sizes = range(min(self.longest, len(text)), 0, -1)
            size = next((n for n in sizes if text[:n] in self.known), 0)
            made += [self.known[text[:size]]] if size else []
            text = text[size or 1 :]
        return made


class QuotedNames(Names):
    """Each token as the text that it stands for inside a JSON string; a quote ends the text.

    Tokens that are no text by themselves are left out. Of those, a backslash may still come where an escape fits that
    its letter completes; places stand for what the two are together.

    ends     the quotes
    halves   the backslashes
    letters  letter of an escape -> the place of what it stands for
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int, special: Collection[int]):
        each = {ident: tokenizer.token_bytes(ident) for ident in range(vocab) if ident not in special}
        self.ends = frozenset(ident for ident, text in each.items() if text == QUOTE)
        self.halves = frozenset(ident for ident, text in each.items() if text == BACKSLASH)
        places = {letter: place for place, letter in enumerate(ESCAPES, vocab)}
        self.letters = {ident: places[text] for ident, text in each.items() if text in places}
        super().__init__(tokenizer, vocab, special, self.ends)
        self.tokens[vocab : vocab + len(ESCAPES)] = ESCAPES.values()
        self.special_token_ids = [i for i in self.special_token_ids if not vocab <= i < vocab + len(ESCAPES)]

    def spelled(self, ident: int) -> bytes:
        text = self.tokenizer.token_bytes(ident)
        return text if ident in self.ends else unescaped(text)

    def written(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False)[1:-1]


def unescaped(written: bytes) -> bytes:
    """The text of a part of a JSON string; nothing where it is none."""
    made, at = bytearray(), 0
    while at < len(written):
        char = written[at : at + 1]
        if char == BACKSLASH:
            at += 1
            char = ESCAPES.get(written[at : at + 1], b"")
            if not char:
                return b""
        elif char < b" " or char in (QUOTE, b"\x7f"):
            return b""
        made += char
        at += 1
    return bytes(made)
