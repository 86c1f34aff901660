"""What a model's text is made of, in the order it comes. Calls are numbered from 0; ids are the caller's to give."""

from collections.abc import Iterable
from typing import NamedTuple


class Text(NamedTuple):
    text: str


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
        if isinstance(piece, (Text, Reasoning)) and type(last) is type(piece):
            made[-1] = type(piece)(last.text + piece.text)
        elif isinstance(piece, ToolArguments) and isinstance(last, ToolArguments) and last.call == piece.call:
            made[-1] = ToolArguments(piece.call, last.text + piece.text)
        else:
            made.append(piece)
    return made
