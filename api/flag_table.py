"""Every flag of the command line: its values, its default, and what it does. A flag is honoured or refused."""

import math

from ..engine.options import KV_MODES, KV_READINGS
from ..engine.speculation import MOST_DRAFTED
from .flag import CHAT, RUN, SERVE, Flag, auto_or, integer, number, off_or, ranged, size, words_of

LOG_LEVELS = {"error": "ERROR", "warn": "WARNING", "info": "INFO", "debug": "DEBUG"}

MODEL_FLAGS = (
    Flag(
        ("--model",),
        "a folder, an installed model's name, or org/name on the Hugging Face hub",
        str,
        "MODEL",
        "the built-in one",
    ),
    Flag(("--model-dir",), "a further folder to look for models in, also those that requests name; may be repeated", str, "DIR", many=True),
    Flag(
        ("--ctx-size",),
        "tokens of the context window",
        auto_or(integer(1)),
        "N",
        "auto: from the model and the memory",
    ),
    Flag(
        ("--kv-quant",),
        "bits of the KV cache: 4 or 8, or 2 or 4 after a rotation that spreads outliers (turbo2, turbo4)",
        words_of(*KV_MODES),
        "MODE",
        "off",
    ),
    Flag(
        ("--kv-attn-mode",),
        "how a quantised KV cache is read: `fused` by a kernel that reads it as it lies, refused where there is none;"
        " `dense` after unpacking it; `auto` fused where that is possible. Pieces of prompts are always read dense",
        words_of(*KV_READINGS),
        "MODE",
        "auto",
    ),
    Flag(
        ("--prefill-chunk",),
        "prompt tokens read together: more are faster and need more memory; an answer's last bits may depend on it",
        integer(1),
        "N",
        "512; with CUDA 2048, on a CPU 64",
        differs="8192",
    ),
    Flag(
        ("--prefix-cache-entries",),
        "sequences whose states are kept for prompts that begin alike; 0 keeps none",
        auto_or(integer(0)),
        "N",
        "auto: 64, or --max-concurrent",
        differs="1, or --max-concurrent",
    ),
    Flag(
        ("--prefix-cache-mem",),
        "memory for those of a model; 0 or `off`: what running answers leave",
        off_or(size),
        "SIZE",
        "2GB",
    ),
    Flag(
        ("--warmup-eager",),
        "one short answer after loading, so that the first request does not pay for it",
        default="serve: on; else off",
    ),
    Flag(("--no-warmup-eager",), "do without", value=False),
    Flag(
        ("--prefill-trace",),
        "time every part of each prompt's reading, and write it to the log. Parts are waited for, so it is slower",
    ),
    Flag(
        ("--timeout",),
        "seconds a request may take; then it ends with finish_reason `length`; 0 for no limit",
        number(0, math.inf),
        "S",
        "300",
    ),
)

RESIDENCY_FLAGS = (
    Flag(
        ("--max-resident-models",),
        "models that may be loaded at once; the one not used for longest makes way for another",
        integer(1, 1000),
        "N",
        "3",
        (SERVE,),
    ),
    Flag(
        ("--max-resident-mem",),
        "bytes of weights that they may have together; 0 for no limit",
        auto_or(size),
        "SIZE",
        "auto: 80% of what this machine holds",
        (SERVE,),
    ),
    Flag(
        ("--idle-evict-secs",),
        "unload a model that nobody has used for so long; the next request loads it again. 0 for never",
        number(0, math.inf),
        "S",
        "0",
        (SERVE,),
    ),
)

SAMPLING_FLAGS = (
    Flag(
        ("--max-tokens",),
        "tokens of an answer that does not say",
        integer(1),
        "N",
        "run: 100; else what the context leaves",
    ),
    Flag(
        ("--temp", "--temperature"),
        "0 always takes the likeliest token",
        ranged("temperature"),
        "F",
        "run: 0; else the model's own",
    ),
    Flag(
        ("--top-p",),
        "the smallest set of tokens that reaches this probability",
        ranged("top_p"),
        "F",
        "the model's own, or 1",
    ),
    Flag(("--top-k",), "the k likeliest tokens; 0 keeps all", integer(0), "N", "the model's own, or 0"),
    Flag(
        ("--min-p",),
        "tokens at least this times as likely as the likeliest",
        ranged("min_p"),
        "F",
        "the model's own, or 0",
    ),
    Flag(
        ("--repetition-penalty", "--repeat-penalty"),
        "divides the logits of recent tokens",
        ranged("repetition_penalty"),
        "F",
        "the model's own, or 1",
    ),
    Flag(("--presence-penalty",), "once for each token already in the answer", ranged("presence_penalty"), "F", "0"),
    Flag(("--frequency-penalty",), "for each time it is in the answer", ranged("frequency_penalty"), "F", "0"),
    Flag(("--seed",), "the same seed gives the same answer", integer(0, 2**63 - 1), "N", "random"),
)

