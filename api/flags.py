"""A command line made into `Options` and `Settings`; `python -m smelt.api.flags` prints the README's table."""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ..engine.options import Options, Residency
from .flag import CHAT, RUN, SERVE, Flag, Refused
from .flag_table import FLAGS, LOG_LEVELS
from .settings import Settings

__all__ = ["CHAT", "FLAGS", "LOG_LEVELS", "RUN", "SERVE", "Flag", "Refused"]

SAMPLING = {
    "temp": "temperature",
    **{
        name: name
        for name in ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
    },
}


def add_to(parser: argparse.ArgumentParser, command: str) -> None:
    for flag in FLAGS:
        if command in flag.commands:
            parser.add_argument(
                *flag.names, dest=flag.key, default=argparse.SUPPRESS, help=help_text(flag), **shape(flag)
            )


def shape(flag: Flag) -> dict[str, Any]:
    if flag.read is None:
        return {"action": "store_const", "const": flag.value}
    return {"type": str, "metavar": flag.metavar, "action": "append" if flag.many else "store"}


def help_text(flag: Flag) -> str:
    parts = [flag.doc, f"(default: {flag.default})" if flag.default else ""]
    return " ".join(part for part in parts if part).replace("%", "%%")


def values_of(namespace: argparse.Namespace) -> dict[str, Any]:
    """What was given, read and allowed, by key."""
    by_key = {flag.key: flag for flag in FLAGS}
    given = {key: text for key, text in vars(namespace).items() if key in by_key}
    return {key: value_of(by_key[key], text) for key, text in given.items()}


def value_of(flag: Flag, given: Any) -> Any:
    try:
        return given if flag.read is None else [flag.read(text) for text in given] if flag.many else flag.read(given)
    except ValueError as error:
        raise Refused(f"{flag.names[0]}: {error}") from None


def options_of(values: Mapping[str, Any], command: str) -> Options:
    limits, budget = {"temperature": 0.0} if command == RUN else {}, values.get("reasoning_budget", -1)
    sampling = limits | {name: values[key] for key, name in SAMPLING.items() if key in values}
    return Options(
        model=values.get("model"),
        model_dirs=tuple(values.get("model_dir", ())),
        download=True,
        ctx_size=values.get("ctx_size"),
        max_concurrent=values.get("max_concurrent", 64) if command == SERVE else 1,
        prefill_chunk=values.get("prefill_chunk"),
        prefix_entries=values.get("prefix_cache_entries"),
        prefix_bytes=values.get("prefix_cache_mem", 2 << 30) or None,
        timeout_s=values.get("timeout", 300.0),
        max_tokens=values.get("max_tokens", 100 if command == RUN else None),
        sampling=sampling,
        reasoning_budget=budget if budget > 0 else None,
        pld=either(values, "pld", True),
        pld_draft_len=values.get("pld_draft_len", 5),
        pld_key_len=values.get("pld_key_len", 3),
        drafter=drafter(values),
        draft_block=values.get("draft_block_size"),
        kv_quant=values.get("kv_quant", "off"),
        kv_attn_mode=reading(values),
        warmup=either(values, "warmup_eager", command == SERVE),
        prefill_trace=values.get("prefill_trace", False),
    )


def residency_of(values: Mapping[str, Any]) -> Residency:
    return Residency(
        max_models=values.get("max_resident_models", 3),
        max_bytes=values.get("max_resident_mem"),
        idle_s=values.get("idle_evict_secs", 0.0),
    )


def reading(values: Mapping[str, Any]) -> str:
    if values.get("kv_attn_mode") == "fused" and values.get("kv_quant", "off") == "off":
        raise Refused("--kv-attn-mode fused reads a quantised KV cache: give --kv-quant 4, 8, turbo2 or turbo4, too")
    return values.get("kv_attn_mode", "auto")


def settings_of(values: Mapping[str, Any]) -> Settings:
    return Settings(
        host=values.get("host", "127.0.0.1"),
        port=values.get("port", 11234),
        origins=tuple(values.get("cors_origin", ())),
        api_key=values.get("api_key") or os.environ.get("SMELT_API_KEY") or None,
        max_body_bytes=values.get("max_body_mb", 64) << 20,
        max_streams=values.get("max_concurrent", 64) + values.get("max_queue", 64),
        keep_alive_s=values.get("keep_alive_secs", 15.0),
        drain_s=values.get("drain_secs", 30.0),
        enable_thinking=thinking(values),
    )


def drafter(values: Mapping[str, Any]) -> str | None:
    if "drafter" in values and "no_drafter" in values:
        raise Refused("--drafter and --no-drafter were both given")
    return values.get("drafter")


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
    default = flag.default + (f" (mlx-serve: {flag.differs})" if flag.differs else "")
    return f"| {names} | {', '.join(flag.commands)} | {default} | {flag.doc} |"


if __name__ == "__main__":
    print(markdown())
