"""One completion as the engine thread sees it: token ids in, token ids out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .events import FastPaths
from .request import Sampling


class Token(NamedTuple):
    """A token has been drawn. `logprob` and `top` [(id, logprob)] only where the request asked for them."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Prefilled(NamedTuple):
    """So many of the prompt's tokens are in the state. done == 0: the sequence waits behind `ahead` others."""

    done: int
    total: int
    ahead: int = 0


class Done(NamedTuple):
    """reason: "stop" (an end token, not handed out), "length", "cancelled"."""

    reason: str
    queue_s: float
    prefill_s: float
    decode_s: float


class Lost(NamedTuple):
    error: Exception


@dataclass(eq=False)
class Sequence:
    """Written by the engine thread only, but for `cancelled`, which any thread may set.

    put          hands one of the tuples above to the caller
    deadline     monotonic time after which the completion ends with "length"; None: never
    """

    prompt: list[int]
    sampling: Sampling
    seed: int
    max_tokens: int
    end_ids: frozenset[int]
    put: Callable[[Any], None]
    deadline: float | None = None
    cancelled: bool = False
    row: Any = None
    prefilled: int = 0
    submitted: int = 0  # draws handed to the device, read or not
    generated: list[int] = field(default_factory=list)
    finished: bool = False
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    decoding: float | None = None
    paths: FastPaths = field(default_factory=FastPaths)

    @property
    def context(self) -> list[int]:
        """What its state must be built from: the prompt, and after a preemption what was generated since."""
        return self.prompt + self.generated if self.generated else self.prompt

    @property
    def tokens_wanted(self) -> int:
        """All the tokens whose state it may come to hold."""
        return len(self.prompt) + self.max_tokens

    def accept(self, token: Token) -> None:
        """Hand over one drawn token, or end."""
        if self.decoding is None:
            self.decoding = time.monotonic()
        if token.id in self.end_ids:
            self.finish("stop")
            return
        self.generated.append(token.id)
        self.put(token)
        if len(self.generated) >= self.max_tokens:
            self.finish("length")

    def finish(self, reason: str) -> None:
        if self.finished:
            return
        self.finished = True
        now = time.monotonic()
        started, decoding = self.started or now, self.decoding or now
        self.put(Done(reason, started - self.arrived, decoding - started, now - decoding))

    def fail(self, error: Exception) -> None:
        if not self.finished:
            self.finished = True
            self.put(Lost(error))
