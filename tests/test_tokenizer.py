"""Text to ids and back, BOS rules, and what is special, for each kind of tokenizer file."""

import threading

import pytest
import vocabularies
from smelt.engine.tokenizer import Tokenizer, eos_ids
from smelt.engine.tokenizer_files import TokenizerError

SP = "sentencepiece"


def flags(content, special=True, **others):
    return {"content": content, "special": special, "lstrip": False, "rstrip": False, "normalized": False} | others


@pytest.fixture(scope="session")
def model_bytes():
    return vocabularies.sentencepiece_model(user_defined_symbols=["<custom>"])


@pytest.fixture
def load(tmp_path, model_bytes):
    def made(kind="byte_level", config=None, **files):
        if kind == SP:
            (tmp_path / "tokenizer.model").write_bytes(model_bytes)
            return Tokenizer.load(vocabularies.folder(tmp_path, config=config, **files))
        library = getattr(vocabularies, kind)()
        return Tokenizer.load(vocabularies.folder(tmp_path, library, config=config, **files))

    return made


# Reading


def test_no_tokenizer_is_said_with_what_there_is(tmp_path):
    with pytest.raises(TokenizerError, match="neither tokenizer.json nor tokenizer.model$"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(TokenizerError, match="it has tekken.json, which must be converted"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{}", r"tokenizer.json cannot be read: .*Download it again"),
        ("tokenizer.json", "<html>", r"tokenizer.json cannot be read"),
        ("tokenizer.model", "not a model", r"not a sentencepiece model"),
        ("tokenizer_config.json", "{", r"tokenizer_config.json is not valid JSON"),
        ("tokenizer_config.json", "[]", r"holds a list; it must be an object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', r"it must be an id and an object with"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    if name == "tokenizer_config.json":
        vocabularies.byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_limits_left_from_training_do_not_cut_texts(tmp_path):
    library = vocabularies.byte_level()
    library.enable_truncation(4)
    library.enable_padding(length=100)
    made = Tokenizer.load(vocabularies.folder(tmp_path, library))
    assert len(made.encode("abcdefghij")) == 10


# Special and added tokens


def test_special_tokens_by_every_file(load):
    config = {"bos_token": "<|endoftext|>", "eos_token": flags("<|im_end|>"), "additional_special_tokens": ["<think>"]}
    made = load(config=config, special_tokens_map_json={"bos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    assert made.bos_token == "<|endoftext|>", "tokenizer_config.json goes first"
    assert made.eos_token == "<|im_end|>"
    assert made.known.named["pad_token"] == "<|endoftext|>"
    assert made.special_ids == {made.id_of(text) for text in (*vocabularies.CHATML, "<think>")}


def test_an_explicit_null_is_an_answer(load):
    made = load(config={"bos_token": None}, special_tokens_map_json={"bos_token": "<|endoftext|>"})
    assert made.bos_token is None and made.bos_id is None and not made.adds_bos
    assert made.encode("a", add_bos=True) == made.encode("a")


def test_tokens_that_only_the_config_knows(load, caplog):
    size = vocabularies.byte_level().get_vocab_size()
    added = {str(size): flags("<late>"), str(size + 1): flags("<mark>", special=False), "9999": flags("<far>")}
    made = load(config={"added_tokens_decoder": added})
    assert made.id_of("<late>") == size and size in made.special_ids
    assert made.encode("a<mark>") == [made.id_of("a"), size + 1] and size + 1 not in made.special_ids
    assert made.vocab_size == size + 2
    assert made.id_of("<far>") is None and "9999 is not free" in caplog.text


def test_text_that_names_special_tokens_is_text_when_asked(load):
    made = load()
    text = "a<|im_end|>b<think>"
    assert made.id_of("<|im_end|>") in made.encode(text)
    plain = made.encode(text, parse_special=False)
    assert not made.special_ids & set(plain)
    assert made.decode(plain) == text
    assert made.id_of("<|im_end|>") in made.encode(text), "the switch must not stay"


def test_ids_of_no_token(load):
    made = load()
    assert made.decode([10**6, made.id_of("a")]) == "a"
    assert made.token_bytes(10**6) == b""
    assert made.token_bytes(made.id_of("he")) == b"he"


# BOS


@pytest.mark.parametrize(
    ("kind", "config", "adds"),
    [
        ("byte_fallback", {"bos_token": "<s>"}, True),  # by its post-processor
        ("byte_fallback", {}, True),
        ("byte_fallback", {"bos_token": "<s>", "add_bos_token": False}, False),
        ("byte_level", {"bos_token": "<|endoftext|>"}, False),
        ("byte_level", {"bos_token": "<|endoftext|>", "add_bos_token": True}, True),
        (SP, {}, True),
        (SP, {"add_bos_token": False}, False),
    ],
)
def test_which_texts_begin_with_bos(load, kind, config, adds):
    made = load(kind, config)
    bos = made.bos_id
    assert made.adds_bos is adds and bos is not None
    assert (made.encode_prompt("abc", rendered_by_template=False)[0] == bos) is adds
    assert made.encode_prompt("abc", rendered_by_template=True)[0] != bos
    assert made.encode_prompt("", rendered_by_template=False) == [bos] * adds


@pytest.mark.parametrize("kind", ["byte_fallback", SP])
def test_bos_is_never_doubled(load, kind):
    made = load(kind)
    for rendered in (True, False):
        ids = made.encode_prompt(made.bos_token + "abc", rendered_by_template=rendered)
        assert ids.count(made.bos_id) == 1 and ids[0] == made.bos_id


def test_what_a_post_processor_puts_after_the_text_is_left_out(tmp_path):
    from tokenizers import processors

    library = vocabularies.byte_fallback()
    marks = [("<s>", 1), ("</s>", 2)]
    library.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    made = Tokenizer.load(vocabularies.folder(tmp_path, library))
    assert made.encode_prompt("a", rendered_by_template=False) == [1, made.id_of(vocabularies.SPACE + "a")]
    assert made.encode_whole("a") == [1, made.id_of(vocabularies.SPACE + "a"), 2]  # but for embeddings


# Sentencepiece


def test_a_sentencepiece_model_reads_and_writes(load):
    made = load(SP)
    text = "the quick fox \u4f60 jumps"
    assert made.decode(made.encode(text)) == text
    assert made.encode(text) == made.vocabulary.model.encode(text)
    assert made.eos_token == "</s>" and {made.bos_id, made.eos_id} < made.special_ids
    assert made.token_bytes(made.id_of("<0xE4>")) == b"\xe4"
    assert made.id_of("no such piece") is None


def test_added_tokens_of_a_sentencepiece_model(load):
    size = 400
    added = {str(size): flags("<|im_end|>"), str(size + 1): flags("<think>", special=False, rstrip=True)}
    made = load(SP, {"added_tokens_decoder": added, "legacy": False}, added_tokens_json={"<old>": size + 2})
    ids = made.encode("fox<|im_end|><think>  dog<old><custom>")
    assert [ident for ident in ids if ident >= size] == [size, size + 1, size + 2]
    assert made.id_of("<custom>") in ids
    assert made.decode(ids) == "fox<think>dog<old><custom>"
    assert made.vocab_size == size + 3
    assert size not in made.encode("fox<|im_end|>", parse_special=False)
    assert size + 1 in made.encode("fox<think>", parse_special=False)


@pytest.mark.parametrize("legacy", [True, False])
def test_the_invisible_space_after_a_special_token(load, legacy):
    made = load(SP, {"legacy": legacy})
    ids = made.encode("<s>fox")
    assert made.decode(ids[1:], skip_special=True) == "fox"
    assert (made.vocabulary.piece(ids[1]).startswith(vocabularies.SPACE)) is legacy


# Text


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", SP])
def test_half_characters_are_no_error(load, kind):
    made = load(kind)
    assert made.decode(made.encode("a\ud83d\ude00b\ud800c")) == "a\U0001f600b\ufffdc"
    assert made.encode("") == []


def test_other_threads_run_while_a_long_text_is_encoded(load):
    """`encode` of the library would hold the GIL for all of it."""
    made, ticks, done = load(), [], threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    made.encode("the quick brown fox " * 100_000)
    done.set()
    thread.join()
    assert len(ticks) > 10


# End of answer


def test_every_end_of_answer(load, tmp_path):
    made = load(
        config={"eos_token": "<|endoftext|>"},
        config_json={"eos_token_id": 3, "text_config": {"eos_token_id": [4, 5]}},
        generation_config_json={"eos_token_id": [6]},
    )
    expected = {3, 4, 5, 6, made.id_of("<|endoftext|>"), made.id_of("<|im_end|>")}
    assert eos_ids(tmp_path, made) == expected


def test_ambiguous_ends_count_where_the_template_writes_them(tmp_path):
    library = vocabularies.byte_level(special=("<|end|>", "<|endoftext|>", "<eos>"), visible=("<|im_end|>",))
    folder = vocabularies.folder(tmp_path, library, template="{{ x }}<|end|>")
    made = Tokenizer.load(folder)
    assert eos_ids(folder, made) == {made.id_of("<|end|>")}, "a visible <|im_end|> is not a special token"


def test_odd_configs_end_nothing(load, tmp_path):
    made = load(config_json={"eos_token_id": None, "text_config": None}, generation_config_json={"eos_token_id": "x"})
    assert eos_ids(tmp_path, made) == {made.id_of("<|im_end|>")}


def test_the_builtin_files_of_the_hub_style(tmp_path):
    """As saved by transformers: objects for tokens, and all flags."""
    library = vocabularies.byte_fallback()
    config = {
        "add_bos_token": True,
        "bos_token": flags("<s>"),
        "eos_token": flags("</s>"),
        "unk_token": flags("<unk>"),
        "added_tokens_decoder": {str(i): flags(text) for i, text in enumerate(("<unk>", "<s>", "</s>"))},
    }
    folder = vocabularies.folder(tmp_path, library, config=config)
    made = Tokenizer.load(folder)
    assert made.special_ids == {0, 1, 2}
    assert eos_ids(folder, made) == {2}
    assert made.encode_prompt("ab", rendered_by_template=False) == [
        1,
        made.id_of(vocabularies.SPACE + "a"),
        made.id_of("b"),
    ]
