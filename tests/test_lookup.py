"""The index finds what a scan finds."""

from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.engine.lookup import GATE_KEY, Lookup, repetition

TEXTS = st.lists(st.integers(0, 3), max_size=40)


def scanned(tokens, size, most, skip=0):
    """Backwards over the text for the latest earlier place of its last tokens; what follows there, over and over."""
    key = tokens[-size:]
    for start in range(len(tokens) - size - 1, -1, -1):
        if len(key) == size and tokens[start : start + size] == key:
            made = list(tokens)
            for i in range(skip + most):
                made.append(made[start + size + i])
            return made[len(tokens) + skip :]
    return []


@settings(max_examples=300, deadline=None)
@given(prompt=TEXTS, more=TEXTS, size=st.integers(1, 4), most=st.integers(0, 7), skip=st.integers(0, 2))
def test_the_index_finds_what_a_scan_finds(prompt, more, size, most, skip):
    lookup = Lookup(prompt, size)
    for end in range(len(more) + 1):
        expected = scanned(prompt + more[:end], size, most, skip) if most else []
        assert lookup.draft(most, skip) == expected
        if end < len(more):
            lookup.add(more[end])


@settings(max_examples=100, deadline=None)
@given(prompt=TEXTS, one=TEXTS, other=TEXTS, size=st.integers(1, 3))
def test_answers_to_one_prompt_do_not_see_each_other(prompt, one, other, size):
    first = Lookup(prompt, size)
    second = first.fork()
    for token in one:
        first.add(token)
    for token in other:
        second.add(token)
    assert first.draft(5) == scanned(prompt + one, size, 5)
    assert second.draft(5) == scanned(prompt + other, size, 5)


def test_the_latest_place_counts():
    assert Lookup([1, 2, 3, 1, 2, 4, 1, 2], 2).draft(2) == [4, 1]


def test_a_text_that_repeats_goes_on_repeating():
    assert Lookup([9, 7, 7, 7], 2).draft(5) == [7] * 5
    assert Lookup([1, 2, 3, 1, 2, 3], 3).draft(7, skip=1) == [2, 3, 1, 2, 3, 1, 2]


def test_a_prediction_follows_the_prompt():
    lookup = Lookup([5, 6, 7], 3, prediction=[1, 2, 3, 4, 8, 9])
    assert lookup.draft(3) == [1, 2, 3]
    assert lookup.draft(3, skip=1) == [2, 3, 4]
    for token in (1, 2, 0, 2, 3, 4):  # the answer goes other ways, and comes back
        lookup.add(token)
    assert lookup.draft(2) == [8, 9]


@settings(max_examples=200, deadline=None)
@given(prompt=st.lists(st.integers(0, 4), max_size=60))
def test_the_score_by_its_definition(prompt):
    each = [tuple(prompt[i : i + GATE_KEY]) for i in range(len(prompt) - GATE_KEY + 1)]
    twice = {gram for gram in each if each.count(gram) > 1}
    assert repetition(prompt) == (len(twice) / len(set(each)) if each else 0.0)
