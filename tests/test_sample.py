"""The sampler against a plain numpy version, its distribution, and its independence of the batch."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.engine.request import Sampling
from smelt.engine.sampler import Sampler, plan_of, seed_words
from smelt.engine.sequence import Sequence
from smelt.kernels import sample

VOCAB = 97


def sequence(seed=0, prompt=(1, 2, 3), generated=(), **fields):
    s = Sequence(list(prompt), Sampling(**fields), seed, 100, frozenset(), lambda item: None)
    s.generated, s.submitted = list(generated), len(generated)
    return s


def draw(logits, *sequences):
    return Sampler(list(sequences), logits.shape[-1])(logits[:, None])


def numpy_kept(logits, temperature, top_k, top_p, min_p):
    """Which tokens may be drawn, by sorting in float64."""
    scaled = logits.astype(np.float64) / temperature
    kept = np.ones(len(scaled), bool)
    if top_k:
        kept &= scaled >= np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1]
    if top_p < 1:
        p = np.where(kept, np.exp(scaled - scaled.max()), 0)
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        last = order[max(0, np.sum(before < top_p) - 1)]
        kept &= scaled >= scaled[last]
    if min_p:
        kept &= scaled >= scaled.max() + np.log(min_p)
    return kept


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), temperature=st.floats(0.1, 3), top_k=st.sampled_from([0, 1, 5, 40, 97, 1000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)  # fmt: skip
def test_truncation_keeps_what_the_definition_keeps(seed, temperature, top_k, top_p, min_p):
    logits = np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32) * 3
    s = sequence(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    sampler = Sampler([s], VOCAB)
    kept = sample.truncate(mx.array(logits)[None] / temperature, sampler.parameters, sampler.plan)[0] > -mx.inf
    assert (np.array(kept) == numpy_kept(logits, temperature, top_k, top_p, min_p)).all()


def test_draws_follow_the_distribution():
    logits = np.array([0.0, 1.0, 2.0, -1.0, 0.5], np.float32)
    count = 20_000
    tokens = draw(mx.array(np.tile(logits, (count, 1))), *[sequence(seed=i, temperature=0.7) for i in range(count)])[0]
    expected = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    found = np.bincount(np.array(tokens), minlength=5) / count
    chi2 = count * ((found - expected) ** 2 / expected).sum()
    assert chi2 < 18.5  # 4 degrees of freedom, p = 0.001


def test_positions_of_one_seed_are_independent():
    u = np.array([float(sample.uniform(mx.array([seed_words(7)], mx.uint32), mx.array([p]))[0]) for p in range(2000)])
    assert 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.03 and abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.06


def test_neighbouring_seeds_are_independent():
    words = mx.array([seed_words(i) for i in range(2000)], mx.uint32)
    u = np.array(sample.uniform(words, mx.full((2000,), 5)))
    assert abs(u.mean() - 0.5) < 0.03 and abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.06


ROWS = [
    {"temperature": 0.0},
    {"temperature": 0.9},
    {"temperature": 1.3, "top_k": 7},
    {"temperature": 0.8, "top_p": 0.7},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "repetition_penalty": 1.5, "repetition_window": 2},
    {"temperature": 0.0, "presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"temperature": 0.7, "logit_bias": {5: 4.0, 6: -100.0}},
]


def test_a_row_does_not_depend_on_its_neighbours():
    logits = mx.random.normal((len(ROWS), VOCAB), key=mx.random.key(1)) * 2
    rows = [sequence(seed=i, generated=[4, 5, 4, 9], **fields) for i, fields in enumerate(ROWS)]
    together = draw(logits, *rows)[0].tolist()
    alone = [draw(logits[i : i + 1], row)[0].item() for i, row in enumerate(rows)]
    assert together == alone


def test_penalties_by_their_formulas():
    logits = np.random.default_rng(0).normal(size=VOCAB).astype(np.float32)
    s = sequence(prompt=[1, 2, 3], generated=[4, 5, 4], temperature=0.0, repetition_penalty=1.7, repetition_window=4,
                 presence_penalty=0.3, frequency_penalty=0.2)  # fmt: skip
    sampler = Sampler([s], VOCAB)
    ours = np.array(sample.penalise(mx.array(logits)[None], sampler.parameters, sampler.history)[0])
    expected = logits.copy()
    for token in {3, 4, 5}:  # the last four of prompt and completion
        expected[token] = expected[token] / 1.7 if expected[token] > 0 else expected[token] * 1.7
    for token, n in ((4, 2), (5, 1)):
        expected[token] -= 0.3 + 0.2 * n
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def counts(history, row):
    """Of the completion, and of the window."""
    return history.rows[row, :VOCAB].tolist(), history.rows[row, VOCAB : 2 * VOCAB].tolist()


def counted(tokens):
    return np.bincount(np.array(tokens, int), minlength=VOCAB).tolist()


@settings(max_examples=30, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=6), drawn=st.lists(st.integers(0, 5), max_size=12),
    windows=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)  # fmt: skip
def test_what_was_seen_is_the_windows_tokens(prompt, drawn, windows):
    """However the history came about: counted on the host, or draw by draw."""
    rows = [sequence(prompt=prompt, temperature=0.0, repetition_penalty=1.2, repetition_window=n) for n in windows]
    history = Sampler(rows, VOCAB).history
    for i, token in enumerate(drawn):
        history = history.after(mx.full((len(rows),), token), mx.full((len(rows),), len(prompt) + i), VOCAB)
    for row, window in enumerate(windows):
        assert counts(history, row) == (counted(drawn), counted((prompt + drawn)[-window:]))
    anew = [sequence(prompt=prompt, generated=drawn, **vars_of(s)) for s in rows]
    assert history.table.tolist() == Sampler(anew, VOCAB).history.table.tolist()


def vars_of(s):
    return {name: getattr(s.sampling, name) for name in ("temperature", "repetition_penalty", "repetition_window")}


def test_an_unread_token_counts_when_the_batch_changes():
    one, two = (sequence(temperature=0.0, presence_penalty=1.0, generated=[8]) for _ in range(2))
    one.submitted = 2
    history = Sampler([one, two], VOCAB, [mx.array(9, mx.uint32), None]).history
    assert [counts(history, row) for row in range(2)] == [
        (counted([8, 9]), counted([1, 2, 3, 8, 9])), (counted([8]), counted([1, 2, 3, 8]))
    ]  # fmt: skip


def test_the_mask_hides_tokens():
    logits, plan = mx.arange(70.0)[None], sample.Plan(mask=True)
    parameters = Sampler([sequence(temperature=0.0)], 70).parameters
    for word, bit, token in ((0, 3, 3), (1, 31, 63), (2, 5, 69)):
        mask = np.zeros((1, 3), np.uint32)
        mask[0, word] |= np.uint32(1 << bit)
        mask[0, 0] |= 1
        assert sample.sample(logits, parameters, mx.array([0]), plan, mask=mx.array(mask)).item() == token


def test_logprobs_are_the_models_own():
    logits = mx.random.normal((2, VOCAB), key=mx.random.key(3))
    rows = [sequence(temperature=0.0, top_logprobs=3, logit_bias={7: 50.0}), sequence(temperature=0.0)]
    tokens, chosen, ids, best = draw(logits, *rows)
    expected = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    assert tokens.tolist()[0] == 7
    np.testing.assert_allclose(np.array(chosen), expected[[0, 1], tokens.tolist()], rtol=1e-5)
    for row in range(2):
        order = np.argsort(-expected[row])[:3]
        assert ids[row].tolist() == order.tolist()
        np.testing.assert_allclose(np.array(best[row]), expected[row][order], rtol=1e-5)


def test_the_plan_asks_for_no_more_than_the_rows_do():
    assert plan_of([Sampling(temperature=0.0, top_p=0.5, top_k=4)]) == sample.Plan()
    plan = plan_of([Sampling(temperature=1.0, top_k=20, top_p=0.9), Sampling(temperature=0.0, top_logprobs=0)])
    assert dataclasses.asdict(plan) | {"logprobs": None} == dataclasses.asdict(
        sample.Plan(draw=True, top_k=20, nucleus=True)
    )


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("extreme", ["huge", "one_left", "equal"])
def test_extreme_logits(dtype, extreme):
    logits = {
        "huge": mx.array([[6e4, -6e4, 0.0]]), "one_left": mx.array([[-mx.inf, 1.0, -mx.inf]]), "equal": mx.zeros((1, 3))
    }[extreme].astype(dtype)  # fmt: skip
    for fields in ({"top_p": 0.9}, {"top_k": 1}, {"min_p": 1.0}, {}):
        token = draw(logits, sequence(temperature=0.01, **fields))[0].item()
        assert logits[0, token].item() == mx.max(logits).item()


@pytest.mark.parametrize("penalties", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_positions_in_a_row_are_drawn_as_one_after_another(penalties, masked):
    """Each with its own key, and with the draws before it in its history."""
    fields = {"repetition_penalty": 1.3, "repetition_window": 3, "presence_penalty": 0.4} if penalties else {}
    rows = [sequence(seed=i, temperature=t, top_logprobs=2, generated=[4], **fields) for i, t in enumerate((0.0, 0.8, 1.4))]
    logits = mx.random.normal((3, 5, VOCAB), key=mx.random.key(3)) * 2
    mask = mx.random.randint(0, 2**32 - 1, (3, 5, 4), mx.uint32, key=mx.random.key(4)) if masked else None
    together = [array.tolist() for array in Sampler(rows, VOCAB)(logits, mask)]
    for i, row in enumerate(rows):
        sampler = Sampler([row], VOCAB)
        for j in range(5):
            alone = sampler(logits[i : i + 1, j : j + 1], None if mask is None else mask[i : i + 1, j : j + 1])
            assert [array[0].tolist() for array in alone] == [array[5 * i + j] for array in together]
            row.submitted += 1
        row.submitted -= 5


def test_a_history_counted_anew_has_what_was_read():
    row = sequence(temperature=0.0, presence_penalty=1.0, generated=[8])
    sampler = Sampler([row], VOCAB)
    sampler(mx.zeros((1, 4, VOCAB)))  # four draws of a draft, one of which is kept
    row.generated.append(9)
    sampler.recount()
    assert counts(sampler.history, 0) == (counted([8, 9]), counted([1, 2, 3, 8, 9]))
