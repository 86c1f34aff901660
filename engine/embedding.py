"""Texts to vectors by the loaded model: its last hidden states, pooled and of unit length.

    h = rms_norm(decoder(tokens))        [T, D]
    mean: v = sum_t h_t / T              last: v = h_{T-1}           embedding = v / |v|

A request is read in pieces, one after each tick of the scheduler, as large as a chunk of prompt: streams go on in
between. Short texts share a piece. They are padded on the right, where nothing that counts can see the padding.
"""

import json
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from .errors import BadRequest, ContextExceeded

if TYPE_CHECKING:
    import mlx.core as mx

    from .scheduler import Scheduler

POOLING = ("mean", "last")


class Embedding:
    """One request. The engine's thread runs it; `wait` and `cancel` are for whoever asked."""

    def __init__(self, prompts: list[list[int]], pooling: str):
        assert prompts and all(prompts) and pooling in POOLING
        self.prompts, self.pooling = prompts, pooling
        self.cancelled = False
        self.starved = False  # for want of memory, the last piece was none
        self.answer: SimpleQueue = SimpleQueue()

    @property
    def tokens(self) -> int:
        return sum(map(len, self.prompts))

    def wait(self, timeout_s: float | None = None) -> list[list[float]] | None:
        """A vector for each prompt; None when they are not ready in time. Raises what went wrong."""
        try:
            found = self.answer.get(timeout=timeout_s)
        except Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def cancel(self) -> None:
        self.cancelled = True

    # Called on the engine's thread

    def fail(self, error: Exception) -> None:
        self.answer.put(error)

    def run(self, scheduler: "Scheduler") -> Iterator[bool]:
        """Yields after each piece of work whether the scheduler's memory holds a part of it."""
        vectors: dict[int, list[float]] = {}
        todo = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        while todo:
            count = self.together(scheduler, [len(self.prompts[i]) for i in todo])
            self.starved = not count
            if count:
                batch, todo = todo[:count], todo[count:]
                found = yield from self.read(scheduler, [self.prompts[i] for i in batch])
                vectors |= zip(batch, found.tolist(), strict=True)
            yield False  # also where there is no room beside the sequences that run
        self.answer.put([vectors[i] for i in range(len(self.prompts))])

    def together(self, scheduler: "Scheduler", lengths: list[int]) -> int:
        """How many of the next prompts are read at once: what one piece holds, if there is memory for it."""
        most = scheduler.pace.chunk(scheduler.undisturbed)
        count = 1
        for length in lengths[1:]:
            same = scheduler.model.traceable or length == lengths[0]  # a rotation may depend on the padded length
            if not same or (count + 1) * length > most or not room(scheduler, count + 1, length):
                break
            count += 1
        alone = not (scheduler.running or scheduler.filling or scheduler.limits.share.beside)
        return count if count > 1 or alone or room(scheduler, 1, lengths[0]) else 0

    def read(self, scheduler: "Scheduler", prompts: list[list[int]]) -> "Generator[bool, None, mx.array]":
        """The vectors [B, D] of these prompts."""
        import mlx.core as mx

        lengths = mx.array([len(prompt) for prompt in prompts])
        longest = max(map(len, prompts))
        tokens = mx.array([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
        rows = [scheduler.memory.open(longest) for _ in prompts]
        scheduler.lent = len(rows) * scheduler.memory.row_bytes(longest)
        pooled, begin = mx.zeros((len(prompts), 1)), 0
        try:
            while begin < longest:
                started = time.monotonic()
                count = min(longest - begin, max(1, scheduler.pace.chunk(scheduler.undisturbed) // len(prompts)))
                step = scheduler.memory.step(rows, count)
                hidden = scheduler.model.normed(scheduler.model(tokens[:, begin : begin + count], step))
                pooled = pooled + self.part(hidden.astype(mx.float32), lengths, begin)
                mx.eval(pooled, scheduler.memory.arrays)
                scheduler.pace.note(count * len(prompts), len(scheduler.model.blocks), time.monotonic() - started)
                begin += count
                if begin < longest:
                    yield True
        finally:
            scheduler.lent = 0
            for row in rows:
                scheduler.memory.close(row)
        return pooled / mx.maximum(mx.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)

    def part(self, hidden: "mx.array", lengths: "mx.array", begin: int) -> "mx.array":
        """What hidden [B, T, D], the positions from `begin` on, adds to the pooled vectors [B, D]."""
        import mlx.core as mx

        position = mx.arange(begin, begin + hidden.shape[1])[None]
        end = lengths[:, None]
        counts = position < end if self.pooling == "mean" else position == end - 1
        return mx.where(counts[..., None], hidden, 0).sum(axis=1)


def room(scheduler: "Scheduler", rows: int, length: int) -> bool:
    """Whether so many rows of such a length fit beside what runs and is being read; kept prefixes give way."""
    wanted = rows * scheduler.memory.row_bytes(length)
    filling = scheduler.filling
    if scheduler.state_bytes(filling) - scheduler.prefixes.nbytes + wanted > scheduler.room:
        return False
    while scheduler.state_bytes(filling) + wanted > scheduler.room and scheduler.prefixes.evict():
        pass
    return True


def checked(tokens: list[int], context: int, name: str) -> list[int]:
    if not tokens:
        raise BadRequest(f"{name} is empty; it must have at least one token", name)
    if len(tokens) > context:
        raise ContextExceeded(len(tokens), context, name)
    return tokens


def pooling_of(folder: Path) -> str:
    """As the checkpoint was trained to be pooled, where it says so (sentence-transformers); else the mean."""
    path = folder / "1_Pooling" / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        return "mean"
    return "last" if isinstance(config, dict) and config.get("pooling_mode_lasttoken") is True else "mean"
