"""What a batch of packed rows means: ids, loss weights, positions, and which tokens see each other."""

import torch

from . import rows

PROMPT_WEIGHT = 0.05


def _last(marks, values):
    """For every token the value at the last marked one, itself included; values do not fall along a row."""
    return torch.where(marks, values, 0).cummax(1).values


def _weights(kinds, prompt_weight):
    """By kind: not learned, prompt, answer, how an answer begins. Without a table on the host, whose copy to the device would wait for all work before it."""
    out = torch.zeros_like(kinds, dtype=torch.float32)
    for kind, weight in enumerate((0.0, prompt_weight, 1.0, 3.0)):
        out = torch.where(kinds == kind, weight, out)
    return out


class Batch:
    """Of `codes` (B, T) int32, rows as they were written, on the device: `ids`, `weights` (of the loss of predicting that token), `positions`,
    `docs` (number of the document) and `branches` (number of the branch, 0 for what a document's branches have in common)."""

    def __init__(self, codes, prompt_weight=PROMPT_WEIGHT):
        starts = codes & rows.START_FLAG != 0
        marks = starts | (codes & rows.BRANCH_FLAG != 0)
        parts = marks.cumsum(1)
        before = _last(starts, parts)
        index = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
        self.ids = (codes & rows.ID_BITS).long()
        self.docs = starts.cumsum(1).int()
        self.branches = torch.where(parts == before, 0, parts).int()
        # every branch goes on where the common part ended
        self.positions = torch.where(parts == before, index, index - _last(marks, index) + _last(marks & (parts == before + 1), index))
        # what stands before the first token of a part is of another text
        self.weights = torch.where(marks, 0.0, _weights(codes >> rows.KIND_SHIFT, prompt_weight))

    def sees(self):
        """(b, h, q, k) -> whether token q of row b sees token k: not after it, of its document, and of its branch or of the common part."""
        docs, branches = self.docs, self.branches

        def rule(b, h, q, k):
            return (q >= k) & (docs[b, q] == docs[b, k]) & ((branches[b, k] == 0) | (branches[b, k] == branches[b, q]))

        return rule
