"""What the scheduler asks of the prefix cache: a row to begin with, where a prompt's chunks end, what a row leaves."""

import logging

import mlx.core as mx

from ..models.state import Memory, Row
from .prefix_cache import LEAST, Match, PrefixCache
from .prefix_tree import Node
from .sequence import Sequence

log = logging.getLogger(__name__)

TAIL = 30  # tokens before the end of a prompt of unknown parts: its last tokens may be others when it goes on
STRIDE, STRIDES = 2048, 8  # tokens between snapshots of a long prompt besides, and how many of these at most


class Prefixes:
    """borders   of the prompt being read: where chunks end for a snapshot
    last      a snapshot at the end of the last chunk, should the prompt be cancelled; the next one takes its place
    """

    def __init__(self, memory: Memory, entries: int, limit: int | None):
        self.memory = memory
        self.cache = PrefixCache(memory, entries, limit) if entries else None
        self.borders: list[int] = []
        self.last: Node | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self.cache is None else self.cache.nbytes

    @property
    def entries(self) -> int:
        return 0 if self.cache is None else self.cache.kept

    # A prompt is read

    def open(self, sequence: Sequence, expected: int) -> Row:
        """A row with as many of the sequence's tokens as are known, and room for `expected`."""
        if self.cache is None:
            return self.memory.open(expected)
        match, context = self.cache.match(sequence.context), sequence.context
        row = self.cache.restore(match, expected) if match.length else self.memory.open(expected)
        sequence.prefilled = match.length
        if not sequence.generated:  # else it was read before, and gave way
            sequence.cached, sequence.kept = match.length, len(context) - 1 - match.length  # the last is always read
            sequence.paths.prefix = told(match, len(context))
            log.info("prefix cache: %s", sequence.paths.prefix)
        self.borders, self.last = self.wanted(sequence), None
        return row

    def wanted(self, sequence: Sequence) -> list[int]:
        """Where the sequence's state is to be kept, for prompts that begin like it and for its own next turn."""
        length = len(sequence.context)
        if not self.memory.exact(length):
            return []
        own = sequence.borders or [max(0, length - TAIL)]
        stride = max(STRIDE, length // STRIDES)
        between = [p for p in range(stride, length, stride) if all(abs(p - other) >= LEAST for other in own)]
        return sorted(p for p in {*own, *between} if p >= LEAST and p > sequence.prefilled)

    def border(self, sequence: Sequence) -> int:
        """Where the next chunk of the prompt has to end at the latest."""
        return self.borders[0] if self.borders else len(sequence.context)

    def reached(self, sequence: Sequence) -> None:
        """A chunk was submitted: the prompt is read up to `sequence.prefilled`."""
        if self.cache is None:
            return
        done, length, before = sequence.prefilled, len(sequence.context), self.last
        border = self.borders[:1] == [done]
        self.borders, self.last = self.borders[border:], None
        if border or (done < length) == self.memory.exact(length):
            lasting = border or done == length
            node = self.keep(sequence.context[:done], sequence.row, lasting)
            self.last = None if lasting else node
        if before is not None and before.value is not None:
            self.cache.drop(before)

    def keep(self, tokens: list[int], row: Row, lasting: bool = True) -> Node | None:
        node = self.cache.keep(tokens, row, lasting)
        if node is not None and node.value.states:
            mx.async_eval(node.value.arrays)  # a copy that waits would hold the pool, which the next step then had to copy
        return node

    # A row ends

    def close(self, sequence: Sequence, computed: int) -> None:
        """The sequence's row ends. What it holds, `computed` tokens, is kept."""
        row, known = sequence.row, sequence.known
        computed = min(computed, len(known))
        if self.cache is not None and computed >= LEAST and (computed == row.length or not self.memory.recurrent):
            self.keep(known[:computed], row)
        self.memory.close(row)
        if self.cache is not None:
            self.cache.trim()

    # Memory

    def credit(self, sequence: Sequence) -> tuple[int, int]:
        """Bytes of pages that the sequence would find, and of those among them that other rows have already."""
        if self.cache is None or not (match := self.cache.match(sequence.context)).length:
            return 0, 0
        return self.memory.shared_bytes(match.node.value, match.length)

    def evict(self) -> bool:
        """Give up a part of what is kept; False where nothing would become free."""
        return self.cache is not None and self.cache.evict()


def told(match: Match, length: int) -> str:
    """Where and why the prompt stopped being what is kept, in a line."""
    if not match.matched:
        return f"0 of {length} tokens: nothing that is kept begins like the prompt"
    why = "the prompt goes on otherwise" if match.differs else "what is kept ends there"
    end = "the whole prompt is kept" if match.matched == length - 1 else f"from token {match.matched} on {why}"
    before = f"the last state before is at {match.length}" if match.length else f"no state of {LEAST} tokens is before"
    where = "" if match.length == match.matched else f"; {before}"
    return f"{match.length} of {length} tokens: {end}{where}"
