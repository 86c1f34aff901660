"""One completion as the engine thread sees it: token ids in, token ids out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import RequestError
from .events import FastPaths
from .guide import Guide, along
from .request import Sampling
from .speculation import Speculation


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
    guide        says which tokens may come; None: all may
    speculation  drafts by lookup; None: there are none
    borders      where parts of the prompt end, such as messages: other prompts may begin with the same parts
    cached       tokens of the prompt whose state was known; `kept` those that the same prompt would find besides
    """

    prompt: list[int]
    sampling: Sampling
    seed: int
    max_tokens: int
    end_ids: frozenset[int]
    put: Callable[[Any], None]
    deadline: float | None = None
    guide: Guide | None = None
    speculation: Speculation | None = None
    borders: tuple[int, ...] = ()
    cached: int = 0
    kept: int = 0
    cancelled: bool = False
    row: Any = None
    prefilled: int = 0
    submitted: int = 0  # draws handed to the device, read or not
    generated: list[int] = field(default_factory=list)
    end: int | None = None  # the end token that was drawn
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
    def known(self) -> list[int]:
        """All tokens that were read or drawn."""
        return self.context if self.end is None else [*self.context, self.end]

    @property
    def tokens_wanted(self) -> int:
        """All the tokens whose state it may come to hold."""
        return len(self.prompt) + self.max_tokens

    @property
    def unread(self) -> int:
        """Draws on their way."""
        return self.submitted - len(self.generated)

    def waits(self, drafted: int = 0) -> bool:
        """May the next draw, or one behind so many drafted tokens, need a mask that tokens not read yet decide on?"""
        return self.guide is not None and self.guide.waits(self.unread + drafted)

    def mask(self) -> bytes | None:
        """Bits of the tokens that may come next, now that all drawn ones were read; None: all. Fails where none may."""
        if self.guide is None or self.finished:
            return None
        try:
            return self.guide.mask()
        except RequestError as error:
            self.fail(error)
            return None

    def masks(self, draft: list[int]) -> list[bytes | None]:
        """`mask` before the draft and after each of its tokens, up to one behind which there is nothing to be drawn."""
        first = self.mask()
        if self.guide is None or self.finished:
            return [first] * (len(draft) + 1)
        return [first, *along(self.guide, first, draft)]

    def accept(self, token: Token) -> None:
        """Hand over one drawn token, or end."""
        if self.decoding is None:
            self.decoding = time.monotonic()
        if token.id in self.end_ids:
            self.end = token.id
            self.finish("stop")
            return
        self.generated.append(token.id)
        if self.speculation is not None:
            self.speculation.take(token.id)
        self.put(token)
        if self.guide is not None:
            self.guide_by(token.id)
        if len(self.generated) >= self.max_tokens:
            self.finish("length")

    def judge(self, by: str, drafted: int, accepted: int) -> None:
        """So many of its drafted tokens were right."""
        self.speculation.judge(by, drafted, accepted)
        paths = self.paths
        paths.speculation, paths.disabled = by, not (self.speculation.assisted or self.speculation.looks)
        paths.drafts, paths.drafted, paths.accepted = paths.drafts + 1, paths.drafted + drafted, paths.accepted + accepted

    def guide_by(self, token: int) -> None:
        try:
            self.guide.take(token)
        except RequestError as error:
            self.fail(error)
        else:
            if self.guide.ended:
                self.finish("stop")

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
