"""Every flag of the command line: its values, its default, and what it does. The README's table is printed from here.

A flag is honoured or refused. One whose feature is not in this version is accepted only with a value that switches the
feature off, so that a script written for mlx-serve runs where it does not ask for more than there is.
"""

import argparse
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.options import Options
from ..engine.request import LIMITS
from .settings import Settings

RUN, SERVE, CHAT = "run", "serve", "chat"
EVERYWHERE = (RUN, SERVE, CHAT)
BOUNDS = {name: (low, high) for name, low, high in LIMITS}
LOG_LEVELS = {"error": "ERROR", "warn": "WARNING", "info": "INFO", "debug": "DEBUG"}
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
    absent    the feature that this flag asks for and that is not in this version
    off       values with which it does not ask for it
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
    absent: str = ""
    off: tuple[Any, ...] = ()
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


def ranged(name: str) -> Callable[[str], float]:
    return number(*BOUNDS[name])


MODEL_FLAGS = (
    Flag(("--model",), "a folder, an installed model's name, or org/name on the Hugging Face hub", str, "MODEL", "the built-in one"),
    Flag(("--model-dir",), "a further folder to look for models in; may be repeated", str, "DIR", many=True),
    Flag(("--ctx-size",), "tokens of the context window", auto_or(integer(1)), "N", "auto: from the model and the memory"),
    Flag(("--prefill-chunk",), "prompt tokens a step at most; smaller ones let other streams through sooner", integer(1), "N", "2048", differs="8192"),
    Flag(("--warmup-eager",), "one short answer after loading, so that the first request does not pay for it", default="on"),
    Flag(("--no-warmup-eager",), "do without", value=False),
    Flag(("--timeout",), "seconds a request may take; then it ends with finish_reason `length`; 0 for no limit", number(0, math.inf), "S", "300"),
)

SAMPLING_FLAGS = (
    Flag(("--max-tokens",), "tokens of an answer that does not say", integer(1), "N", "run: 100; else what the context leaves"),
    Flag(("--temp", "--temperature"), "0 always takes the likeliest token", ranged("temperature"), "F", "run: 0; else the model's own"),
    Flag(("--top-p",), "the smallest set of tokens that reaches this probability", ranged("top_p"), "F", "the model's own, or 1"),
    Flag(("--top-k",), "the k likeliest tokens; 0 keeps all", integer(0), "N", "the model's own, or 0"),
    Flag(("--min-p",), "tokens at least this times as likely as the likeliest", ranged("min_p"), "F", "the model's own, or 0"),
    Flag(("--repetition-penalty", "--repeat-penalty"), "divides the logits of recent tokens", ranged("repetition_penalty"), "F", "the model's own, or 1"),
    Flag(("--presence-penalty",), "once for each token already in the answer", ranged("presence_penalty"), "F", "0"),
    Flag(("--frequency-penalty",), "for each time it is in the answer", ranged("frequency_penalty"), "F", "0"),
    Flag(("--seed",), "the same seed gives the same answer", integer(0, 2**63 - 1), "N", "random"),
)

THINKING_FLAGS = (
    Flag(
        ("--reasoning-budget",),
        "0: ask the model not to think; -1: no limit",
        integer(-1),
        "N",
        "-1",
        absent="a limit on thinking",
        off=(-1, 0),
    ),
    Flag(("--no-thinking",), "the same as --reasoning-budget 0"),
)

RUN_FLAGS = (
    Flag(("--prompt",), "what to answer; `-` reads it from standard input", str, "TEXT", "the words after the model", (RUN,)),
    Flag(("--system",), "a system message before it", str, "TEXT", commands=(RUN, CHAT)),
    Flag(("--stream",), "write the text as it comes", default="on", commands=(RUN,)),
    Flag(("--no-stream",), "write it when it is whole", value=False, commands=(RUN,)),
)

