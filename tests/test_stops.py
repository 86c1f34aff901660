"""Stop strings: found wherever the text is split, and never a character too early or too late."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smelt.engine.stops import StopMatcher


def run(stops, pieces):
    """(what came out, the stop string, what was held back after each piece)."""
    matcher, out, held = StopMatcher(stops), [], []
    for piece in pieces:
        text, matched = matcher.feed(piece)
        out.append(text)
        held.append(matcher.held)
        if matched is not None:
            return "".join(out), matched, held
    return "".join(out) + matcher.finish(), None, held


def truth(stops, text):
    """By definition: the first end, then the longest."""
    ends = [(end, -len(stop), stop) for stop in stops for end in range(len(text) + 1) if text[:end].endswith(stop)]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


few = st.text("ab<\n", min_size=1, max_size=5)


@given(st.lists(few, max_size=4), st.text("ab<\n", max_size=25), st.data())
def test_any_split_gives_the_same(stops, text, data):
    expected = truth(stops, text)
    assert run(stops, [text])[:2] == expected
    assert run(stops, list(text))[:2] == expected
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert run(stops, pieces)[:2] == expected


@given(st.lists(few, min_size=1, max_size=4), st.text("ab<\n", max_size=25))
def test_exactly_what_could_begin_a_stop_is_held(stops, text):
    matcher, out = StopMatcher(stops), ""
    for at, char in enumerate(text, 1):
        piece, matched = matcher.feed(char)
        if matched:
            assert matcher.held == 0
            return
        out += piece
        seen = text[:at]
        longest = max((n for stop in stops for n in range(len(stop)) if seen.endswith(stop[:n])), default=0)
        assert matcher.held == longest
        assert out == seen[: at - longest]


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["\nUser:"], "Hi.\nUser: x", ("Hi.", "\nUser:")),
        (["\nUser:"], "Hi.\nUse", ("Hi.\nUse", None)),
        (["abcd", "bc"], "xabcd", ("xa", "bc")),  # complete first
        (["bc", "abc"], "xabc", ("x", "abc")),  # complete together: the longest
        (["a", "ab"], "ab", ("", "a")),
        (["aab"], "aaab", ("a", "aab")),
        ([], "abc", ("abc", None)),
        (["\U0001f600"], "x\U0001f600y", ("x", "\U0001f600")),
    ],
)
def test_which_stop_wins(stops, text, expected):
    assert run(stops, [text])[:2] == expected
    assert run(stops, list(text))[:2] == expected


def test_nothing_comes_after_a_stop():
    matcher = StopMatcher(["x"])
    assert matcher.feed("axb") == ("a", "x")
    assert matcher.feed("more") == ("", "x")
    assert matcher.finish() == ""


def test_a_long_stop_string_costs_no_more():
    matcher = StopMatcher(["a" * 20_000 + "b"])
    begun = time.perf_counter()
    for _ in range(30_000):
        matcher.feed("a")
    assert time.perf_counter() - begun < 5
    assert matcher.held == 20_000


def test_an_empty_stop_string_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="empty"):
        StopMatcher(["a", ""])
