"""What a checkpoint's small JSON files say of its tokens. They overlap and contradict; what is read first here wins.

tokenizer_config.json   bos_token, eos_token, ... as strings or objects; added_tokens_decoder by id
special_tokens_map.json the same names, for what tokenizer_config.json does not say
added_tokens.json       token -> id, for sentencepiece checkpoints
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")


class TokenizerError(Exception):
    """The tokenizer cannot be loaded; the message says what is wrong with its files."""


@dataclass(frozen=True, slots=True)
class Added:
    """A token that is found in the text before anything else is. lstrip, rstrip: it takes the white space beside it."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class Declared:
    """named: bos_token, eos_token, ... -> text. added: by id. special: texts that are special in any case."""

    named: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[int, Added] = field(default_factory=dict)
    special: frozenset[str] = frozenset()
    add_bos: bool | None = None
    legacy: bool = True


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is no such file."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON ({error}): download it again") from None
    if not isinstance(made, dict):
        raise TokenizerError(f"{path} holds a {type(made).__name__}; it must be an object")
    return made


def declared(folder: Path) -> Declared:
    config = read_object(folder / "tokenizer_config.json")
    further = read_object(folder / "special_tokens_map.json")
    named = dict(named_tokens(further)) | dict(named_tokens(config))
    for name, value in config.items():
        if name.endswith("_token") and value is None:
            named.pop(name, None)  # an explicit null is an answer
    lists = [text for source in (config, further) for text in listed(source)]
    add_bos = config.get("add_bos_token")
    return Declared(
        named,
        added_tokens(folder, config),
        frozenset(named.values()) | frozenset(lists),
        add_bos if isinstance(add_bos, bool) else None,
        config.get("legacy") is not False,
    )


def named_tokens(source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in source.items():
        text = content(value) if name.endswith("_token") else None
        if text:
            yield name, text


def content(value: Any) -> str | None:
    """A token's text, written as a string or as an object with `content`."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def listed(source: Mapping[str, Any]) -> Iterator[str]:
    for name in SPECIAL_LISTS:
        values = source.get(name) or ()
        values = values.values() if isinstance(values, dict) else values
        yield from (text for value in values if (text := content(value)))


def added_tokens(folder: Path, config: Mapping[str, Any]) -> dict[int, Added]:
    found = {}
    for text, ident in read_object(folder / "added_tokens.json").items():
        if isinstance(ident, int):
            found[ident] = Added(text)
    for ident, entry in (config.get("added_tokens_decoder") or {}).items():
        text = content(entry)
        if not text or not ident.isdecimal():
            raise TokenizerError(
                f"{folder / 'tokenizer_config.json'}: added_tokens_decoder has {ident!r}: {entry!r};"
                ' it must be an id and an object with "content"'
            )
        flags = entry if isinstance(entry, dict) else {}
        names = ("special", "lstrip", "rstrip", "single_word", "normalized")
        found[int(ident)] = Added(text, **{name: flags.get(name) is True for name in names})
    return found
