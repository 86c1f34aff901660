"""Values as models write them: JSON, Python's literals, Gemma's own notation, and what goes wrong in each.

One lenient grammar reads all three; strict texts mean what they mean, and broken ones are read where only one meaning
is left: keys and words without quotes, quotes and line ends inside strings, commas too many, brackets left open.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from .arguments import Writer
from .reader import Malformed, Reader, Step
from .schema import dumps

MAX_DEPTH = 64
MAX_DIGITS = 300  # more than that is a text, whatever it looks like
WORDS = {"true": "true", "false": "false", "null": "null", "none": "null", "nil": "null", "undefined": "null",
         "nan": "null", "infinity": "null", "-infinity": "null"}  # fmt: skip
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
ODD_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
BARE = re.compile(r"[^,:{}\[\]()\n<]*")
BARE_KEY = re.compile(r"[^:=,{}\[\]()\n<]*")
PLAIN = re.compile(r"[^\\<\"'`]*")
AFTER_COMMA = re.compile(r"\s*,[\s,]*(?P<word>[\w-]*)\s*")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "a": "\a", "v": "\v", "\n": ""}
HEX = {"u": 4, "x": 2, "U": 8}
HEX_DIGITS = re.compile(r"[0-9A-Fa-f]+")


class Syntax(NamedTuple):
    """quotes: what strings are in, the longest first; `raw` ones know no backslash.

    ends: what closes the call. A text that breaks off inside a string is recognised by an end that nothing but
    `again` (the next call) or the end of the text follows.
    """

    quotes: tuple[str, ...] = ('"', "'")
    raw: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    after: str = ",}]:"  # what may follow the closing quote of a string

    def cut_off(self, reader: Reader) -> Step[bool]:
        """Is the call over here, in the middle of a value?"""
        end = yield from reader.starts(self.ends)
        return end is not None and (yield from reader.beyond(len(end), self.again)) is not None


def value(r: Reader, w: Writer, s: Syntax, depth: int = 0, *, item: bool = False) -> Step[None]:
    """item: it stands in a list, so after a comma comes another value and not a key."""
    if depth > MAX_DEPTH:
        raise Malformed("nested too deep")
    yield from r.space()
    head = yield from r.ahead()
    if head == "{":
        yield from members(r, w, s, depth)
    elif head and head in "[(":
        yield from items(r, w, s, depth)
    elif (quote := (yield from r.starts(s.quotes))) is not None:
        r.at += len(quote)
        w.begin_string()
        yield from string(r, w.string, quote, s, item=item)
        w.end_string()
    else:
        yield from bare(r, w, s)


def more(r: Reader, s: Syntax, closers: str) -> Step[bool]:
    """Is there another member or item? Commas are skipped, the closing bracket is consumed."""
    while True:
        yield from r.space()
        head = yield from r.ahead()
        if head == ",":
            r.at += 1
            continue
        if not head or (head == "<" and (yield from r.starts(s.ends)) is not None):
            return False
        if head in "}])":  # another's bracket closes ours too, which was forgotten
            r.at += head in closers
            return False
        return True


def members(r: Reader, w: Writer, s: Syntax, depth: int = 0) -> Step[None]:
    """{key: value, ...}"""
    yield from r.expect("{")
    w.open("{")
    yield from fields(r, w, s, depth)
    w.close()


def fields(r: Reader, w: Writer, s: Syntax, depth: int = 0) -> Step[None]:
    """The members of an object, up to and with its closing bracket."""
    if depth > MAX_DEPTH:
        raise Malformed("nested too deep")
    while (yield from more(r, s, "}")):
        if (yield from r.ahead()) == "{" and w.empty:  # {{...}}
            r.at += 1
            yield from fields(r, w, s, depth + 1)
        else:
            yield from member(r, w, s, depth)


def member(r: Reader, w: Writer, s: Syntax, depth: int) -> Step[None]:
    w.key((yield from key(r, s)))
    yield from r.space()
    head = yield from r.ahead()
    if head in (":", "="):
        r.at += 1
    elif head:
        raise Malformed("a key without a value")
    yield from value(r, w, s, depth + 1)


def key(r: Reader, s: Syntax) -> Step[str]:
    """A key, in quotes or without. Half its quotes may be missing."""
    quote = yield from r.starts(s.quotes)
    if quote is not None:
        r.at += len(quote)
        parts: list[str] = []
        yield from string(r, parts.append, quote, s, item=True)
        return "".join(parts)
    name = (yield from r.run(BARE_KEY, 200)).strip().strip("\"'").strip()
    if not name and (yield from r.ahead()):
        raise Malformed("a key was expected")
    return name


def items(r: Reader, w: Writer, s: Syntax, depth: int) -> Step[None]:
    """[value, ...], or a tuple."""
    r.at += 1
    w.open("[")
    while (yield from more(r, s, "])")):
        begin = yield from r.ahead()
        if begin in (":", "="):
            raise Malformed("a value was expected")
        yield from value(r, w, s, depth + 1, item=True)
    w.close()


def bare(r: Reader, w: Writer, s: Syntax) -> Step[None]:
    """A number, a word, or a text without quotes. What the end cut off is left out: 12 may have become 123."""
    parts = [(yield from r.run(BARE))]
    while (yield from r.ahead()) in ("<", ":", "("):
        head = yield from r.ahead()
        if head == "<" and (yield from r.starts(s.ends)) is not None:
            break
        parts.append(r.take(1) + (yield from r.run(BARE)))
    if (yield from r.ahead()) == "":
        return
    text = "".join(parts).strip()
    if text:
        w.value(spelled(text))
    elif (yield from r.ahead()) not in tuple(",}])\n<"):
        raise Malformed("a value was expected")


def spelled(text: str) -> str:
    """A bare value as JSON."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if len(text) > MAX_DIGITS:
        return dumps(text)
    if NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return text
    if ODD_NUMBER.fullmatch(text) and not re.match(r"[+-]?0\d", text):  # .5 5. +5; but 007 is a text
        return repr(float(text)) if "." in text else str(int(text))
    return dumps(text)


