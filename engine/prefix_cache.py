"""States of sequences that were read before, by the tokens they begin with: a prompt goes on where one of them stands.

A model whose layers see all earlier tokens goes on at any of them. Recurrent states, and windows that have moved on,
are known at snapshots only, so that the longest of those counts.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..kernels.pages import PAGE
from ..models.state import Memory, Row, Snapshot
from .prefix_tree import Found, Node, Tree

LEAST = 32  # tokens of a state that is kept: fewer are read about as fast as restored
PATH = 16  # snapshots that one sequence has at most: of a recurrent model each may take as much as 1,000 tokens


@dataclass(frozen=True)
class Match:
    """length   tokens that need not be read again, from the snapshot at `node`; 0: none
    matched  tokens that are known, and `differs`: what is known goes on otherwise, or ends
    """

    node: Node | None
    length: int
    matched: int
    differs: bool


class PrefixCache:
    """entries   sequences kept at most, of which none begins with another
    limit     bytes that they may take beside the rows that run; None: as many as there are
    """

    def __init__(self, memory: Memory, entries: int, limit: int | None):
        self.memory, self.entries, self.limit = memory, entries, limit
        self.tree, self.clock = Tree(), itertools.count(1)
        self.state_bytes = 0  # of the snapshots' recurrent states
        self.kept = 0  # sequences; as `nbytes` read by other threads

    @property
    def nbytes(self) -> int:
        """What the device would have more of without the cache."""
        return self.memory.snapshot_bytes + self.state_bytes

    # Reading

    def match(self, tokens: Sequence[int]) -> Match:
        """The longest state that a sequence of these tokens can start from; at least the last is to be read."""
        found = self.tree.find(tokens[:-1])
        node, length = self._best(found)
        if length < LEAST:
            node, length = None, 0
        if node is not None:
            node.used = next(self.clock)
        differs = found.differs and found.matched < len(tokens) - 1
        return Match(node, length, found.matched, differs)

    def _best(self, found: Found) -> tuple[Node | None, int]:
        if found.matched:
            for node in found.at.below():
                if node.value is not None and self.memory.resumes(node.value, found.matched):
                    return node, found.matched
        known = [node for node in found.path if node.value is not None]
        return (known[-1], known[-1].end) if known else (None, 0)

    def restore(self, match: Match, expected: int) -> Row:
        return self.memory.restore(match.node.value, match.length, expected)

    # Writing

    def keep(self, tokens: Sequence[int], row: Row, lasting: bool = True) -> Node | None:
        """Remember the row's state after these tokens. None where a longer sequence has it already.

        One that is not `lasting` will be dropped soon, and stands for no other.
        """
        node = self.tree.place(tokens)
        for longer in node.below():
            if longer.value is not None and self.memory.resumes(longer.value, len(tokens)):
                longer.used = next(self.clock)
                if node.value is None:
                    self.tree.clear(node)
                return None
        node.value, node.used = self.memory.snapshot(row, len(tokens)), next(self.clock)
        self.state_bytes += bytes_of(node.value)
        if lasting:
            self._thin_out(node)
        self.trim()
        return node if node.value is not None else None

    def _thin_out(self, last: Node) -> None:
        """Of the snapshots on the way to the last one, drop those that it can stand for, and those beyond PATH."""
        node, before = last.parent, []
        while node is not None:
            if node.value is not None:
                before.append(node)
            node = node.parent
        for node in [node for node in before if self.memory.resumes(last.value, node.end)]:
            before.remove(node)
            self.drop(node)
        for node in sorted(before, key=lambda node: node.used)[: max(0, len(before) + 1 - PATH)]:
            self.drop(node)

    def drop(self, node: Node) -> None:
        self.state_bytes -= bytes_of(node.value)
        self.memory.drop(node.value)
        self.tree.clear(node)

    # Giving up

    def trim(self) -> None:
        """As few entries and bytes as may be kept: those go first that were used longest ago."""
        leaves = self.tree.leaves()
        while len(leaves) > self.entries:
            self.drop(min(leaves, key=lambda node: node.used))
            leaves = self.tree.leaves()
        self.kept = len(leaves)
        while self.limit is not None and self.nbytes > self.limit and self.evict():
            pass

    def evict(self) -> bool:
        """Give up the snapshot that was used longest ago of those that have something for themselves.

        A long one loses its later half: the beginning is what most prompts share.
        """
        for node in sorted(self.tree.values(), key=lambda node: node.used):
            if node.value.states or self.memory.alone(node.value):
                self._halve(node)
                self.kept = len(self.tree.leaves())
                return True
        return False

    def _halve(self, node: Node) -> None:
        half, whole = node.end // 2, node.value
        if half < PAGE or not self.memory.resumes(whole, half):
            return self.drop(node)
        upper = self.tree.above(node, half)
        if upper.value is None:
            upper.value, upper.used, node.value = self.memory.shortened(whole, half), node.used, None
            self.tree.clear(node)
        else:
            self.drop(node)


def bytes_of(snapshot: Snapshot) -> int:
    return sum(array.nbytes for array in snapshot.arrays)
