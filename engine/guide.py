"""Which tokens may come next in one completion: its reasoning and the budget of it first, then the answer's grammar.

A guide is made on the thread of whoever asks, and is the engine thread's from then on. It knows only tokens that were
read; `waits` tells from these alone whether the next draw can do without it.
"""

from collections import deque
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Protocol

from .errors import EngineFailed, RequestError
from .reasoning import ReasoningState

MOST_BLANKS = 2  # tokens of line ends between the reasoning and an answer that a grammar rules


class Matcher(Protocol):
    """Where a text is in a grammar: what llguidance's LLMatcher does."""

    def compute_bitmask(self) -> bytes: ...
    def validate_tokens(self, tokens: list[int]) -> int: ...
    def consume_token(self, token: int) -> bool: ...
    def consume_tokens(self, tokens: list[int]) -> bool: ...
    def is_stopped(self) -> bool: ...
    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...
    def deep_copy(self) -> "Matcher": ...


@dataclass(frozen=True, slots=True)
class Spelling:
    """The tokens that a guide has to know.

    vocab   how many the logits have
    ends    those that end an answer
    opening the mark that opens the reasoning; empty where the model is not to open any
    lead    comes before the mark that closes it by force, but in an empty block
    closing that mark, and what the family writes after it
    blanks  line ends, which may stand between the reasoning and the answer
    """

    vocab: int
    ends: frozenset[int] = frozenset()
    opening: tuple[int, ...] = ()
    lead: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    blanks: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        """Bytes of a mask: whole words of 32 bits."""
        return -(-self.vocab // 32) * 4

    def plus(self, tokens: Iterable[int], mask: bytes) -> bytes:
        made = bytearray(mask)
        for token in tokens:
            made[token >> 3] |= 1 << (token & 7)
        return bytes(made)

    def only(self, *tokens: int) -> bytes:
        return self.plus(tokens, bytes(self.size))

    def but(self, tokens: Iterable[int]) -> bytes:
        return bytes(byte ^ 0xFF for byte in self.only(*tokens))


def told_of(error: str) -> str:
    """A matcher's error without the state of its parser, which llguidance appends."""
    return error.split("\n<state>")[0]


class Guide:
    """reasoning  None where the model has none
    matcher    of the answer's grammar; None for an answer that is free
    budget     tokens of reasoning at most; None for no limit
    ended      the grammar has come to its end: nothing more may follow
    """

    def __init__(
        self, spelling: Spelling, reasoning: ReasoningState | None, matcher: Matcher | None, budget: int | None = None
    ):
        self.spelling, self.reasoning, self.matcher, self.budget = spelling, reasoning, matcher, budget
        self.forced: deque[int] = deque()
        self.begun = reasoning is None  # a token of the grammar's came
        self.blanks = 0  # line ends that may still come before it
        self.ended = False
        self.thinking = spelling.but(spelling.ends) if reasoning is not None and matcher is not None else b""
        self.enforce()

    def waits(self, unread: int) -> bool:
        """May the next draw need a mask, when so many tokens were drawn and not read?"""
        if self.matcher is not None or self.forced:
            return True
        return (self.reasoning.inside or self.reasoning.may_open) and self.spent(unread)

    def spent(self, unread: int = 0) -> bool:
        """Is it time to close the reasoning? The lead counts as well."""
        count = self.reasoning.count + unread
        return self.budget is not None and count + len(self.spelling.lead) >= self.budget

    def mask(self) -> bytes | None:
        """Bit i % 8 of byte i // 8 for token i; None when all may come."""
        if self.forced:
            return self.spelling.only(self.forced[0])
        if self.matcher is None:
            return None
        if self.reasoning is not None and self.reasoning.inside:
            return self.thinking  # the end of the completion would be the end of an answer that never began
        return self.fitting()

    def fitting(self) -> bytes:
        fits = self.matcher.compute_bitmask()[: self.spelling.size]
        self.check()
        if not self.begun:
            fits = self.spelling.plus(self.before_answer(), fits)
        if fits.count(0) == len(fits):
            raise EngineFailed("no token of this model's vocabulary fits the grammar here")
        return fits

    def before_answer(self) -> Iterable[int]:
        """What may come besides the grammar's first tokens."""
        opening = self.spelling.opening[:1] if self.reasoning.may_open and not self.reasoning.blocks else ()
        return (*opening, *(self.spelling.blanks if self.blanks else ()))

    def take(self, token: int) -> None:
        """A token was read."""
        if self.forced:
            self.take_forced(token)
        elif self.matcher is None or (self.reasoning is not None and self.reasoning.inside):
            self.think(token)
        elif self.begun or self.matcher.validate_tokens([token]) == 1:
            self.begun = True
            self.consume(token)
        else:
            self.take_before_answer(token)
        self.enforce()

    def take_forced(self, token: int) -> None:
        if self.forced.popleft() != token:
            raise EngineFailed("another token was drawn than the one that had to come")
        self.think(token)

    def think(self, token: int) -> None:
        blocks = self.reasoning.blocks
        self.reasoning.take(token)
        if self.reasoning.blocks > blocks:
            self.blanks = MOST_BLANKS

    def take_before_answer(self, token: int) -> None:
        if token in self.spelling.opening[:1]:
            self.forced.extend(self.spelling.opening[1:])
            self.think(token)
        elif token in self.spelling.blanks and self.blanks:
            self.blanks -= 1
        else:
            self.consume(token)

    def consume(self, token: int) -> None:
        self.matcher.consume_token(token)
        self.check()
        self.ended = self.matcher.is_stopped()

    def fork(self) -> "Guide":
        """Another one that goes on from here, to see what would come."""
        other = copy(self)
        other.forced = self.forced.copy()
        other.reasoning = copy(self.reasoning)
        other.matcher = None if self.matcher is None else self.matcher.deep_copy()
        return other

    def check(self) -> None:
        if self.matcher.is_error():
            raise EngineFailed(f"the grammar cannot be followed: {told_of(self.matcher.get_error())}")

    def enforce(self) -> None:
        """Close the reasoning when its budget is spent."""
        if self.reasoning is not None and self.reasoning.inside and not self.forced and self.spent():
            lead = self.spelling.lead if self.reasoning.count else ()
            self.forced.extend((*lead, *self.spelling.closing))


def along(guide: Guide, mask: bytes | None, draft: list[int]) -> list[bytes | None]:
    """The masks after each token of a draft, the guide's own being `mask`: up to a token that does not fit, or ends it."""
    ahead, masks = guide.fork(), []
    for token in draft:
        if mask is not None and not mask[token >> 3] >> (token & 7) & 1:
            break
        try:
            ahead.take(token)
            mask = None if ahead.ended else ahead.mask()
        except RequestError:  # told when the token before it was drawn, if it is
            break
        if ahead.ended:
            break
        masks.append(mask)
    return masks
