"""Sampling parameters of the running rows, on the device, kept in step with rows that join and leave."""

from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..kernels import sample as kernel
from ..kernels.resident import PAIR, Growing, resident
from .request import Sampling
from .rounds import Round
from .sequence import Sequence

FLOATS = {
    "temperature": "temperature", "top_p": "top_p", "min_p": "min_p", "repetition": "repetition_penalty",
    "presence": "presence_penalty", "frequency": "frequency_penalty",
}  # fmt: skip


def penalised(s: Sampling) -> bool:
    return s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0


def plan_of(samplings: list[Sampling]) -> kernel.Plan:
    hot = [s for s in samplings if s.temperature > 0]
    wanted = [s.top_logprobs for s in samplings if s.top_logprobs is not None]
    return kernel.Plan(
        draw=bool(hot),
        top_k=max((s.top_k for s in hot), default=0),
        full_sort=any(s.top_p < 1 and not s.top_k for s in hot),
        nucleus=any(s.top_p < 1 for s in hot),
        min_p=any(s.min_p > 0 for s in hot),
        penalties=any(map(penalised, samplings)),
        bias=any(s.logit_bias for s in samplings),
        logprobs=max(wanted) if wanted else None,
    )


def seed_words(seed: int) -> tuple[int, int]:
    """Two well-mixed 32-bit words of any integer seed (SplitMix64, Steele et al. 2014)."""
    z = (seed + 0x9E3779B97F4A7C15) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32


def parameters_of(sequences: list[Sequence], vocab: int, plan: kernel.Plan) -> kernel.Parameters:
    each = [s.sampling for s in sequences]
    floats = resident(mx.array([[getattr(s, field) for s in each] for field in FLOATS.values()], mx.float32))
    return kernel.Parameters(
        **dict(zip(FLOATS, floats, strict=True)),
        top_k=resident(mx.array([s.top_k for s in each], mx.int32)),
        seed=resident(mx.array([seed_words(s.seed) for s in sequences], mx.uint32)),
        bias=bias_of(each, vocab) if plan.bias else None,
    )


def bias_of(samplings: list[Sampling], vocab: int) -> mx.array:
    dense = mx.zeros((len(samplings), vocab))
    rows = [(i, token, bias) for i, s in enumerate(samplings) for token, bias in s.logit_bias.items()]
    index, tokens, biases = zip(*rows, strict=True)
    return dense.at[mx.array(index), mx.array(tokens)].add(mx.array(biases, mx.float32))


def history_of(sequences: list[Sequence], vocab: int) -> kernel.History:
    """From what the host knows: the sequences' tokens as far as they have been read."""
    windows = [s.sampling.repetition_window or s.tokens_wanted for s in sequences]
    ring = 1 << (max(windows) - 1).bit_length()  # few different ones: a step is traced anew for each
    rows = [table_row(s, window, vocab, ring) for s, window in zip(sequences, windows, strict=True)]
    return kernel.History(resident(mx.array(np.concatenate(rows))), resident(mx.array(windows, mx.int32)))


def table_row(s: Sequence, window: int, vocab: int, ring: int) -> np.ndarray:
    """A row of the history's table."""
    tokens, row = np.array(s.prompt + s.generated, np.int64), np.zeros(2 * vocab + ring, np.int32)
    counts, seen, recent = np.split(row, [vocab, 2 * vocab])
    counts += np.bincount(tokens[len(s.prompt) :], minlength=vocab)
    seen += np.bincount(tokens[-window:], minlength=vocab)
    last = np.arange(max(0, len(tokens) - ring), len(tokens))
    recent[last % ring] = tokens[last]
    return row


def mask_of(sequences: list[Sequence], vocab: int, round: Round | None = None) -> mx.array | None:
    """[B, T, ceil(V / 32)] uint32 of what each row may draw next, now that its last token was read, and behind each token
    of its draft, which is cut where nothing can come after it; None: all may all.
    """
    drafts, width = (round.drafts, round.width) if round else ([[]] * len(sequences), 1)
    free = round.assisted if round else ()  # rows that need no mask
    rows = [[None] * (len(d) + 1) if i in free else sequences[i].masks(d) for i, d in enumerate(drafts)]
    if round:
        round.drafts = [draft[: len(row) - 1] for draft, row in zip(drafts, rows, strict=True)]
    each = [mask for row in rows for mask in row + [None] * (width - len(row))]
    if all(mask is None for mask in each):
        return None
    words = -(-vocab // 32)
    packed = b"".join(b"\xff" * (4 * words) if mask is None else mask for mask in each)
    return mx.array(memoryview(packed).cast("I")).reshape(len(rows), width, words)


class Sampler:
    """Draws for a fixed list of rows; when the list changes, the scheduler makes another one.

    `unread` are draws that the host has not read yet when the list changes: they enter the history as arrays.
    """

    def __init__(self, sequences: list[Sequence], vocab: int, unread: list[mx.array | None] | None = None):
        self.sequences, self.vocab = sequences, vocab
        self.plan = plan_of([s.sampling for s in sequences])
        self.parameters = parameters_of(sequences, vocab, self.plan)
        self.given = {name: array for name, array in vars(self.parameters).items() if array is not None}
        self.positions = Growing()
        self.history = None
        if self.plan.penalties:
            unread = unread or [None] * len(sequences)
            self.history = with_unread(history_of(sequences, vocab), sequences, unread, vocab)

    def __call__(self, logits: mx.array, mask: mx.array | None = None) -> list[mx.array]:
        """logits [B, T, V] -> [tokens [B T]] and, where some row wants them, its logprob, the best ids and their logprobs.

        T > 1: behind tokens that are drafted, of which the history takes every draw. mask [B, T, ceil(V / 32)] uint32
        of the tokens that may be drawn; None: all
        """
        plan = self.plan if mask is None else replace(self.plan, mask=True)
        drawn, self.history = kernel.sampled_along(logits, self.parameters, self.position(), plan, self.history, mask)
        return drawn

    def recount(self) -> None:
        """Take the history anew from what was read: a draft's rejected draws are in it."""
        if self.history is not None:
            self.history = history_of(self.sequences, self.vocab)

    def position(self) -> mx.array:
        """[B] uint32: of the tokens to be drawn."""
        numbers = [len(s.prompt) + s.submitted for s in self.sequences]
        if len(numbers) <= PAIR:
            return mx.array(numbers, mx.uint32)
        made = lambda: (np.array(numbers, np.int32), np.ones(len(numbers), np.int32))  # noqa: E731
        return self.positions(None, numbers, 1, made).view(mx.uint32)


def with_unread(
    history: kernel.History, sequences: list[Sequence], unread: list[mx.array | None], vocab: int
) -> kernel.History:
    """Add one still lazy token to the rows that have one; the others shift by nothing."""
    if all(token is None for token in unread):
        return history
    has = mx.array([token is not None for token in unread])
    tokens = mx.stack([mx.array(0, mx.uint32) if token is None else token.astype(mx.uint32) for token in unread])
    return history.after(tokens, mx.array([len(s.prompt) + len(s.generated) for s in sequences]), vocab, has)
