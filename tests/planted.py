"""Drafts for tests: right ones where the answer is known, and wrong ones among them."""

import random

from smelt.engine.lookup import Lookup
from smelt.engine.speculation import Speculation


class Planted(Speculation):
    """Drafts of an answer that is known, each token of which is wrong with probability `wrong`; `gaps`: often none."""

    def __init__(self, answer, wrong=0.0, most=7, seed=0, gaps=0.0, vocab=320):
        super().__init__(Lookup([], 3), most)
        self.answer, self.wrong, self.gaps, self.vocab = list(answer), wrong, gaps, vocab
        self.random, self.taken = random.Random(seed), 0
        self.accepted = 0

    def draft(self, most, unread):
        if self.random.random() < self.gaps:
            return []
        start = self.taken + unread
        draft = self.answer[start : start + min(most, self.most)]
        return [self.random.randrange(self.vocab) if self.random.random() < self.wrong else token for token in draft]

    def take(self, token):
        self.taken += 1

    def judge(self, by, drafted, accepted):
        assert by == "pld"
        self.accepted += accepted


def lookup(prompt, most=5, size=2):
    return Speculation(Lookup(prompt, size), most)
