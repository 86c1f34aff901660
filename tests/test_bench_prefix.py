"""The bench of the prefix cache measures what it says: turns that are found, and the same ones that are not."""

import tiny
from smelt.bench import prefix


def test_turns_are_cached_one_way_and_not_the_other(tmp_path):
    ways = prefix.Ways(tiny.make(tmp_path))
    try:
        found = prefix.measure(ways, system=4, turns=2, tokens=6, rounds=2)
    finally:
        ways.close()
    (first, second), cold = found["turns"]["kept"], found["turns"]["not kept"]
    assert 0 < first[1] < second[1] < second[2] and [turn[1] for turn in cold] == [0, 0]
    assert [turn[2] for turn in cold] == [first[2], second[2]]
    assert prefix.table(found).count("\n") == 3


def test_answers_that_differ_are_told(tmp_path, monkeypatch):
    ways = prefix.Ways(tiny.make(tmp_path))
    answer = ways.answer
    monkeypatch.setattr(ways, "answer", lambda way, *rest: (way, *answer(way, *rest)[1:]))
    try:
        assert prefix.measure(ways, system=1, turns=1, tokens=2, rounds=1)["same answers"] is False
    finally:
        ways.close()
