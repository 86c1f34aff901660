"""What a caller asks for. Every dialect's parser makes a `Request`; nothing below knows which dialect it came from."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import BadRequest

MAX_TOP_LOGPROBS = 20
# Tokens of reasoning for an effort, where the template has no word for efforts. The greatest sets no limit.
EFFORT_BUDGETS = {"minimal": 512, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": None}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn from the logits, in this order:

    penalties and bias, then temperature, top_k, top_p, min_p, then the draw keyed by (seed, position).

    temperature         0 is greedy (argmax); else logits / temperature
    top_k               keep the k most likely tokens; 0 keeps all
    top_p               keep the smallest set whose probability reaches top_p; 1 keeps all
    min_p               keep tokens with at least min_p times the probability of the most likely one; 0 keeps all
    repetition_penalty  logits of tokens seen in the last `repetition_window` tokens of prompt and completion are divided
                        (positive) or multiplied (negative) by it; 1 is off (Keskar et al. 2019)
    presence_penalty    subtracted once from logits of tokens already in the completion
    frequency_penalty   subtracted once per occurrence in the completion
    logit_bias          added to the logits of the named token ids
    seed                None draws one for the request
    top_logprobs        how many alternatives to report a token; None reports no logprobs at all
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    top_logprobs: int | None = None

    def __post_init__(self):
        for name, low, high in LIMITS:
            check_range(name, getattr(self, name), low, high)
        if self.top_logprobs is not None:
            check_range("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        for token, bias in self.logit_bias.items():
            check_range(f"logit_bias[{token}]", bias, -100, 100)


LIMITS = (
    ("temperature", 0, 100),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0.01, 100),
    ("repetition_window", 0, 4096),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
)


def check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise BadRequest(f"{name} is {value}; it must be between {low} and {high}", name)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a text must be: JSON by a schema, a sentence of a Lark grammar, a match of a regular expression, or one of
    several texts. `param` names where the caller said so.
    """

    kind: Literal["json", "lark", "regex", "choice"]
    value: Any
    param: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Whether and how tools are called, beyond what the model makes of it.

    required  the answer is one call or several, and nothing else
    name      the one tool that is called then, and once
    single    one call at most
    strict    tools whose arguments must fit their schemas
    inputs    tools of the one argument `input`, a text of this shape
    """

    required: bool = False
    name: str | None = None
    single: bool = False
    strict: Collection[str] = ()
    inputs: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def bound(self) -> bool:
        return bool(self.required or self.single or self.strict or self.inputs)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to make.

    Exactly one of `messages` (rendered by the chat template), `text` (tokenised as it stands) and `tokens` is given.

    tools, template_kwargs   passed to the chat template (`enable_thinking` and the like)
    sampling                 fields the caller set; see `Sampling`. Unset ones come from the server's flags, then from the
                             checkpoint's generation_config.json
    max_tokens               completion tokens at most; None: what the context window leaves
    stop                     strings that end the completion; never part of the output
    n                        independent completions of one prompt, with seeds seed, seed+1, ...
    timeout_s                wall time after which the completion ends with finish_reason "length"; None: the server's
    continue_final           the last message is an assistant turn to be continued, not answered
    shape                    what the answer's text must be; with tools that may be called, an answer without calls
    tool_use                 how tools are called
    reasoning_budget         tokens of reasoning at most, then it is closed; -1 for no limit, None: the server's
    enable_pld               draft by prompt lookup, or do not; None: as the server does
    enable_drafter           draft by the drafting model, or do not; None: as suits the model
    prediction               what the answer will be like: drafts come from there
    arrived                  monotonic time from which `timeout_s` counts: waiting for a model to be loaded is part of it
    kv_quant                 how keys and values must be held, one of options.KV_MODES; None: as they are
    """

    messages: Sequence[Mapping[str, Any]] | None = None
    text: str | None = None
    tokens: Sequence[int] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    n: int = 1
    timeout_s: float | None = None
    continue_final: bool = False
    shape: Shape | None = None
    tool_use: ToolUse = ToolUse()
    reasoning_budget: int | None = None
    enable_pld: bool | None = None
    enable_drafter: bool | None = None
    prediction: str | None = None
    arrived: float = field(default_factory=time.monotonic, compare=False)
    kv_quant: str | None = None

    def __post_init__(self):
        given = [name for name in ("messages", "text", "tokens") if getattr(self, name) is not None]
        assert len(given) == 1, f"one of messages, text and tokens is needed, got {given}"
        if self.max_tokens is not None and self.max_tokens < 1:
            raise BadRequest(f"max_tokens is {self.max_tokens}; it must be at least 1", "max_tokens")
        if not 1 <= self.n <= 128:
            raise BadRequest(f"n is {self.n}; it must be between 1 and 128", "n")
        if any(not stop for stop in self.stop):
            raise BadRequest("a stop string is empty; each must have at least one character", "stop")