THINKING_FLAGS = (
    Flag(
        ("--reasoning-budget",),
        "tokens of reasoning at most, then it is closed and the answer begins; 0: the model is asked not to think;"
        " -1: no limit",
        integer(-1),
        "N",
        "-1",
    ),
    Flag(("--no-thinking",), "the same as --reasoning-budget 0"),
)

RUN_FLAGS = (
    Flag(
        ("--prompt",),
        "what to answer; `-` reads it from standard input",
        str,
        "TEXT",
        "the words after the model",
        (RUN,),
    ),
    Flag(("--system",), "a system message before it", str, "TEXT", commands=(RUN, CHAT)),
    Flag(("--stream",), "write the text as it comes", default="on", commands=(RUN,)),
    Flag(("--no-stream",), "write it when it is whole", value=False, commands=(RUN,)),
)

SERVE_FLAGS = (
    Flag(("--serve",), "mlx-serve's word for `smelt serve`", commands=(SERVE,)),
    Flag(
        ("--host",),
        "the address to listen on; 0.0.0.0 is every network of this machine",
        str,
        "ADDR",
        "127.0.0.1",
        (SERVE,),
    ),
    Flag(("--port",), "0 takes any free one", integer(0, 65535), "N", "11234", (SERVE,)),
    Flag(
        ("--api-key",),
        "ask every request for this key (also: SMELT_API_KEY, which `ps` does not show)",
        str,
        "KEY",
        "none",
        (SERVE,),
    ),
    Flag(
        ("--cors-origin",),
        "let pages of this site call, or `*` for all; may be repeated. Pages on this machine may",
        str,
        "ORIGIN",
        "none",
        (SERVE,),
        many=True,
        differs="`*`",
    ),
    Flag(("--max-concurrent",), "answers decoded together", integer(1, 1024), "N", "64", (SERVE,), differs="1"),
    Flag(
        ("--max-queue",),
        "requests that may wait beyond those; more are answered 429",
        integer(0, 4096),
        "N",
        "64",
        (SERVE,),
    ),
    Flag(("--max-body-mb",), "larger requests are answered 413", integer(1, 4096), "N", "64", (SERVE,)),
    Flag(
        ("--keep-alive-secs",), "silence after which a stream sends a comment", number(0.1, 3600), "S", "15", (SERVE,)
    ),
    Flag(
        ("--drain-secs",),
        "what running answers get to finish in after SIGTERM or Ctrl-C",
        number(0, 86400),
        "S",
        "30",
        (SERVE,),
    ),
)

GENERAL_FLAGS = (
    Flag(
        ("--log-level",), "how much to say on standard error", words_of(*LOG_LEVELS), "LEVEL", "serve: info; else warn"
    ),
    Flag(("--log-file",), "say it to this file, too", str, "FILE"),
)

DRAFTING_FLAGS = (
    Flag(("--pld",), "prompt lookup: draft what followed the same words before; answers are the same", default="on"),
    Flag(("--no-pld",), "do without", value=False),
    Flag(("--pld-draft-len",), "tokens drafted a step", integer(1, MOST_DRAFTED), "N", "5"),
    Flag(("--pld-key-len",), "tokens that must have come before", integer(1, 16), "N", "3"),
    Flag(("--drafter",), "a folder or org/name of Gemma 4's assistant, which drafts for the Gemma 4 of --model", str, "DIR", "none"),
    Flag(("--no-drafter",), "no drafting model"),
    Flag(
        ("--draft-block-size",),
        "tokens of its round, the newest one and those drafted",
        auto_or(integer(2, MOST_DRAFTED + 1)),
        "N",
        "auto: 2, 4 or 8, by the model",
    ),
)

ABSENT_FLAGS = (Flag(("--no-vision",), "read no images; this version reads none"),)

FLAGS = (*MODEL_FLAGS, *RESIDENCY_FLAGS, *SAMPLING_FLAGS, *THINKING_FLAGS, *RUN_FLAGS, *SERVE_FLAGS, *DRAFTING_FLAGS, *GENERAL_FLAGS, *ABSENT_FLAGS)
