"""The text of a completion while it is made."""

from collections.abc import Collection

from . import decoding
from .tokenizer import Tokenizer


class Detokenizer:
    """Token ids in, final text out: nothing is taken back, and a character leaves when it is complete.

    The pieces joined are `tokenizer.decode` of all ids with the same settings. The work per token does not grow.

    skip_special  leave special tokens out; other added tokens (<think>, <tool_call> in most families) stay visible
    keep          special tokens that stay visible all the same, such as a family's tool and reasoning marks
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, keep: Collection[int] = ()):
        self.piece, self.stages = tokenizer.piece, tokenizer.pipeline.start()
        self.skip = tokenizer.hidden(skip_special, keep)

    def add(self, ident: int) -> str:
        """The text that is certain now and was not before; empty while a character is incomplete."""
        piece = None if ident in self.skip else self.piece(ident)
        return "" if piece is None else decoding.feed(self.stages, piece)

    def finish(self) -> str:
        """The rest, when no token follows. A character cut off by the end is U+FFFD."""
        return decoding.finish(self.stages)
