"""The bench of drafts: what it asks, and how it counts."""

from smelt.bench import speculation
from smelt.engine.events import FastPaths, Finished, Started, Text, Timings, Usage


class Counting:
    """In the service's place: an answer that drafts change or do not, in fewer steps."""

    def __init__(self, change=""):
        self.steps, self.change = 0, change

    def stats(self):
        return {"steps": self.steps}

    def submit(self, request):
        plain = request.enable_pld is False
        self.steps += 10 if plain else 4
        paths = FastPaths() if plain else FastPaths(speculation="pld", drafts=4, drafted=8, accepted=6)
        text = "answer" if plain else "answer" + self.change
        return [Started(5), Text(text), Finished("stop", Usage(5, 10), Timings(decode_s=1.0 if plain else 0.5, paths=paths))]


def test_edits_are_asked_with_their_code_as_prediction():
    edits = list(speculation.edits())
    assert len(edits) >= 5 and all(case.prediction in case.prompt and "def " in case.prediction for case in edits)
    assert [list(speculation.ways_of(case)) for case in speculation.cases()[-1:]] == [["plain", "lookup", "unasked"]]
    assert "prediction" in speculation.ways_of(edits[0])


def test_what_is_counted():
    found = speculation.measure(Counting(), 2, 40)
    edits = len(list(speculation.edits()))
    plain, lookup = found["edit"]["plain"], found["edit"]["lookup"]
    assert (plain["tokens"], plain["steps"], plain["drafted"]) == (10 * edits, 10 * edits, 0)
    assert (lookup["steps"], lookup["drafted"], lookup["accepted"]) == (4 * edits, 8 * edits, 6 * edits)
    assert (plain["tok/s"], lookup["tok/s"]) == (10, 20) and lookup["same"] == lookup["answers"] == edits
    row = next(line for line in speculation.table(found).splitlines() if line.startswith("| edit | lookup"))
    assert "| 20.0 |" in row and "| 2.50 |" in row and f"75% of {8 * edits}" in row


def test_an_answer_that_drafts_change_is_seen():
    found = speculation.measure(Counting(change="!"), 1, 40)
    assert found["chat"]["lookup"]["same"] == 0 and found["chat"]["plain"]["same"] == len(speculation.QUESTIONS)
