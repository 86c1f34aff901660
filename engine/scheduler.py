"""Which rows the next step decodes and which prompt it reads on with. Runs on the engine thread.

A tick submits one decode step for all running rows, at most one chunk of prompt tokens, and only then reads what the
step before has drawn: the device always has the next step before the host waits for the last one. Where a row's next
token must fit a grammar, the step is submitted in two parts: the forward, and, after the last draws were read and the
grammar told what fits, the draw. Where rows have drafts, the step verifies them (rounds.py).
"""

import time
from collections import deque
from dataclasses import dataclass, field

import mlx.core as mx

from ..kernels import launch
from ..kernels.resident import handed_over, resident
from ..models.state import Step
from .assistant import Assistant
from .budget import Budget, Share
from .filling import Chunk, Pace
from .pending import Pending
from .prefill_trace import PrefillTrace
from .prefixes import Prefixes
from .rounds import Round, drafted, positions
from .sampler import Sampler, mask_of
from .sequence import Prefilled, Sequence
from .step import TracedStep

GROWTH_TOKENS = 512  # completion tokens that must fit, besides the prompt, for a sequence to be let in
ROOM_STEPS = 8  # decode steps for which room is looked for at once
CLEAR_EVERY = 256  # steps after which MLX's cache of free buffers is emptied


@dataclass(frozen=True)
class Limits:
    """rows decoded together; tokens of a prompt that are read together; bytes that all states together may take, shared
    with other models; whether every part of a prefill is timed.

    prefix_entries  sequences that the prefix cache keeps; 0: there is none
    prefix_bytes    that they may take; None: as many as state_bytes leaves
    """

    rows: int = 64
    chunk: int = 512
    state_bytes: int = 1 << 62
    share: Share = field(default_factory=lambda: Budget().share())
    trace: bool = False
    prefix_entries: int = 0
    prefix_bytes: int | None = None


def read(arrays: list[list[mx.array]]) -> list[list]:
    """The one place where the engine waits for the device. Each array as `handed_over` gives it."""
    mx.eval(arrays)
    return [[value for piece in pieces for value in piece.tolist()] for pieces in arrays]


