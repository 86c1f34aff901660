"""Prompt lookup: what followed the last few tokens where they stood before is a guess at what follows them now.

Saxena 2023. An index of n-grams stands for the scan: a look costs the same in a long text as in a short one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

GATE_KEY = 3  # tokens of the n-grams that the prompt's score counts


def grams(tokens: Sequence[int], size: int) -> Iterable[tuple[int, ...]]:
    return zip(*(tokens[i:] for i in range(size)))


def repetition(prompt: Sequence[int]) -> float:
    """The share of a prompt's distinct n-grams that come twice or more: where nothing repeats, nothing can be foretold."""
    counts = Counter(grams(prompt, GATE_KEY))
    return sum(count > 1 for count in counts.values()) / len(counts) if counts else 0.0


class Lookup:
    """A text that grows, and where each of its n-grams was last followed by something.

    `size` tokens are looked for. With `prediction` the text's own end is taken to be followed by it, as if it had
    stood there before.
    """

    def __init__(self, prompt: Sequence[int], size: int, prediction: Sequence[int] = ()):
        self.size = size
        self.tokens = [*prompt, *prediction, *prompt[-size:]] if prediction else list(prompt)
        self.shared = dict(zip(grams(self.tokens, size), range(size, len(self.tokens)), strict=False))
        self.own: dict[tuple[int, ...], int] = {}

    def fork(self) -> "Lookup":
        """Another text that goes on from here; the index of what is there is held once."""
        assert not self.own, "only a text that nothing was added to can be shared"
        other = object.__new__(Lookup)
        other.size, other.tokens, other.shared, other.own = self.size, list(self.tokens), self.shared, {}
        return other

    def add(self, token: int) -> None:
        if len(self.tokens) >= self.size:
            self.own[self.key] = len(self.tokens)
        self.tokens.append(token)

    @property
    def key(self) -> tuple[int, ...]:
        return tuple(self.tokens[-self.size :])

    def found(self) -> int | None:
        """The position after the latest place, but the end itself, where the last tokens stand."""
        key = self.key
        return self.own.get(key, self.shared.get(key)) if len(key) == self.size else None

    def draft(self, most: int, skip: int = 0) -> list[int]:
        """Up to `most` tokens that may follow, past the first `skip` of them. They run on into themselves: a text that
        has begun to repeat is taken to go on so.
        """
        start = self.found()
        if start is None or most <= 0:
            return []
        period = len(self.tokens) - start
        return [self.tokens[start + i % period] for i in range(skip, skip + most)]
