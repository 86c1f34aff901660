"""Small tokenizers of every kind that checkpoints bring, and the folders they come in."""

import io
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPACE = "\u2581"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISIBLE = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def add(tokenizer, special=CHATML, visible=VISIBLE):
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in visible])
    return tokenizer


def byte_level(special=CHATML, visible=VISIBLE):
    """GPT-2's scheme: Qwen, Llama 3, most others."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("\u0120", "t"), ("\u00f0", "\u0141")]  # the last: half of an emoji
    pieces = [*alphabet, *("".join(pair) for pair in merges)]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return add(made, special, visible)


def pieces_vocabulary():
    plain = [SPACE, SPACE * 2, *LETTERS, *(SPACE + letter for letter in LETTERS), "\u00e9", SPACE + "\u4f60", ".", "'"]
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *plain]


def byte_fallback(*, strips=True):
    """Sentencepiece's scheme as tokenizer.json spells it: Llama 2 and Mistral with `strips`, Gemma without."""
    vocabulary = {piece: i for i, piece in enumerate(pieces_vocabulary())}
    merges = [(SPACE, letter) for letter in LETTERS] + [(SPACE, SPACE)]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    replace = normalizers.Replace(" ", SPACE)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if strips else replace
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return add(made, ("<unk>", "<s>", "</s>"))


def with_decoder(decoder, pieces):
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
    if decoder is not None:
        made.decoder = decoder
    return add(made)


ODD = [SPACE, SPACE * 2, "a", SPACE + "b", "c" + SPACE, "##d", " ", "  ", " e ", "f</w>", "g</w>", "<0xE4>", "<0xBD>", "<0xA0>",
       "<0x20>", "\u0120h", "\u00e9", ".", " .", "'", "<pad>", "|", "do", "not", "aa"]  # fmt: skip
DECODERS = {
    "none": lambda: None,
    "wordpiece": decoders.WordPiece,
    "metaspace": decoders.Metaspace,
    "metaspace never": lambda: decoders.Metaspace(prepend_scheme="never"),
    "bpe suffix": decoders.BPEDecoder,
    "ctc": decoders.CTC,
    "byte level": decoders.ByteLevel,
    "strip each": lambda: decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Strip(" ", 1, 0)]),
    "strip all": lambda: decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 2, 2)]),
    "pattern each": lambda: decoders.Replace(Regex("[a-c]+"), "x"),
    "pattern all": lambda: decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("a.?a"), "x")]),
    "character all": lambda: decoders.Sequence([decoders.Fuse(), decoders.Replace(SPACE, " ")]),
    "metaspace all": lambda: decoders.Sequence([decoders.Fuse(), decoders.Metaspace()]),
    "runs": lambda: decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
}


def odd(name):
    return with_decoder(DECODERS[name](), ODD)


def folder(path: Path, tokenizer=None, *, template=None, config=None, **files) -> Path:
    """A checkpoint folder with a tokenizer. Further files by name, `_` for the dot: tokenizer_config_json={...}."""
    path.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps((config or {}) | ({"chat_template": template} if template else {}))
    )
    for name, content in files.items():
        stem, _, kind = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{stem}.{kind}").write_text(text, encoding="utf-8")
    return path


def sentencepiece_model(**options) -> bytes:
    """A trained tokenizer.model, small enough to be made in a test."""
    import sentencepiece

    made = io.BytesIO()
    lines = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "a b c d e  f"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20),
        model_writer=made,
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        **(
            {"hard_vocab_limit": False, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}
            | options
        ),
    )
    return made.getvalue()
