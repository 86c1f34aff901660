"""What a format of tool calls is to the parser."""

from typing import Protocol

from .calls import Calls
from .reader import Reader, Step


class Grammar(Protocol):
    """openers  texts that may begin a call anywhere
    first    characters that may begin one where an answer begins, and after another call
    marks    tokens that the format is made of; special ones among them must stay visible in the text
    """

    openers: tuple[str, ...]
    first: tuple[str, ...]
    marks: tuple[str, ...]

    def read(self, r: Reader, calls: Calls, opener: str) -> Step[None]:
        """Read what begins with the opener, which is still ahead. Malformed before anything was opened: it is text."""
        ...