class Scheduler:
    def __init__(self, model, limits: Limits):
        self.model, self.limits = model, limits
        self.memory = model.memory()
        self.traced = TracedStep(model, self.memory)
        entries = limits.prefix_entries if model.traceable else 0  # else keys hang on how long their row was then
        self.prefixes = Prefixes(self.memory, entries, limits.prefix_bytes)
        self.assistant = Assistant(model.drafter) if model.drafter else None
        self.hidden: mx.array | None = None  # [B, T, D] of the last step
        self.pace = Pace(limits.chunk, len(model.blocks))
        self.trace = PrefillTrace(model) if limits.trace else None
        self.waiting: deque[Sequence] = deque()
        self.filling: Sequence | None = None
        self.chunk: Chunk | None = None  # of the prompt that is being read
        self.running: list[Sequence] = []
        self.pending: deque[Pending] = deque()
        self.due: deque[Pending] = deque()  # what was pending when the tick began
        self.preempted: list[Sequence] = []
        self.sampler: Sampler | None = None
        self.tokens: mx.array | None = None  # [B], the last draw of sampler.sequences, perhaps not computed yet
        self.first: dict[Sequence, mx.array] = {}  # first draws of rows that have not decoded yet
        self.ahead: list[mx.array] = []  # the last part of a prompt that was started, perhaps not computed yet
        self.ahead_size = (0, 0)  # its tokens and layers
        self.ahead_since = 0.0  # when it was started, or the part before it was done, if that was later
        self.steps = 0
        self.roomy = 0  # up to this step there is room for all that runs
        self.lent = 0  # bytes of state that texts to be embedded have at the moment

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.filling or self.running or self.pending)

    @property
    def busy(self) -> bool:
        """Does it compute, or does anything stand in its memory? Sequences may wait besides."""
        return bool(self.filling or self.running or self.pending or self.lent)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        ahead = len(self.waiting) - 1 + (self.filling is not None)
        sequence.put(Prefilled(0, len(sequence.prompt), ahead))

    def tick(self) -> None:
        self.drop_ended()
        self.due, self.pending = self.pending, deque()
        self.decode()
        self.prefill()
        self.deliver_due()
        self.requeue()

    # What ends early

    def drop_ended(self) -> None:
        """Take out what was cancelled, ran out of time, or ended with the last read."""
        now = time.monotonic()
        for sequence in self.all():
            if sequence.cancelled:
                sequence.finish("cancelled")
            elif sequence.deadline is not None and now > sequence.deadline:
                sequence.finish("length")
        self.waiting = deque(s for s in self.waiting if not s.finished)
        for sequence in [s for s in self.running if s.finished]:
            self.running.remove(sequence)
            self.release(sequence)
        if self.filling is not None and self.filling.finished:
            self.release(self.filling)
            self.filling = self.chunk = None

    def all(self) -> list[Sequence]:
        return [*self.waiting, *([self.filling] if self.filling else []), *self.running]

    def release(self, sequence: Sequence) -> None:
        self.settle(sequence)
        self.withdraw(sequence)
        self.prefixes.close(sequence, sequence.prefilled if sequence is self.filling else sequence.row.length)
        sequence.row = None
        self.first.pop(sequence, None)
        if self.assistant:
            self.assistant.forget(sequence)

    def settle(self, sequence: Sequence) -> None:
        """Wait for what is left of a prompt: a row that takes its pages over does not wait for writes to them."""
        if sequence is self.filling:
            mx.eval(self.ahead)
            self.ahead = []
        elif sequence in self.first:
            mx.eval(self.first[sequence])

    def withdraw(self, sequence: Sequence) -> None:
        """Take back the draft of a step that was not read, so that no more is in the state than was drawn for sure."""
        for pending in (*self.due, *self.pending):
            if pending.round and sequence in pending.sequences:
                self.memory.rewind(sequence.row, pending.round.width - 1)

    # Decoding

    def decode(self) -> None:
        """Submit one token for every running row that still wants one, or as many as are drafted."""
        if any(pending.round for pending in self.due):
            self.deliver_due()  # where the rows stand now
        if self.steps >= self.roomy:
            self.make_room()
        rows = [s for s in self.running if not s.finished and s.submitted < s.max_tokens]
        if not rows:
            return
        if self.sampler is None or self.sampler.sequences != rows:
            self.compose(rows)
        traced = self.traced.worthwhile
        self.submit(rows, drafted(rows, traced, self.assistant) if self.model.traceable else None, traced)
        for sequence in rows:
            sequence.paths.rows = max(sequence.paths.rows, len(rows))
            sequence.paths.traced_steps += traced
        self.steps += 1
        if self.steps % CLEAR_EVERY == 0:
            mx.clear_cache()

    def submit(self, rows: list[Sequence], round: Round | None, traced: bool) -> None:
        tokens, width = self.tokens[:, None], 1
        if round:
            self.assist(rows, round)
            tokens, width = mx.concatenate([tokens, round.tokens()], axis=1), round.width
        step = self.memory.step([s.row for s in rows], width, keep=width > 1)
        if any(s.waits(width - 1) for s in rows):
            self.draw(rows, self.logits(tokens, step), round)
        elif traced:
            self.expect(rows, self.sampler, *self.traced(self.sampler, tokens, step), round=round)
        else:
            self.expect(rows, self.sampler, self.sampler(self.logits(tokens, step)), round=round)
        self.tokens = None if round else self.pending[-1].arrays[0]
        if self.assistant:
            self.keep_hidden(rows, round)

    def assist(self, rows: list[Sequence], round: Round) -> None:
        """Have the drafter draft for the rows that it serves."""
        if round.assisted:
            served, count = [rows[i] for i in round.assisted], max(len(round.drafts[i]) for i in round.assisted)
            round.made = self.assistant.draft(served, self.tokens[mx.array(round.assisted)], self.memory, count)

    def keep_hidden(self, rows: list[Sequence], round: Round | None) -> None:
        """Of the step just submitted, what the drafter goes on from: of a round, it is known when that was read."""
        hidden = self.traced.hidden if self.traced.worthwhile else self.hidden
        if round:
            round.hidden = hidden
        else:
            for i, sequence in enumerate(rows):
                self.assistant.note(sequence, hidden[i, 0])

    def compose(self, rows: list[Sequence]) -> None:
        """A new batch out of rows of the last one and rows that join; their newest tokens may still be lazy."""
        before = {s: i for i, s in enumerate(self.sampler.sequences)} if self.sampler else {}
        newest = [self.first.pop(s) if s in self.first else self.tokens[before[s]] for s in rows]
        unread = [token if s.submitted > len(s.generated) else None for s, token in zip(rows, newest, strict=True)]
        self.tokens = mx.stack(newest)
        self.sampler = Sampler(rows, self.model.vocab, unread)
        self.roomy = 0

    def logits(self, tokens: mx.array, step: Step) -> mx.array:
        """[B, T, V] of the tokens after `tokens` [B, T]."""
        if self.traced.worthwhile:
            return self.traced.logits(tokens, step)
        self.hidden = self.model(tokens, step)
        return self.model.logits(self.hidden)

    def draw(self, rows: list[Sequence], logits: mx.array, round: Round | None) -> None:
        """Start computing the logits; meanwhile read the last draws, and let the grammars say what may come next."""
        mx.async_eval(logits)
        self.deliver_due()
        self.expect(rows, self.sampler, self.sampler(logits, mask_of(rows, self.model.vocab, round)), round=round)

    def expect(
        self, rows: list[Sequence], sampler: Sampler, arrays: list[mx.array], pieces: list[list[mx.array]] | None = None,
        round: Round | None = None,
    ) -> None:  # fmt: skip
        """Start computing a draw, and with it all that the host will ever read of it: the arrays in pieces."""
        pieces = pieces or [handed_over(array) for array in arrays]
        if round and round.made is not None:
            arrays, pieces = [*arrays, round.made], [*pieces, handed_over(round.made)]
        mx.async_eval(arrays, pieces, [] if sampler.history is None else list(vars(sampler.history).values()))
        for sequence in rows:
            sequence.submitted += 1
        self.pending.append(Pending(rows, arrays, pieces, round))

    # Reading prompts

    def prefill(self) -> None:
        """Submit a part of a prompt, or several short prompts."""
        spent = 0
        while spent < self.pace.work(self.undisturbed) and (self.filling or self.admit()):
            if self.filling.cancelled:
                break  # the next tick takes it out
            spent += self.fill(self.filling, self.pace.work(self.undisturbed) - spent)

    def admit(self) -> bool:
        if not self.waiting or len(self.running) >= self.limits.rows:
            return False
        sequence = self.waiting[0]
        if not self.room_for(sequence):
            return False
        self.waiting.popleft()
        sequence.started = sequence.started or time.monotonic()
        sequence.paths.kernels = None if launch.unavailable("linear") else launch.machine()
        sequence.row = self.prefixes.open(sequence, len(sequence.context) + min(sequence.max_tokens, GROWTH_TOKENS))
        self.filling = sequence
        return True

    def fill(self, sequence: Sequence, work: int) -> int:
        """Read on with a prompt, to the end of a chunk at most; how much work that was."""
        if self.chunk is None:
            self.chunk = Chunk(self.reader(sequence), self.memory, sequence, self.limits.chunk, self.prefixes.border(sequence))
        chunk = self.chunk
        before = chunk.done
        upto = min(chunk.layers, before + max(1, work // chunk.tokens))
        while chunk.done < upto:
            layers = min(upto - chunk.done, self.pace.layers(chunk.tokens))
            chunk.advance(layers)
            if chunk.done < chunk.layers:
                self.follow([chunk.hidden], chunk.tokens, layers)
            if sequence.cancelled:
                break
        if chunk.complete and not sequence.cancelled:
            self.close_chunk(sequence, chunk, layers)
        sequence.put(Prefilled(chunk.read, len(sequence.context)))
        return chunk.tokens * (chunk.done - before)

    def reader(self, sequence: Sequence):
        return self.model if self.trace is None else self.trace.of(sequence)

    def close_chunk(self, sequence: Sequence, chunk: Chunk, layers: int) -> None:
        sequence.prefilled, self.chunk = chunk.end, None
        self.prefixes.reached(sequence)
        if chunk.end == len(sequence.context):
            self.begin(sequence, chunk.hidden)
        else:
            self.follow(self.memory.arrays, chunk.tokens, layers)

    def begin(self, sequence: Sequence, hidden: mx.array) -> None:
        """The prompt is read: draw the first token, and decode from the next tick on."""
        sampler, logits = Sampler([sequence], self.model.vocab), self.model.logits(hidden[:, -1:])
        if sequence.waits():
            mx.async_eval(logits)
        if self.trace is not None:
            self.trace.note("head", logits)
        self.expect([sequence], sampler, sampler(logits, mask_of([sequence], self.model.vocab)))
        self.first[sequence] = self.pending[-1].arrays[0][0]
        if self.assistant:
            self.assistant.note(sequence, hidden[0, -1])
        if self.trace is not None:
            self.trace.note("draw", self.first[sequence])
            self.trace.tell()
        self.running.append(sequence)
        self.filling = None
        self.ahead = []

    def follow(self, arrays: list[mx.array], tokens: int, layers: int) -> None:
        """Start computing, then wait for what was started before: never more than two parts are queued."""
        begun = time.monotonic()
        mx.async_eval(arrays)
        if self.ahead:
            mx.eval(self.ahead)
            done = time.monotonic()
            self.pace.note(*self.ahead_size, done - self.ahead_since)
            begun = max(begun, done)
        self.ahead, self.ahead_size, self.ahead_since = arrays, (tokens, layers), begun

    # Memory

    @property
    def room(self) -> int:
        """Bytes that the states may take now."""
        return self.limits.share.left(self.limits.state_bytes)

    @property
    def undisturbed(self) -> bool:
        """No stream, of this model or another, waits while a prompt is read."""
        return not (self.running or self.limits.share.beside)

    def state_bytes(self, joining: Sequence | None = None) -> int:
        """What rows and kept prefixes take; pages that several hold are counted once."""
        filling = [] if self.filling in (None, joining) else [self.filling]
        used = self.lent + sum(self.memory.row_bytes(s.row.length + ROOM_STEPS) for s in [*self.running, *filling])
        if any(s.speculation for s in self.running):
            used += self.memory.kept_bytes(positions())
        used += self.prefixes.nbytes - self.memory.repeated_bytes
        if joining is not None:
            used += self.memory.row_bytes(len(joining.context) + min(joining.max_tokens, GROWTH_TOKENS))
        return used

    def room_for(self, sequence: Sequence) -> bool:
        """Whether it can be let in; where that is enough, kept prefixes give way to it. One alone always is."""
        alone, limit = not (self.running or self.lent or self.limits.share.elsewhere), self.room
        if self.state_bytes(sequence) <= limit:
            return True
        _, held = self.prefixes.credit(sequence)
        if not alone and self.state_bytes(sequence) - self.prefixes.nbytes - held > limit:
            return False
        while self.state_bytes(sequence) - self.prefixes.credit(sequence)[0] > limit:
            if not self.prefixes.evict():
                return alone
        return True

    def make_room(self) -> None:
        """Where the next tokens would exceed the limit, kept prefixes give way, then the youngest row: it is read again."""
        spare = 0 if self.limits.share.elsewhere else 1  # alone, one row may have it all
        while self.state_bytes() > self.room:
            if self.prefixes.evict():
                continue
            if len(self.running) <= spare:
                break
            sequence = self.running.pop()
            self.release(sequence)
            self.preempted.append(sequence)
        one_each = not self.filling and not any(s.speculation for s in self.running)  # tokens that a step adds
        self.roomy = self.steps + ROOM_STEPS if one_each else 0

    def requeue(self) -> None:
        for sequence in self.preempted:
            if not sequence.finished:
                sequence.prefilled, sequence.submitted = 0, len(sequence.generated)
                self.waiting.appendleft(sequence)
        self.preempted = []

    # Handing over

    def deliver_due(self) -> None:
        while self.due:
            self.deliver(self.due.popleft())

    def deliver(self, pending: Pending) -> None:
        pending.hand_over(read(pending.pieces), self.memory, self.assistant)
        if pending.round is not None:
            self.after_round(pending.sequences)

    def after_round(self, sequences: list[Sequence]) -> None:
        """All draws are read: the next step begins with what the host knows."""
        self.memory.forget_kept()
        self.sampler.recount()
        self.tokens = resident(mx.array([(s.generated or [0])[-1] for s in sequences], mx.uint32))

    def fail(self, error: Exception) -> None:
        """Every sequence is told; the next ones start from an empty memory."""
        for sequence in self.all() + self.preempted:
            sequence.fail(error)
