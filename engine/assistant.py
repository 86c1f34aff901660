"""Drafts by a small model that reads its target's keys and values (models/gemma4_assistant.py), made on the device.

It needs the hidden state behind each row's newest token, and that token, which may both still be lazy: the first round
after a plain step, or after a prompt, is submitted before the host has read anything. The host reads the drafts with
the draws that judge them. A row whose grammar needs a mask for drafted positions is drafted by lookup: the host would
have to wait for the drafts to know what may follow them.
"""

from collections.abc import Sequence as Seq

import mlx.core as mx

from .sequence import Sequence


class Assistant:
    """drafter  as models/gemma4_assistant.py makes it"""

    def __init__(self, drafter):
        self.drafter = drafter
        self.hidden: dict[Sequence, mx.array] = {}  # [1, 1, D] of the last token whose draw counts

    def length(self, sequence: Sequence, most: int) -> int:
        """How many tokens are drafted for this row."""
        speculation = sequence.speculation
        if speculation is None or not speculation.assisted or sequence not in self.hidden:
            return 0
        count = min(most, self.drafter.block - 1, sequence.max_tokens - sequence.submitted - 1)
        return count if count > 0 and not sequence.waits(count) else 0

    def draft(self, rows: Seq[Sequence], tokens: mx.array, memory, count: int) -> mx.array:
        """tokens [B], the rows' newest -> [B, count]."""
        hidden = mx.concatenate([self.hidden[s] for s in rows])
        return self.drafter(tokens, hidden, memory.behind([s.row for s in rows]), count)

    def note(self, sequence: Sequence, hidden: mx.array) -> None:
        """hidden [D] of the token whose draw is the row's newest."""
        if sequence.speculation is not None and sequence.speculation.assisted:
            self.hidden[sequence] = hidden[None, None]
        else:
            self.forget(sequence)

    def forget(self, sequence: Sequence) -> None:
        self.hidden.pop(sequence, None)
