"""One flag of the command line, and the ways to read a flag's text."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..engine.request import LIMITS

RUN, SERVE, CHAT = "run", "serve", "chat"
EVERYWHERE = (RUN, SERVE, CHAT)
BOUNDS = {name: (low, high) for name, low, high in LIMITS}
UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Refused(Exception):
    """A flag, or a value of one, that cannot be honoured."""


@dataclass(frozen=True, slots=True)
class Flag:
    """
    names     as typed; the first one's words make the key in the parsed values
    read      text to value, raising ValueError with words; None for a switch, which takes no value
    value     of a switch: what it stands for
    default   in words, for the table
    differs   mlx-serve's own default, where ours is another
    """

    names: tuple[str, ...]
    doc: str
    read: Callable[[str], Any] | None = None
    metavar: str = ""
    default: str = ""
    commands: tuple[str, ...] = EVERYWHERE
    value: Any = True
    many: bool = False
    differs: str = ""

    @property
    def key(self) -> str:
        return self.names[0].lstrip("-").replace("-", "_")


def number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = plain(float, text, "a number")
        if not low <= value <= high:
            raise ValueError(f"{text} is not between {low:g} and {high:g}")
        return value

    return read


def integer(low: int, high: float = math.inf) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = plain(int, text, "a whole number")
        if not low <= value <= high:
            raise ValueError(f"{text} is {'below ' + str(low) if value < low else 'above ' + str(high)}")
        return value

    return read


def plain(kind: Callable[[str], Any], text: str, words: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {words}") from None


def words_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
        return text

    return read


def size(text: str) -> int:
    digits = text.rstrip("kKmMgGbB")
    unit = text[len(digits) :].lower()
    if not digits.isdigit() or unit not in UNITS:
        raise ValueError(f"{text!r} is not a size such as 512MB or 2GB")
    return int(digits) * UNITS[unit]


def auto_or(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == "auto" else read(text)


def off_or(read: Callable[[str], int]) -> Callable[[str], int]:
    return lambda text: 0 if text == "off" else read(text)


def ranged(name: str) -> Callable[[str], float]:
    return number(*BOUNDS[name])
