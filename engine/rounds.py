"""Drafts, and the steps that verify them: several tokens of a row for about the price of one.

A verify step forwards the newest token of each row and then the row's draft, and draws every position's token with the
key (seed, position) that a plain step would use there. The draws are kept up to the first that is not what was drafted,
so they are the tokens of plain decoding at any temperature (no rejection sampling, which would keep the distribution
but not the tokens); penalties count the drafts before a position, and a grammar's masks are those after them. What was
forwarded in vain is taken back.

When is the host waited for? A plain step is submitted before the last draw was read, and so is the first verify step
after it: its draft goes on behind the token in flight, which the lookup foretold as well. How many tokens a verify step
gave must be read before the next can be made, since it says where the rows stand. Either way a tick waits once, for one
`async_eval` that has the draws, their logprobs and, where a drafter made them on the device, the drafts.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import mlx.core as mx

from ..kernels import launch
from ..kernels.linear import CPU_UNPACK_ROWS
from ..kernels.linear_kernel import MAX_ROWS
from .assistant import Assistant
from .sequence import Sequence
from .speculation import DRAFTER, PLD


def positions() -> int:
    """That a verify step may have in all its rows: as many as read each weight once."""
    return CPU_UNPACK_ROWS - 1 if launch.machine() == "cpu" else MAX_ROWS


@dataclass
class Round:
    """The drafts of one verify step, a list for each sequence; `width` tokens of each are forwarded.

    offered   how long the drafts were, before those were cut that a grammar would not have
    assisted  of which rows the drafts are on the device, `made` [rows, drafts]; until they are read, the lists of these
              rows are as long as they are, of zeros
    hidden    [B, width, D] of the step, where a drafter will need it
    """

    drafts: list[list[int]]
    width: int
    assisted: list[int] = field(default_factory=list)
    made: mx.array | None = None
    hidden: mx.array | None = None

    def __post_init__(self):
        self.offered = [len(draft) for draft in self.drafts]

    def tokens(self) -> mx.array:
        """[B, width - 1], padded."""
        known = mx.array([draft + [0] * (self.width - 1 - len(draft)) for draft in self.drafts], mx.uint32)
        if self.made is None:
            return known
        known[mx.array(self.assisted), : self.made.shape[1]] = self.made.astype(mx.uint32)
        return known

    def by(self, row: int) -> str:
        return DRAFTER if row in self.assisted else PLD

    def read(self, values: list[list]) -> list[list]:
        """What was read of the draws; the drafts, which come last, stay here."""
        if self.made is None:
            return values
        for row, draft in zip(self.assisted, values[-1], strict=True):
            self.drafts[row] = draft[: len(self.drafts[row])]
        return values[:-1]


def drafted(rows: Seq[Sequence], fixed: bool, assistant: Assistant | None = None) -> Round | None:
    """A draft for each row that has one, as wide as the step may be; None where no row has any.

    fixed  steps of as many rows, drafted alike, are equally wide, so that few shapes are compiled
    """
    if not any([s.speculation for s in rows]):
        return None
    most = positions() // len(rows) - 1
    if most < 1:
        return None
    lengths = [assistant.length(s, most) if assistant else 0 for s in rows]
    drafts = [[0] * length if length else draft_of(s, most) for s, length in zip(rows, lengths, strict=True)]
    longest = max(map(len, drafts))
    if not longest:
        return None
    if fixed:
        longest = min(most, max(longest, *(s.speculation.most for s in rows if s.speculation and s.speculation.looks), 0))
    return Round(drafts, longest + 1, [i for i, length in enumerate(lengths) if length])


def draft_of(sequence: Sequence, most: int) -> list[int]:
    """By lookup; never past the end of the answer, as far as it is known."""
    if sequence.speculation is None:
        return []
    left = sequence.max_tokens - sequence.submitted - 1
    draft = sequence.speculation.draft(min(most, left), sequence.unread)
    end = next((i for i, token in enumerate(draft) if token in sequence.end_ids), len(draft))
    return draft[:end]
