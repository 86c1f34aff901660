"""Draws on their way to the host, and what becomes of them there."""

from dataclasses import dataclass

import mlx.core as mx

from .assistant import Assistant
from .rounds import Round
from .sequence import Sequence, Token


@dataclass
class Pending:
    """Draws on their way: arrays as `Sampler` returns them, a row for each sequence, or for each position of a round.

    pieces  of each array, for the host
    """

    sequences: list[Sequence]
    arrays: list[mx.array]
    pieces: list[list[mx.array]]
    round: Round | None = None

    def hand_over(self, values: list[list], memory, assistant: Assistant | None) -> None:
        """values  of the arrays, as the host read them"""
        if self.round is not None:
            values = self.round.read(values)
        for i, sequence in enumerate(self.sequences):
            if sequence.finished:
                continue
            if self.round is None:
                sequence.accept(token_of(sequence, values, i))
            else:
                self.judge(sequence, values, i, memory, assistant)

    def judge(self, sequence: Sequence, values: list[list], i: int, memory, assistant: Assistant | None) -> None:
        """Hand over the draws up to the first that is not the draft's token, and take the rest back."""
        draft, width, taken = self.round.drafts[i], self.round.width, 0
        while not sequence.finished:
            token = token_of(sequence, values, i * width + taken)
            sequence.accept(token)
            taken += 1
            if taken > len(draft) or token.id != draft[taken - 1]:
                break
        memory.rewind(sequence.row, width - taken)
        sequence.submitted = len(sequence.generated)
        if assistant:
            assistant.note(sequence, self.round.hidden[i, taken - 1])
        if self.round.offered[i]:
            sequence.judge(self.round.by(i), self.round.offered[i], taken - 1)


def token_of(sequence: Sequence, values: list[list], i: int) -> Token:
    wanted = sequence.sampling.top_logprobs
    if wanted is None:
        return Token(values[0][i])
    tokens, chosen, ids, best = values
    return Token(tokens[i], chosen[i], tuple(zip(ids[i][:wanted], best[i][:wanted], strict=True)))
