"""How one answer is drafted, and whether that pays. Pure."""

from .lookup import Lookup

MOST_DRAFTED = 7  # tokens a row: with the newest they are the 8 positions for which a step reads each weight once
PLD, DRAFTER = "pld", "drafter"
TRIAL = 8  # verify steps between two looks at what they gave
LEAST_GAIN = 0.25  # tokens that a verify step must give besides the one that a plain step gives
RETRIAL = 32  # tokens drawn without drafts between two looks at whether drafts would have been right


class Gate:
    """Off when verify steps give too little.

    price  of a drafted token, in plain steps: nothing where a step's weights are read once for all its positions
    """

    def __init__(self, price: float = 0.0):
        self.on, self.price = True, price
        self.tried = self.drafted = self.gained = 0  # verify steps since the last look, their drafts, those that were right

    def judge(self, drafted: int, accepted: int) -> None:
        self.tried, self.drafted, self.gained = self.tried + 1, self.drafted + drafted, self.gained + accepted
        if self.tried == TRIAL:
            self.on = self.gained >= max(LEAST_GAIN * TRIAL, self.price * self.drafted)
            self.tried = self.drafted = self.gained = 0


class Speculation:
    """By the drafter as long as it pays, else by lookup as long as that does. The lookup is tried again when it would
    have been right; a drafter that is off stays off.

    lookup     None where nothing is looked up
    most       tokens a looked-up draft has at most
    predicted  the request came with a prediction of its answer
    drafter    a drafting model drafts, where there is one
    price      see `Gate`
    """

    def __init__(self, lookup: Lookup | None, most: int = 0, predicted: bool = False, drafter: bool = False, price: float = 0.0):
        self.lookup, self.most, self.predicted = lookup, min(most, MOST_DRAFTED), predicted
        self.gates = {PLD: Gate(price), DRAFTER: Gate(price)}
        self.gates[DRAFTER].on = drafter
        self.seen = self.foretold = 0  # tokens while the lookup is off, and those that it had right

    @property
    def assisted(self) -> bool:
        return self.gates[DRAFTER].on

    @property
    def looks(self) -> bool:
        return self.lookup is not None and self.gates[PLD].on

    def draft(self, most: int, unread: int) -> list[int]:
        """By lookup, behind `unread` tokens that are still on their way."""
        return self.lookup.draft(min(most, self.most), unread) if self.looks else []

    def take(self, token: int) -> None:
        """A token was read."""
        if self.lookup is None:
            return
        if not self.looks:
            self.look_again(token)
        self.lookup.add(token)

    def look_again(self, token: int) -> None:
        self.seen += 1
        self.foretold += self.lookup.draft(1) == [token]
        if self.seen == RETRIAL:
            self.gates[PLD].on = self.foretold >= LEAST_GAIN * RETRIAL
            self.seen = self.foretold = 0

    def judge(self, by: str, drafted: int, accepted: int) -> None:
        """A draft was verified."""
        self.gates[by].judge(drafted, accepted)