SERVE_FLAGS = (
    Flag(("--serve",), "mlx-serve's word for `smelt serve`", commands=(SERVE,)),
    Flag(("--host",), "the address to listen on; 0.0.0.0 is every network of this machine", str, "ADDR", "127.0.0.1", (SERVE,)),
    Flag(("--port",), "0 takes any free one", integer(0, 65535), "N", "11234", (SERVE,)),
    Flag(("--api-key",), "ask every request for this key (also: SMELT_API_KEY, which `ps` does not show)", str, "KEY", "none", (SERVE,)),
    Flag(("--cors-origin",), "let pages of this site call, or `*` for all; may be repeated. Pages on this machine may", str, "ORIGIN", "none", (SERVE,), many=True, differs="`*`"),
    Flag(("--max-concurrent",), "answers decoded together", integer(1, 1024), "N", "64", (SERVE,), differs="1"),
    Flag(("--max-queue",), "requests that may wait beyond those; more are answered 429", integer(0, 4096), "N", "64", (SERVE,)),
    Flag(("--max-body-mb",), "larger requests are answered 413", integer(1, 4096), "N", "128", (SERVE,), differs="64"),
    Flag(("--keep-alive-secs",), "silence after which a stream sends a comment", number(0.1, 3600), "S", "15", (SERVE,)),
    Flag(("--drain-secs",), "what running answers get to finish in after SIGTERM or Ctrl-C", number(0, 86400), "S", "30", (SERVE,)),
)

GENERAL_FLAGS = (
    Flag(("--log-level",), "how much to say on standard error", words_of(*LOG_LEVELS), "LEVEL", "serve: info; else warn"),
    Flag(("--log-file",), "say it to this file, too", str, "FILE"),
)

SPECULATION, KV_QUANT = "speculative decoding", "a quantised KV cache"
PREFIXES, RESIDENTS = "the prefix cache", "keeping several models loaded"

ABSENT_FLAGS = (
    Flag(("--no-vision",), "read no images; this version reads none"),
    Flag(("--pld",), "prompt lookup decoding", absent=SPECULATION, default="off", differs="on"),
    Flag(("--no-pld",), "no prompt lookup decoding"),
    Flag(("--pld-draft-len",), "tokens drafted a step", integer(1), "N", absent=SPECULATION),
    Flag(("--pld-key-len",), "tokens that have to match", integer(1), "N", absent=SPECULATION),
    Flag(("--drafter",), "a drafting model", str, "DIR", absent=SPECULATION),
    Flag(("--no-drafter",), "no drafting model"),
    Flag(("--draft-block-size",), "tokens drafted a round", auto_or(integer(1)), "N", absent=SPECULATION, off=(None,)),
    Flag(("--kv-quant",), "bits of the KV cache", words_of("off", "4", "8", "turbo2", "turbo4"), "MODE", "off", absent=KV_QUANT, off=("off",)),
    Flag(("--kv-attn-mode",), "how a quantised KV cache is read", words_of("auto", "dense", "fused"), "MODE", "auto", absent=KV_QUANT, off=("auto", "dense")),
    Flag(("--prefix-cache-entries",), "prompts remembered", integer(0), "N", "0", absent=PREFIXES, off=(0,), differs="1"),
    Flag(("--prefix-cache-mem",), "memory for them", size, "SIZE", "0", absent=PREFIXES, off=(0,), differs="2GB"),
    Flag(("--max-resident-models",), "models kept loaded", integer(1), "N", "1", absent=RESIDENTS, off=(1,), differs="3"),
    Flag(("--max-resident-mem",), "memory for them; 0 for no limit", auto_or(size), "SIZE", "auto", absent=RESIDENTS, off=(None, 0)),
    Flag(("--idle-evict-secs",), "unload after so long; 0 for never", number(0, math.inf), "S", "0", absent="unloading idle models", off=(0,)),
    Flag(("--prefill-trace",), "time every part of the prefill", absent="tracing the prefill"),
)

