"""Tokens to text, one at a time: the decoder pipelines of tokenizer.json as machines that never look back.

The `tokenizers` library decodes a whole list. Most of its decoders treat each token by itself, and those are asked
about one token at a time (`Each`), so their rules are the library's own. The rest depend on what comes before or after
and are written here as small machines: a pipeline is a list of them, and what a pipeline has given out is final.

One rule differs. Where a run of byte tokens is not UTF-8, the library replaces the whole run, so a broken byte would
unwrite characters that were already sent; here, as in sentencepiece, only the broken bytes are replaced.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

KNOWN = 1 << 16  # tokens whose text is remembered
REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Make = Callable[[], "Stage"]


def replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error("smelt_each_byte", replace_each_byte)
utf8 = codecs.getincrementaldecoder("utf-8")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's names for the 256 bytes: printable ones stand for themselves, the others for U+0100 and up."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = (byte for byte in range(256) if byte not in plain)
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


ALPHABET = byte_alphabet()


@lru_cache(KNOWN)
def spelled_bytes(token: str) -> bytes:
    """The bytes that a token's characters name; its own UTF-8 when one of them names none (added tokens)."""
    if all(char in ALPHABET for char in token):
        return bytes(map(ALPHABET.__getitem__, token))
    return token.encode()


class Stage:
    """feed and finish give tokens for the next stage. `alone` is what a token means in the middle of a text."""

    def feed(self, token: str) -> Iterable[str]:
        raise NotImplementedError

    def finish(self) -> Iterable[str]:
        return ()

    def alone(self, token: str) -> str | bytes:
        return token


class Each(Stage):
    """A decoder that treats tokens one by one, the first perhaps differently."""

    def __init__(self, first: Callable[[str], str], later: Callable[[str], str]):
        self.decode, self.alone = first, later

    def feed(self, token: str) -> Iterable[str]:
        decode, self.decode = self.decode, self.alone
        return (decode(token),)


class Chunks(Stage):
    """A decoder that treats characters one by one, after a stage that joined all tokens into one."""

    def __init__(self, decode: Callable[[list[str]], str]):
        self.decode = decode

    def feed(self, token: str) -> Iterable[str]:
        return (self.decode([token]),)


class Suffixes(Stage):
    """BPEDecoder: a token's end-of-word suffix is a space, except the last token's."""

    def __init__(self, decode: Callable[[list[str]], str]):
        self.decode, self.held = decode, None

    def feed(self, token: str) -> Iterable[str]:
        held, self.held = self.held, token
        return () if held is None else (self.alone(held),)

    def finish(self) -> Iterable[str]:
        return () if self.held is None else (self.decode([self.held]),)

    def alone(self, token: str) -> str:
        return self.decode([token, ""])


class Repeats(Stage):
    """CTC: a token repeated at once counts once."""

    def __init__(self, decode: Callable[[list[str]], str]):
        self.decode, self.last = decode, None

    def feed(self, token: str) -> Iterable[str]:
        last, self.last = self.last, token
        return () if token == last else (self.alone(token),)

    def alone(self, token: str) -> str:
        return self.decode([token])


class Spaced(Stage):
    """No decoder at all: the library joins tokens by spaces."""

    first = True

    def feed(self, token: str) -> Iterable[str]:
        first, self.first = self.first, False
        return (token,) if first else (" ", token)


class Bytes(Stage):
    """ByteLevel: characters are names of bytes, and the bytes of all tokens together are UTF-8."""

    def __init__(self):
        self.decoder = utf8("replace")

    def feed(self, token: str) -> Iterable[str]:
        return (self.decoder.decode(self.alone(token)),)

    def finish(self) -> Iterable[str]:
        return (self.decoder.decode(b"", True),)

    def alone(self, token: str) -> bytes:
        return spelled_bytes(token)


class ByteTokens(Stage):
    """ByteFallback: <0xAB> is a byte, and a run of them is UTF-8. Characters leave when they are complete."""

    def __init__(self):
        self.decoder = utf8("smelt_each_byte")

    def feed(self, token: str) -> Iterable[str]:
        raw = self.alone(token)
        if isinstance(raw, bytes):
            return (self.decoder.decode(raw),)
        return self.decoder.decode(b"", True), token

    def finish(self) -> Iterable[str]:
        return (self.decoder.decode(b"", True),)

    def alone(self, token: str) -> str | bytes:
        match = BYTE_TOKEN.fullmatch(token)
        return bytes.fromhex(match[1]) if match else token


