"""Text to token ids and back. Used on worker threads; long texts are encoded without holding the interpreter."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from . import decoding
from .chat_files import read_templates
from .tokenizer_files import Added, Declared, TokenizerError, declared, read_object

# End an answer wherever they are single tokens. Each is what some family's template closes a turn with.
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<end_of_turn>", "<turn|>", "<|end_of_turn|>")
# End an answer in some families and are something else in others: only where the template writes them.
END_IF_WRITTEN = (
    "<|end|>",
    "</s>",
    "<|endoftext|>",
    "<eos>",
    "<|end_of_text|>",
    "<SPECIAL_12>",
    "<|return|>",
    "<|call|>",
)


class Vocabulary(Protocol):
    """What the two file formats have in common.

    size    one more than the greatest id
    added   tokens that are found in a text before anything else is
    prefix  what the tokenizer's own files put before every text; `suffix` after it
    """

    size: int
    added: Mapping[int, Added]

    @property
    def prefix(self) -> list[int]: ...
    @property
    def suffix(self) -> list[int]: ...
    @property
    def default_bos(self) -> str | None: ...
    @property
    def default_eos(self) -> str | None: ...
    @property
    def decoder(self) -> Mapping[str, Any] | None: ...
    def encode(self, text: str, parse_special: bool) -> list[int]: ...
    def piece(self, ident: int) -> str | None: ...
    def id_of(self, token: str) -> int | None: ...


class Tokenizer:
    """One vocabulary.

    vocab_size   one more than the greatest id; a model's logits may be wider
    special_ids  tokens that are left out of the text by default
    adds_bos     a plain text begins with the BOS token
    """

    def __init__(self, vocabulary: Vocabulary, known: Declared):
        self.vocabulary, self.known = vocabulary, known
        self.pipeline = decoding.Pipeline(vocabulary.decoder)
        self.vocab_size: int = vocabulary.size
        self.special_ids = special_ids(vocabulary, known)
        self.bos_token = known.named.get("bos_token") or vocabulary.default_bos
        self.eos_token = known.named.get("eos_token") or vocabulary.default_eos
        self.bos_id = self.id_of(self.bos_token) if self.bos_token else None
        self.eos_id = self.id_of(self.eos_token) if self.eos_token else None
        by_processor = self.bos_id is not None and vocabulary.prefix[:1] == [self.bos_id]
        self.adds_bos = self.bos_id is not None and (by_processor if known.add_bos is None else known.add_bos)
        self.piece = lru_cache(decoding.KNOWN)(vocabulary.piece)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        known = declared(folder)
        if (folder / "tokenizer.json").exists():
            from .tokenizer_json import JsonVocabulary

            return cls(JsonVocabulary.read(folder / "tokenizer.json", known), known)
        if (folder / "tokenizer.model").exists():
            from .tokenizer_pieces import PieceVocabulary

            return cls(PieceVocabulary.read(folder / "tokenizer.model", known), known)
        others = [name for name in ("tekken.json", "tiktoken.model", "vocab.json") if (folder / name).exists()]
        hint = f" (it has {', '.join(others)}, which must be converted to tokenizer.json)" if others else ""
        raise TokenizerError(f"{folder} has neither tokenizer.json nor tokenizer.model{hint}")

    # Text to ids

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = True) -> list[int]:
        """Ids of a text. With parse_special=False, a special token's name in the text is text, as users' words are."""
        ids = self.vocabulary.encode(whole_characters(text), parse_special) if text else []
        if add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def encode_prompt(self, text: str, *, rendered_by_template: bool) -> list[int]:
        """A template writes its own BOS, or none if the model was trained without; a plain text gets the tokenizer's."""
        return self.encode(text, add_bos=self.adds_bos and not rendered_by_template)

    def encode_whole(self, text: str) -> list[int]:
        """With all that the tokenizer's files put around a text: models made for embeddings end it with a token."""
        return self.encode(text, add_bos=self.adds_bos) + self.vocabulary.suffix

    def id_of(self, token: str) -> int | None:
        return self.vocabulary.id_of(token)

    # Ids to text

    def decode(self, ids: Sequence[int], skip_special: bool = True, keep: Collection[int] = ()) -> str:
        """The text of all ids at once: what a `Detokenizer` gives piece by piece. Ids of no token are left out."""
        stages, skip = self.pipeline.start(), self.hidden(skip_special, keep)
        pieces = [piece for ident in ids if ident not in skip and (piece := self.piece(ident)) is not None]
        return "".join(decoding.feed(stages, piece) for piece in pieces) + decoding.finish(stages)

    def hidden(self, skip_special: bool, keep: Collection[int] = ()) -> frozenset[int]:
        return self.special_ids.difference(keep) if skip_special else frozenset()

    def token_bytes(self, ident: int) -> bytes:
        """What a token adds to the text, mid-text: b" the", or a part of a character. Empty for ids of no token."""
        piece = self.piece(ident)
        return b"" if piece is None else self.pipeline.bytes_of(piece)


def special_ids(vocabulary: Vocabulary, known: Declared) -> frozenset[int]:
    tokens = dict(vocabulary.added) | {
        ident: token for ident, token in known.added.items() if vocabulary.id_of(token.content) == ident
    }
    flagged = {ident for ident, token in tokens.items() if token.special}
    named = {ident for text in known.special if (ident := vocabulary.id_of(text)) is not None}
    return frozenset(flagged | named)


def whole_characters(text: str) -> str:
    """Half surrogate pairs, which JSON can spell and UTF-8 cannot: pairs are joined, single ones become U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def eos_ids(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that ends an answer, by config.json, generation_config.json, the tokenizer and the chat template."""
    config, generation = read_object(folder / "config.json"), read_object(folder / "generation_config.json")
    inner = config.get("text_config")
    found = set()
    for source in (config, inner if isinstance(inner, dict) else {}, generation):
        value = source.get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        found.update(ident for ident in values if isinstance(ident, int) and not isinstance(ident, bool))
    written = "\n".join(read_templates(folder).values())
    ends = [tokenizer.id_of(token) for token in END_OF_TURN]
    ends += [tokenizer.id_of(token) for token in END_IF_WRITTEN if token in written]
    found.update(ident for ident in ends if ident in tokenizer.special_ids)
    if tokenizer.eos_id is not None:
        found.add(tokenizer.eos_id)
    return frozenset(ident for ident in found if ident >= 0)
