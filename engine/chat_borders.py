"""Where parts of a rendered conversation end, in tokens: other prompts may begin with the same parts.

Each is found by rendering a conversation that shares the part and nothing after it. The generation prompt is such an
end, since templates write the turn that it opens otherwise once it is over; so is the last question, since many leave
out what was thought after an earlier one; and so is what stands before the first one: the system message and the tools.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .errors import BadRequest
from .prefix_tree import common

Messages = Sequence[Mapping[str, Any]]
OTHER = "\N{MIDDLE DOT}"  # a question that no one asks


def borders(
    messages: Messages,
    rendered: str,
    tokens: Sequence[int],
    render: Callable[[Messages], str],
    token_bytes: Callable[[int], bytes],
) -> tuple[int, ...]:
    """Positions in `tokens`, which are those of `rendered`. `render` writes messages without a generation prompt."""
    found = set()
    for variant in variants(messages):
        try:
            same = common(rendered, render(variant))
        except BadRequest:  # the template may want what was left out
            continue
        found.add(place(tokens, rendered, same, token_bytes))
    return tuple(sorted(found - {0}))


def variants(messages: Messages) -> Iterator[Messages]:
    yield messages
    asked = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    if asked and asked[-1] + 1 < len(messages):
        yield messages[: asked[-1] + 1]
    if asked:
        yield [*messages[: asked[0]], {"role": "user", "content": OTHER}]


def place(tokens: Sequence[int], text: str, end: int, token_bytes: Callable[[int], bytes]) -> int:
    """How many whole tokens the first `end` characters of the text have; counted from the nearer side."""
    if 2 * end < len(text):
        return fitting(tokens, size(text[:end]), token_bytes)
    return len(tokens) - covering(reversed(tokens), size(text[end:]), token_bytes)


def size(text: str) -> int:
    return len(text.encode(errors="replace"))


def fitting(tokens: Iterable[int], room: int, token_bytes: Callable[[int], bytes]) -> int:
    """How many of the tokens fit in so many bytes."""
    sums = itertools.accumulate(len(token_bytes(token)) for token in tokens)
    return sum(1 for _ in itertools.takewhile(lambda taken: taken <= room, sums))


def covering(tokens: Iterable[int], wanted: int, token_bytes: Callable[[int], bytes]) -> int:
    """How many of the tokens it takes to have so many bytes."""
    sums = itertools.accumulate((len(token_bytes(token)) for token in tokens), initial=0)
    return sum(1 for _ in itertools.takewhile(lambda taken: taken < wanted, sums))
