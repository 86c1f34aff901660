"""What a model's text is made of, in the order it comes. Calls are numbered from 0; ids are the caller's to give."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Text:
    """`spans` are the places [begin, end) that it had in all the text that was fed: marks between them are left out."""

    text: str
    spans: tuple[tuple[int, int], ...] = field(default=(), compare=False)


class Reasoning(NamedTuple):
    text: str


class ToolOpened(NamedTuple):
    call: int
    name: str


class ToolArguments(NamedTuple):
    """A part of the arguments. All parts of a call together are one JSON object, always."""

    call: int
    text: str


class ToolClosed(NamedTuple):
    call: int


Piece = Text | Reasoning | ToolOpened | ToolArguments | ToolClosed


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece."""
    made: list[Piece] = []
    for piece in pieces:
        last = made[-1] if made else None
        if isinstance(piece, Text) and isinstance(last, Text):
            made[-1] = Text(last.text + piece.text, last.spans + piece.spans)
        elif isinstance(piece, Reasoning) and isinstance(last, Reasoning):
            made[-1] = Reasoning(last.text + piece.text)
        elif isinstance(piece, ToolArguments) and isinstance(last, ToolArguments) and last.call == piece.call:
            made[-1] = ToolArguments(piece.call, last.text + piece.text)
        else:
            made.append(piece)
    return made
