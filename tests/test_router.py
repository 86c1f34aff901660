"""Choosing experts, against a plain loop in numpy."""

import mlx.core as mx
import numpy as np
import pytest
from smelt.kernels.router import Routing, route

E = 16


def loop(logits, routing, bias, scale):
    """One row: expert -> weight."""
    x = logits.astype(np.float64)
    scores = 1 / (1 + np.exp(-x)) if routing.score == "sigmoid" else np.exp(x) / np.exp(x).sum()
    worth = scores + bias
    if routing.groups:
        count, allowed = routing.groups
        split = worth.reshape(count, -1)
        best = np.argsort(-np.sort(split)[:, -2:].sum(axis=1))[:allowed]
        worth = np.where(np.isin(np.arange(len(x)) // (len(x) // count), best), worth, -np.inf)
    chosen = np.argsort(-worth)[: routing.top_k]
    total = scores[chosen].sum() + routing.eps if routing.normalise else 1.0
    return {int(e): scores[e] / total * routing.scale * scale[e] for e in chosen}


@pytest.mark.parametrize(
    "routing",
    [
        Routing(4),
        Routing(1, normalise=False),
        Routing(16),
        Routing(3, "sigmoid", eps=1e-6, scale=2.5),
        Routing(4, "sigmoid", groups=(4, 2), eps=1e-20),
        Routing(2, groups=(8, 1), normalise=False),
        Routing(4, groups=(1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_against_a_loop(routing, biased, dtype):
    keys = mx.random.split(mx.random.key(1), 3)
    logits = mx.random.normal((2, 5, E), key=keys[0]).astype(dtype)
    bias, scale = mx.random.normal((E,), key=keys[1]), mx.random.uniform(0.5, 2, (E,), key=keys[2])
    routed = route(logits, routing, *((bias, scale) if biased else ()))
    indices, weights = routed
    assert indices.shape == weights.shape == (2, 5, routing.top_k) and routed.types == (mx.uint32, mx.float32)
    more = (np.array(bias), np.array(scale)) if biased else (np.zeros(E), np.ones(E))
    for b in range(2):
        for t in range(5):
            theirs = loop(np.array(logits[b, t].astype(mx.float32)), routing, *more)
            ours = dict(zip(indices[b, t].tolist(), weights[b, t].tolist(), strict=True))
            assert ours.keys() == theirs.keys() and all(abs(ours[e] - theirs[e]) < 1e-5 for e in ours)