FLAGS = (*MODEL_FLAGS, *SAMPLING_FLAGS, *THINKING_FLAGS, *RUN_FLAGS, *SERVE_FLAGS, *GENERAL_FLAGS, *ABSENT_FLAGS)
SAMPLING = {
    "temp": "temperature",
    **{name: name for name in ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")},
}


def add_to(parser: argparse.ArgumentParser, command: str) -> None:
    for flag in FLAGS:
        if command in flag.commands:
            parser.add_argument(*flag.names, dest=flag.key, default=argparse.SUPPRESS, help=help_text(flag), **shape(flag))


def shape(flag: Flag) -> dict[str, Any]:
    if flag.read is None:
        return {"action": "store_const", "const": flag.value}
    return {"type": str, "metavar": flag.metavar, "action": "append" if flag.many else "store"}


def help_text(flag: Flag) -> str:
    parts = [flag.doc, f"(default: {flag.default})" if flag.default else "", "(not in this version)" if flag.absent and not flag.off else ""]
    return " ".join(part for part in parts if part).replace("%", "%%")


def values_of(namespace: argparse.Namespace) -> dict[str, Any]:
    """What was given, read and allowed, by key."""
    by_key = {flag.key: flag for flag in FLAGS}
    given = {key: text for key, text in vars(namespace).items() if key in by_key}
    return {key: value_of(by_key[key], text) for key, text in given.items()}


def value_of(flag: Flag, given: Any) -> Any:
    try:
        value = given if flag.read is None else [flag.read(text) for text in given] if flag.many else flag.read(given)
    except ValueError as error:
        raise Refused(f"{flag.names[0]}: {error}") from None
    if flag.absent and value not in flag.off:
        raise Refused(f"{asked(flag, given)}: {flag.absent} is not in this version of Smelt{instead(flag)}")
    return value


def asked(flag: Flag, given: Any) -> str:
    return flag.names[0] if flag.read is None else f"{flag.names[0]} {given}"


def instead(flag: Flag) -> str:
    allowed = ", ".join("auto" if value is None else str(value) for value in flag.off)
    return f" (allowed: {allowed})" if allowed else "; leave the flag out"


def options_of(values: Mapping[str, Any], command: str) -> Options:
    limits = {"temperature": 0.0} if command == RUN else {}
    sampling = limits | {name: values[key] for key, name in SAMPLING.items() if key in values}
    return Options(
        model=values.get("model"),
        model_dirs=tuple(values.get("model_dir", ())),
        download=True,
        ctx_size=values.get("ctx_size"),
        max_concurrent=values.get("max_concurrent", 64) if command == SERVE else 1,
        prefill_chunk=values.get("prefill_chunk", 2048),
        timeout_s=values.get("timeout", 300.0),
        max_tokens=values.get("max_tokens", 100 if command == RUN else None),
        sampling=sampling,
        warmup=either(values, "warmup_eager", command == SERVE),
    )


def settings_of(values: Mapping[str, Any]) -> Settings:
    return Settings(
        host=values.get("host", "127.0.0.1"),
        port=values.get("port", 11234),
        origins=tuple(values.get("cors_origin", ())),
        api_key=values.get("api_key") or os.environ.get("SMELT_API_KEY") or None,
        max_body_bytes=values.get("max_body_mb", 128) << 20,
        max_streams=values.get("max_concurrent", 64) + values.get("max_queue", 64),
        keep_alive_s=values.get("keep_alive_secs", 15.0),
        drain_s=values.get("drain_secs", 30.0),
        enable_thinking=thinking(values),
    )


def thinking(values: Mapping[str, Any]) -> bool | None:
    return False if values.get("no_thinking") or values.get("reasoning_budget") == 0 else None


def either(values: Mapping[str, Any], name: str, default: bool) -> bool:
    """A pair of switches, --name and --no-name; both at once contradict each other."""
    if name in values and f"no_{name}" in values:
        raise Refused(f"--{name} and --no-{name} were both given".replace("_", "-"))
    return values.get(name, values.get(f"no_{name}", default))


def markdown() -> str:
    head = ["| flag | commands | default | meaning |", "|---|---|---|---|"]
    return "\n".join(head + [row(flag) for flag in FLAGS])


def row(flag: Flag) -> str:
    names = ", ".join(f"`{name}{' ' + flag.metavar if flag.metavar else ''}`" for name in flag.names)
    doc = flag.doc
    if flag.absent:
        allowed = ", ".join(f"`{'auto' if value is None else value}`" for value in flag.off)
        doc += f". Not in this version: only {allowed} is accepted" if allowed else ". Not in this version: refused"
    default = flag.default + (f" (mlx-serve: {flag.differs})" if flag.differs else "")
    return f"| {names} | {', '.join(flag.commands)} | {default} | {doc} |"


if __name__ == "__main__":
    print(markdown())
