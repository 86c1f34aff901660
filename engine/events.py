"""What comes back. A streamed answer and a whole one, in every dialect, are folds of these events.

The order for each choice is: Started, then any of Progress, Reasoning, Text and the Tool* events, then Finished.
Failed may come at any point and is the last.
"""

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its natural-log probability under the model, before penalties, temperature and truncation."""

    id: int
    text: str
    bytes: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """The last two are of drafts, where the request came with a prediction of its answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt: they were not computed again
    reasoning_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    kept_tokens: int = 0  # of the prompt: they were computed, and later prompts find them


@dataclass(slots=True)
class FastPaths:
    """What made an answer fast, or did not: an optimisation that silently stays off is found here.

    kernels       the machine that Smelt's own kernels ran on ("metal", "cuda"); None: plain MLX operations
    traced_steps  decode steps that ran as one trace, the others were built op by op
    rows          answers that were decoded together, at most
    speculation   what drafted last: "pld" (prompt lookup) or "drafter"; None: nothing did
    drafts        steps that verified a draft
    drafted       tokens of these; `accepted` those that were right
    disabled      drafts did not pay, and are off
    prefix        how much of the prompt the prefix cache held, and what it stopped at; None: there is no such cache
    """

    kernels: str | None = None
    traced_steps: int = 0
    rows: int = 0
    speculation: str | None = None
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    disabled: bool = False
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, by the monotonic clock. `template_s` is for the prompt's text and its tokens, before the queue."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    template_s: float = 0.0
    paths: FastPaths = field(default_factory=FastPaths)


@dataclass(frozen=True, slots=True)
class Started:
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Prefill has come this far; with `done == 0` the request waits behind `ahead` others."""

    done: int
    total: int
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ToolOpened:
    call: int
    id: str
    name: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ToolArguments:
    call: int
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ToolClosed:
    call: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice is done. `stop` is the stop string that ended it, if one did."""

    reason: FinishReason
    usage: Usage
    timings: Timings = field(default_factory=Timings)
    index: int = 0
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    error: Exception
    index: int = 0


Event = Started | Progress | Text | Reasoning | ToolOpened | ToolArguments | ToolClosed | Finished | Failed
