"""Train the byte-level BPE tokenizer on generated data: `python -m train.tokenizer FOLDER` from models/builtin."""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import mixture, sample

VOCAB = 4096
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISIBLE = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")  # added, but part of the text
# A small model copies what it can see as the same tokens. So the first letter of a word is a token of its own, with the space before it
# if there is one, and so is every capital: `parse file`, `parse_file`, `parseFile` and `ParseFile` then differ in those letters alone,
# and the long rest of an unseen word is the same tokens in all of them. A number is its digits.
WORDS = r" ?[A-Z]| ?(?<![A-Za-z])[a-z]|[a-z]+|\p{L}+|\p{N}|\n+| ?[^\s\p{L}\p{N}]+| +|\s"


def untrained():
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def texts(n):
    """Text between special tokens, one sample after another."""
    for seed in range(n):
        text = "".join(part for part, _ in sample.segments(mixture.sample(seed)[1]))
        for token in (*SPECIAL, *VISIBLE):
            text = text.replace(token, "\n")
        yield text


def train(n=16000):
    tokenizer = untrained()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIAL) - len(VISIBLE), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts(n), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in VISIBLE])
    return tokenizer


def config(tokenizer):
    added = {
        str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": t in SPECIAL}
        for t in (*SPECIAL, *VISIBLE)
    }
    return {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": list(SPECIAL[1:]), "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 2048, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None,
    }  # fmt: skip


if __name__ == "__main__":
    made, folder = train(), Path(sys.argv[1])
    made.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config(made), indent=2) + "\n")
    print("tokens:", made.get_vocab_size())
