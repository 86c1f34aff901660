"""A radix tree over token ids: which sequences that are known begin like a new one. Morrison 1968."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Node:
    """tokens from the parent's end to this one's; `end` tokens from the root; `used` tells the order of last use."""

    tokens: array
    end: int
    parent: "Node | None" = None
    value: Any = None
    used: int = 0
    children: dict[int, "Node"] = field(default_factory=dict)

    def below(self) -> Iterator["Node"]:
        """Itself and all after it, the nearest first."""
        level = [self]
        while level:
            yield from level
            level = [child for node in level for child in node.children.values()]


@dataclass(frozen=True)
class Found:
    """How far some tokens are in the tree.

    path    the nodes that they pass to their ends, from the root on
    at      the node on whose way the match ends: all that is there or below begins with the tokens matched
    differs the tokens go on, and so does what is known, otherwise; else one of them ends
    """

    matched: int
    path: list[Node]
    at: Node
    differs: bool


class Tree:
    def __init__(self):
        self.root = Node(array("i"), 0)

    def find(self, tokens: Sequence[int]) -> Found:
        given, node, path = array("i", tokens), self.root, []
        while True:
            path.append(node)
            child = node.children.get(given[node.end]) if node.end < len(given) else None
            if child is None:
                return Found(node.end, path, node, bool(node.children) and node.end < len(given))
            same = common(child.tokens, given[node.end : child.end])
            if same < len(child.tokens):
                return Found(node.end + same, path, child, node.end + same < len(given))
            node = child

    def place(self, tokens: Sequence[int]) -> Node:
        """The node at the end of the tokens, made where there is none."""
        found = self.find(tokens)
        node = found.path[-1] if found.at is found.path[-1] else self._split(found.at, found.matched)
        if found.matched == len(tokens):
            return node
        made = Node(array("i", tokens[found.matched :]), len(tokens), node)
        node.children[made.tokens[0]] = made
        return made

    @staticmethod
    def _split(node: Node, end: int) -> Node:
        """A node on the way to `node`."""
        count = end - node.parent.end
        upper = Node(node.tokens[:count], end, node.parent, used=node.used)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.parent = node.tokens[count:], upper
        upper.children[node.tokens[0]] = node
        return upper

    def above(self, node: Node, end: int) -> Node:
        """The node at the first `end` tokens of this one's, made where there is none."""
        while node.parent.end >= end:
            node = node.parent
        return node if node.end == end else self._split(node, end)

    def clear(self, node: Node) -> None:
        """Take the node's value out, and the nodes that lead to none any more."""
        node.value = None
        while node.value is None and not node.children and node.parent is not None:
            del node.parent.children[node.tokens[0]]
            node = node.parent
        if node.value is None and node.parent is not None and len(node.children) == 1:
            (child,) = node.children.values()
            child.tokens, child.parent = node.tokens + child.tokens, node.parent
            node.parent.children[child.tokens[0]] = child

    def values(self) -> list[Node]:
        return [node for node in self.root.below() if node.value is not None]

    def leaves(self) -> list[Node]:
        """The ends of sequences that no longer one begins with."""
        return [node for node in self.values() if not node.children]


def common(one: array | str, other: array | str) -> int:
    """How many of the first tokens, or characters, are the same."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low + 1 < high:  # the first `low` are the same, the first `high` are not
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low