class ByteRuns(ByteTokens):
    """ByteFallback where a later stage counts tokens: a run is one token, so it is held until it is over."""

    def __init__(self):
        self.run = bytearray()

    def feed(self, token: str) -> Iterable[str]:
        raw = self.alone(token)
        if isinstance(raw, bytes):
            self.run += raw
            return ()
        return (*self.finish(), token)

    def finish(self) -> Iterable[str]:
        run, self.run = self.run, bytearray()
        try:
            return (run.decode(),) if run else ()
        except UnicodeDecodeError:
            return (REPLACEMENT,) * len(run)


class Edges(Stage):
    """Strip, after a stage that joined all tokens: so many characters at the beginning and the end of the text."""

    def __init__(self, content: str, start: int, stop: int):
        self.content, self.start, self.stop, self.held = content, start, stop, 0

    def feed(self, token: str) -> Iterable[str]:
        token = self.begin(token)
        body = token.rstrip(self.content) if self.stop else token
        if body:
            yield self.content * self.held + body
            self.held = 0
        self.held += len(token) - len(body)
        yield self.content * max(0, self.held - self.stop)  # these stay, whatever follows
        self.held = min(self.held, self.stop)

    def begin(self, token: str) -> str:
        while self.start and token:
            if token[0] != self.content:
                self.start = 0
            else:
                token, self.start = token[1:], self.start - 1
        return token


class Whole(Stage):
    """A decoder that needs all of the text at once. No published tokenizer has one there; exact, but not streamed."""

    def __init__(self, decode: Callable[[list[str]], str]):
        self.decode, self.parts = decode, []

    def feed(self, token: str) -> Iterable[str]:
        self.parts.append(token)
        return ()

    def finish(self) -> Iterable[str]:
        return (self.decode(["".join(self.parts)]),)


class Pipeline:
    """The stages of one decoder, told once per tokenizer. `start` makes the machine of one text."""

    def __init__(self, spec: Mapping[str, Any] | None):
        self.makes = list(plan(flat(spec))) if spec is not None else [Spaced]
        self.fixed = self.start()

    def start(self) -> list[Stage]:
        return [make() for make in self.makes]

    def bytes_of(self, token: str) -> bytes:
        """What a token adds in the middle of a text; part of a character perhaps."""
        made: str | bytes = token
        for stage in self.fixed:
            made = stage.alone(made)
            if isinstance(made, bytes):
                return made
        return made.encode()


def feed(stages: list[Stage], token: str) -> str:
    tokens: Iterable[str] = (token,)
    for stage in stages:
        tokens = [out for token in tokens for out in stage.feed(token)]
    return "".join(tokens)


def finish(stages: list[Stage]) -> str:
    tokens: list[str] = []
    for stage in stages:
        tokens = [out for token in tokens for out in stage.feed(token)]
        tokens += stage.finish()
    return "".join(tokens)


def flat(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if spec["type"] != "Sequence":
        return [spec]
    return [part for inner in spec["decoders"] for part in flat(inner)]


def plan(specs: list[Mapping[str, Any]]) -> Iterable[Make]:
    """A stage for each decoder; what it is depends on whether an earlier one made one token of all."""
    joined = False
    for index, spec in enumerate(specs):
        kind = spec["type"]
        if kind == "Fuse":
            joined = True
            continue
        rest = [later["type"] for later in specs[index + 1 :]]
        yield whole_text_stage(spec) if joined else token_stage(spec, streams=not rest or rest[0] == "Fuse")
        joined = joined or kind == "ByteLevel"


def token_stage(spec: Mapping[str, Any], streams: bool) -> Make:
    kind = spec["type"]
    if kind == "ByteLevel":
        return Bytes
    if kind == "ByteFallback":
        return ByteTokens if streams else ByteRuns
    decode = library_decoder(spec)
    if kind in ("BPEDecoder", "CTC"):
        machine = Suffixes if kind == "BPEDecoder" else Repeats
        return lambda: machine(decode)
    first = lru_cache(KNOWN)(lambda token: decode([token]))
    if kind not in ("WordPiece", "Metaspace"):
        return lambda: Each(first, first)
    later = lru_cache(KNOWN)(lambda token: decode(["", token]))  # as the second token, after an empty first one
    return lambda: Each(first, later)


def whole_text_stage(spec: Mapping[str, Any]) -> Make:
    kind = spec["type"]
    if kind == "Strip":
        return lambda: Edges(spec["content"], spec["start"], spec["stop"])
    decode = library_decoder(spec)
    pattern = spec.get("pattern", {}).get("String", "") if kind == "Replace" else ""
    streams = kind == "Metaspace" or len(pattern) == 1
    return lambda: Chunks(decode) if streams else Whole(decode)


def library_decoder(spec: Mapping[str, Any]) -> Callable[[list[str]], str]:
    from tokenizers import decoders

    decoder = decoders.Fuse()
    decoder.__setstate__(json.dumps(spec, ensure_ascii=False).encode())  # any kind: that is how they are unpickled
    return decoder.decode
