"""Stop strings in a stream of text."""

import re
from collections.abc import Sequence


class StopMatcher:
    """Text in, text out, up to the first stop string; what could be the beginning of one is held back.

    The first stop string to be complete ends the text; of those complete at the same character, the longest. So the
    result is the same wherever the text was split, and no stop string is waited for longer than until its last
    character.

    held  characters at the end of what was fed that are not out yet; 0 once a stop string was found
    """

    def __init__(self, stops: Sequence[str]):
        assert all(stops), "an empty stop string would end every text"
        self.stops = [(stop, failures(stop)) for stop in dict.fromkeys(stops)]
        self.states = [0] * len(self.stops)
        self.begins = re.compile("|".join({re.escape(stop[0]) for stop in stops}) or "(?!)")
        self.kept = ""
        self.matched: str | None = None

    @property
    def held(self) -> int:
        return len(self.kept)

    def feed(self, text: str) -> tuple[str, str | None]:
        """(text that is certain to come before any stop string, the stop string that ended it all)."""
        if self.matched is not None:
            return "", self.matched
        if not self.kept and not self.begins.search(text):
            return text, None
        buffer, at = self.kept + text, len(self.kept)
        for char in text:
            at += 1
            self.matched = self.step(char)
            if self.matched is not None:
                self.kept = ""
                return buffer[: at - len(self.matched)], self.matched
        keep = max(self.states, default=0)
        self.kept = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], None

    def step(self, char: str) -> str | None:
        """Knuth, Morris and Pratt, for each stop string: how much of it the text ends with."""
        complete = None
        for index, (stop, failure) in enumerate(self.stops):
            state = self.states[index]
            while state and stop[state] != char:
                state = failure[state - 1]
            state += stop[state] == char
            self.states[index] = state
            if state == len(stop) and (complete is None or len(stop) > len(complete)):
                complete = stop
        return complete

    def finish(self) -> str:
        """What was held back, when no text follows."""
        kept, self.kept, self.states = self.kept, "", [0] * len(self.stops)
        return kept


def failures(stop: str) -> list[int]:
    """For each prefix, the length of the longest shorter prefix that it ends with."""
    table, state = [0] * len(stop), 0
    for index in range(1, len(stop)):
        while state and stop[state] != stop[index]:
            state = table[state - 1]
        state += stop[state] == stop[index]
        table[index] = state
    return table