def string(r: Reader, put: Callable[[str], None], quote: str, s: Syntax, *, item: bool = False) -> Step[bool]:
    """What is in quotes, given out as it comes, up to and with the closing quote. False where it was cut off."""
    raw = quote in s.raw
    while True:
        put(r.available(PLAIN))
        head = yield from r.ahead()
        if not head:
            return False
        if head == "\\" and not raw:
            put((yield from escape(r)))
        elif head == quote[0] and (yield from closes(r, quote, s, item)):
            r.at += len(quote)
            return True
        elif head == "<" and (yield from s.cut_off(r)):
            return False
        elif head in "\\<\"'`":  # else more of the plain text has come meanwhile
            put(r.take(1))


def closes(r: Reader, quote: str, s: Syntax, item: bool) -> Step[bool]:
    """A quote inside a text that forgot its backslash is not followed by what follows a string."""
    if (yield from r.starts((quote,))) is None:
        return False
    if quote in s.raw:
        return True
    follows = yield from r.beyond(len(quote), (*s.after, *s.ends))
    if follows == "," and not item:
        return (yield from key_follows(r, len(quote), s))
    return follows is not None


def key_follows(r: Reader, offset: int, s: Syntax) -> Step[bool]:
    """Is there a key behind the comma, or the end? Not in: "say "hi", please"."""
    count = offset
    while True:
        ahead = (yield from r.ahead(count + 1))[offset:]
        found = AFTER_COMMA.match(ahead)
        if found is None or found.end() < len(ahead) or len(ahead) <= count - offset or count > offset + 300:
            break
        count += 1
    rest = ahead[found.end() :] if found else ""
    if not rest:
        return True
    return rest.startswith((":", "=") if found["word"] else (*s.quotes, "}", ")", "<"))


def escape(r: Reader) -> Step[str]:
    """One escape of JSON or Python. An unknown one keeps its backslash: regular expressions are full of them."""
    two = yield from r.ahead(2)
    if len(two) < 2:
        return r.take(2)[1:]
    if two[1] in HEX:
        return (yield from code_point(r, two[1]))
    r.at += 2
    if two[1] in ESCAPES:
        return ESCAPES[two[1]]
    return two[1] if two[1] in "\"'\\/`" else two


def code_point(r: Reader, kind: str) -> Step[str]:
    length = HEX[kind]
    digits = (yield from r.ahead(2 + length))[2:]
    if len(digits) < length or not HEX_DIGITS.fullmatch(digits):
        return r.take(2)
    code = int(digits, 16)
    if 0xD800 <= code < 0xDC00:
        return (yield from pair(r, code))
    r.at += 2 + length
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


def pair(r: Reader, high: int) -> Step[str]:
    """Two \\u escapes that are one character."""
    rest = (yield from r.ahead(12))[6:]
    r.at += 6
    if len(rest) == 6 and rest[:2] == "\\u" and HEX_DIGITS.fullmatch(rest[2:]) and 0xDC00 <= int(rest[2:], 16) < 0xE000:
        r.at += 6
        return chr(0x10000 + ((high - 0xD800) << 10) + int(rest[2:], 16) - 0xDC00)
    return "\ufffd"
