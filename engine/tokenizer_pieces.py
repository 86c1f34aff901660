"""tokenizer.model, read by sentencepiece, for checkpoints without a tokenizer.json.

Sentencepiece does not look for control tokens in a text, and knows nothing of tokens added later: the text is cut at
them first. What it does know is whether a text begins with an invisible space; only the first stretch of a text has
one, unless the checkpoint's tokenizer is declared `legacy`.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from .tokenizer_files import Added, Declared, TokenizerError

SPACE = "\u2581"
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"  # protobuf: normalizer_spec { add_dummy_prefix: false }; a later field overrides


class PieceVocabulary:
    def __init__(self, model: bytes, declared: Declared):
        from sentencepiece import SentencePieceProcessor

        self.model = SentencePieceProcessor(model_proto=model)
        self.bare = SentencePieceProcessor(model_proto=model + NO_DUMMY_PREFIX)
        self.legacy = declared.legacy
        self.pieces = self.model.get_piece_size()
        self.added = dict(self.own_tokens()) | dict(declared.added)
        self.size = max(self.pieces, 1 + max(self.added, default=-1))
        self.by_text = {token.content: (ident, token) for ident, token in self.added.items()}
        bos, eos = self.model.bos_id(), self.model.eos_id()
        self.default_bos = self.model.id_to_piece(bos) if bos >= 0 else None
        self.default_eos = self.model.id_to_piece(eos) if eos >= 0 else None
        self.prefix = [bos] if bos >= 0 else []  # such checkpoints begin every text with it unless they say otherwise
        self.suffix: list[int] = []

    @classmethod
    def read(cls, path: Path, declared: Declared) -> "PieceVocabulary":
        try:
            return cls(path.read_bytes(), declared)
        except (RuntimeError, ValueError, OSError) as error:
            raise TokenizerError(
                f"{path} is not a sentencepiece model ({error}). Smelt reads sentencepiece models and tokenizer.json;"
                " convert a tiktoken file to tokenizer.json"
            ) from None

    def own_tokens(self) -> Iterator[tuple[int, Added]]:
        """Control and unknown tokens; user-defined ones are found by sentencepiece itself."""
        for ident in range(self.pieces):
            if self.model.is_control(ident) or self.model.is_unknown(ident):
                yield ident, Added(self.model.id_to_piece(ident), special=True)

    @cached_property
    def decoder(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if self.model.encode("a") != self.bare.encode("a"):
            steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return {"type": "Sequence", "decoders": steps}

    @cached_property
    def cut(self) -> re.Pattern[str]:
        return cutter(list(self.added.values()))

    @cached_property
    def cut_plain(self) -> re.Pattern[str]:
        return cutter([token for token in self.added.values() if not token.special])

    def encode(self, text: str, parse_special: bool) -> list[int]:
        made: list[int] = []
        for part, token in stretches((self.cut if parse_special else self.cut_plain).split(text), self.by_text):
            if token is not None:
                made.append(token)
            elif part:
                model = self.bare if made and not self.legacy else self.model
                made += model.encode(part)
        return made

    def piece(self, ident: int) -> str | None:
        if ident in self.added:
            return self.added[ident].content
        return self.model.id_to_piece(ident) if 0 <= ident < self.pieces else None

    def id_of(self, token: str) -> int | None:
        if token in self.by_text:
            return self.by_text[token][0]
        ident = self.model.piece_to_id(token)
        return ident if self.model.id_to_piece(ident) == token else None


def cutter(tokens: list[Added]) -> re.Pattern[str]:
    """A pattern whose one group is an added token, the longest that fits."""
    longest = sorted(tokens, key=lambda token: -len(token.content))
    return re.compile(f"({'|'.join(map(pattern, longest))})" if longest else "(?!)()")


def pattern(token: Added) -> str:
    return rf"(?<!\w){re.escape(token.content)}(?!\w)" if token.single_word else re.escape(token.content)


def stretches(parts: list[str], tokens: dict[str, tuple[int, Added]]) -> Iterator[tuple[str, int | None]]:
    """(text, None) and (content, id) in turn, without the white space that a token takes from its neighbours."""
    takes = False
    for index, part in enumerate(parts):
        if index % 2:
            ident, token = tokens[part]
            takes = token.rstrip
            yield part, ident
            continue
        part = part.lstrip() if takes else part
        follows = index + 1 < len(parts) and tokens[parts[index + 1]][1].lstrip
        yield part.rstrip() if follows else part, None
