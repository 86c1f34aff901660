"""The tree of token prefixes, against a plain list of all that was put into it."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.engine.prefix_tree import Tree, common

TOKENS = st.lists(st.integers(0, 2), max_size=7)


def matched(known, tokens):
    return max((common(array("i", one), array("i", tokens)) for one in known), default=0)


@settings(max_examples=200, deadline=None)
@given(program=st.lists(st.tuples(st.booleans(), TOKENS.filter(len)), max_size=30), asked=st.lists(TOKENS, min_size=5))
def test_it_finds_the_longest_prefix_of_what_is_in_it(program, asked):
    tree, known = Tree(), {}
    for put, tokens in program:
        key = tuple(tokens)
        if put:
            known[key] = tree.place(tokens)
            known[key].value = key
        elif key in known:
            tree.clear(known.pop(key))
        check(tree, known)
    for tokens in asked:
        found = tree.find(tokens)
        assert found.matched == matched(known, tokens)
        assert {node.value for node in found.at.below() if node.value} == {
            key for key in known if list(key[: found.matched]) == tokens[: found.matched]
        }
        ends = [node.end for node in found.path if node.value]
        assert ends == sorted(len(key) for key in known if list(key) == tokens[: len(key)])
        goes_on = any(list(key[: found.matched]) == tokens[: found.matched] and len(key) > found.matched for key in known)
        assert found.differs == (goes_on and found.matched < len(tokens))


def check(tree, known):
    assert {node.value for node in tree.values()} == set(known)
    longest = {key for key in known if not any(len(o) > len(key) and o[: len(key)] == key for o in known)}
    assert {node.value for node in tree.leaves()} == longest
    for node in tree.root.below():
        spelled, at = [], node
        while at is not None:
            spelled, at = [*at.tokens, *spelled], at.parent
        assert len(spelled) == node.end and (node.value is None or tuple(spelled) == node.value)
        assert node.parent is None or node.parent.children[node.tokens[0]] is node
        assert node is tree.root or node.value is not None or len(node.children) > 1  # no node without a purpose


@pytest.mark.parametrize("size", [0, 1, 2, 7, 1000])
def test_common_finds_the_first_difference(size):
    one = array("i", range(size))
    assert common(one, one) == size
    for at in {0, 1, size // 2, size - 1} & set(range(size)):
        other = array("i", one)
        other[at] = -1
        assert common(one, other) == at
        assert common(one, other[: at + 1]) == at and common(one[:at], other) == at
