"""From a model's text to reasoning, answer and tool calls. Pure: no model, no threads, no ids.

`choose` finds a checkpoint's `Format`, whose `parser` is the machine of one answer: `feed` it text, `finish` it, and it
gives `Piece`s as soon as they are certain. `pieces.joined` folds them into a whole answer.
"""

from .formats import Format, choose
from .parser import Parser
from .pieces import Piece, Reasoning, Text, ToolArguments, ToolClosed, ToolOpened, joined

__all__ = [
    "Format",
    "Parser",
    "Piece",
    "Reasoning",
    "Text",
    "ToolArguments",
    "ToolClosed",
    "ToolOpened",
    "choose",
    "joined",
]
