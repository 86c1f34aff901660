"""tokenizer.json, read by the `tokenizers` library."""

import json
import logging
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from .tokenizer_files import Added, Declared, TokenizerError

log = logging.getLogger(__name__)

FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


class JsonVocabulary:
    """added: the tokens that are looked for in the text first. size: one more than the greatest id."""

    def __init__(self, library: Library, declared: Declared):
        library.no_truncation()  # some files were saved with a training run's limits
        library.no_padding()
        self.library = library
        add_missing(library, declared)
        self.added = {ident: as_added(token) for ident, token in library.get_added_tokens_decoder().items()}
        self.size = max(1 + max(self.added, default=-1), library.get_vocab_size(with_added_tokens=False))
        self.default_eos = None
        self.lock = threading.Lock()

    @classmethod
    def read(cls, path: Path, declared: Declared) -> "JsonVocabulary":
        try:
            return cls(Library.from_file(str(path)), declared)
        except Exception as error:  # the library raises plain Exception for all that can be wrong with the file
            raise TokenizerError(f"{path} cannot be read: {error}. Download it again") from None

    @cached_property
    def decoder(self) -> Mapping[str, Any] | None:
        decoder = self.library.decoder
        return None if decoder is None else json.loads(decoder.__getstate__())

    @property
    def default_bos(self) -> str | None:
        return self.piece(self.prefix[0]) if len(self.prefix) == 1 else None

    @property
    def prefix(self) -> list[int]:
        return self.around[0]

    @property
    def suffix(self) -> list[int]:
        return self.around[1]

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the post-processor puts before every text, and after it."""
        marked = self.library.encode_batch_fast(["x"], add_special_tokens=True)[0].ids
        plain = self.library.encode_batch_fast(["x"], add_special_tokens=False)[0].ids
        begins = [at for at in range(len(marked)) if marked[at : at + len(plain)] == plain]
        return (marked[: begins[0]], marked[begins[0] + len(plain) :]) if begins else ([], [])

    def encode(self, text: str, parse_special: bool) -> list[int]:
        library = self.library if parse_special else self.plain
        return library.encode_batch_fast([text], add_special_tokens=False)[0].ids  # `encode` would hold the GIL

    @property
    def plain(self) -> Library:
        """A second copy that takes special tokens for text: the switch is the library object's, not the call's."""
        with self.lock:
            if "twin" not in self.__dict__:
                self.twin = Library.from_str(self.library.to_str())
                self.twin.encode_special_tokens = True
            return self.twin

    def piece(self, ident: int) -> str | None:
        return self.library.id_to_token(ident)

    def id_of(self, token: str) -> int | None:
        return self.library.token_to_id(token)


def as_added(token: AddedToken) -> Added:
    return Added(token.content, **{name: getattr(token, name) for name in FLAGS})


def add_missing(library: Library, declared: Declared) -> None:
    """Tokens that only tokenizer_config.json knows. The library counts up: one that would get another id is left out."""
    for ident, token in sorted(declared.added.items()):
        if library.token_to_id(token.content) is not None:
            continue
        if ident != library.get_vocab_size():
            log.warning(
                "the token %r of tokenizer_config.json is left out: its id %d is not free", token.content, ident
            )
            continue
        library.add_tokens([AddedToken(token.content, **{name: getattr(token, name) for name in FLAGS})])
