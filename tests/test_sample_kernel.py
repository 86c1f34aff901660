"""The sampler's two kernels: on the emulator, or on this machine's GPU, against float64."""

import checkpoints
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msl.accuracy import kernels_run, wide
from runner import Run, run
from smelt import models
from smelt.engine.request import Sampling
from smelt.engine.sampler import Sampler, seed_words
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.sequence import Sequence
from smelt.kernels import launch
from smelt.kernels import sample as op

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
NEAR = 5e-6  # of the total: how far rounding may move the border between two tokens


def sequence(seed=0, prompt=(1, 2, 3), generated=(), max_tokens=100, **fields):
    s = Sequence(list(prompt), Sampling(**fields), seed, max_tokens, frozenset(), lambda item: None)
    s.generated, s.submitted = list(generated), len(generated)
    return s


def drawn(logits, rows, order="forward"):
    """By the kernels, through the engine's sampler."""
    with kernels_run(order):
        arrays = Sampler(rows, logits.shape[-1])(logits[:, None])
        mx.eval(arrays)
    return arrays


def random_logits(rng, rows, vocab, dtype, spread=3.0):
    return mx.array((rng.normal(size=(rows, vocab)) * spread).astype(np.float32)).astype(dtype)


def shaped(logits, s: Sequence) -> np.ndarray:
    """What a row is drawn from, [V]: penalties by their formulas, in float32 as the op has them."""
    p, x = s.sampling, np.array(logits.astype(F32))
    window = p.repetition_window or s.tokens_wanted
    for token in set((s.prompt + s.generated)[-window:]):
        x[token] = (
            x[token] / np.float32(p.repetition_penalty) if x[token] > 0 else x[token] * np.float32(p.repetition_penalty)
        )
    counts = np.bincount(s.generated, minlength=len(x)).astype(np.float32)
    x = x - np.float32(p.presence_penalty) * (counts > 0) - np.float32(p.frequency_penalty) * counts
    for token, bias in s.sampling.logit_bias.items():
        x[token] += np.float32(bias)
    return (x / np.float32(p.temperature or 1.0)).astype(np.float64)


def kept(x, p, top_p) -> np.ndarray:
    """Which tokens may be drawn, by sorting in float64."""
    best = -np.sort(-x)
    best = best[: min(p.top_k, len(x))] if p.top_k else best
    least = best[-1]
    if top_p < 1:
        weights = np.exp(best - best[0])
        before = np.cumsum(weights) - weights
        least = best[max(0, np.sum(before < top_p * weights.sum()) - 1)]
    if p.min_p:
        least = max(least, best[0] + np.log(np.float32(p.min_p)))
    return x >= least


def is_right(token: int, logits, s: Sequence) -> bool:
    """Whether u falls into the token's part of the cumulative probability, for a top_p as good as the one given."""
    x, p = shaped(logits, s), s.sampling
    if p.temperature == 0:
        return token == np.argmax(x)
    position = len(s.prompt) + s.submitted
    u = op.uniform(mx.array([seed_words(s.seed)], mx.uint32), mx.array([position])).item()
    for top_p in (p.top_p, p.top_p * (1 - NEAR), min(1.0, p.top_p * (1 + NEAR))):
        weights = np.where(kept(x, p, top_p), np.exp(x - x.max()), 0)
        upto = np.cumsum(weights) / weights.sum()
        if weights[token] > 0 and upto[token] - weights[token] / weights.sum() - NEAR <= u <= upto[token] + NEAR:
            return True
    return False


def assert_right(tokens, logits, rows):
    for i, (token, s) in enumerate(zip(tokens.tolist(), rows, strict=True)):
        assert is_right(token, logits[i], s), f"row {i} drew {token}: {s.sampling}, seed {s.seed}"


FORMS = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 7},
    {"temperature": 1.0, "top_k": 40, "top_p": 0.8},
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.5, "top_k": 300, "top_p": 0.99, "min_p": 0.01},
]


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("vocab", [8, 97, 514, 5000, 151936])
def test_every_form(dtype, vocab):
    rng = np.random.default_rng()
    rows = [sequence(seed=int(rng.integers(2**62)), **fields) for fields in FORMS]
    logits = random_logits(rng, len(rows), vocab, dtype)
    assert_right(drawn(logits, rows, order="random")[0], logits, rows)


def test_sixty_four_rows_at_once():
    rng = np.random.default_rng()
    rows = [sequence(seed=int(rng.integers(2**62)), **FORMS[i % len(FORMS)]) for i in range(64)]
    logits = random_logits(rng, 64, 300, BF16)
    assert_right(drawn(logits, rows, order="reverse")[0], logits, rows)


@settings(max_examples=25, deadline=None)
@given(
    vocab=st.sampled_from([8, 61, 300]), most=st.sampled_from([1, 4, 12]), seed=st.integers(0, 2**60),
    temperature=st.sampled_from([0.3, 1.0, 2.5]), top_k=st.sampled_from([0, 1, 3, 40, 1000]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]), min_p=st.sampled_from([0.0, 0.02, 1.0]),
)  # fmt: skip
def test_equal_logits_are_kept_or_dropped_together(vocab, most, seed, temperature, top_k, top_p, min_p):
    fields = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    logits = mx.array(np.random.default_rng(seed).integers(-most, most + 1, (4, vocab)), F32)
    rows = [sequence(seed=seed + i, **fields) for i in range(4)]
    assert_right(drawn(logits, rows)[0], logits, rows)


@pytest.mark.parametrize("fields", [{}, {"top_k": 1000}, {"top_p": 0.5}, {"top_p": 0.5, "top_k": 70}, {"min_p": 0.3}])
def test_a_flat_row_of_the_largest_vocabulary(fields):
    """All of it is looked at in every pass, and the sums are the largest there are."""
    logits, rows = mx.full((1, 262144), 3.0), [sequence(seed=5, temperature=1.0, **fields)]
    assert_right(drawn(logits, rows)[0], logits, rows)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.9999])
def test_a_nucleus_of_most_of_the_vocabulary(top_p):
    rng = np.random.default_rng()
    logits = random_logits(rng, 2, 262144, F32, spread=0.5)
    rows = [sequence(seed=i, temperature=2.0, top_p=top_p) for i in range(2)]
    assert_right(drawn(logits, rows)[0], logits, rows)


def seed_of_the_largest_u(position: int) -> int:
    """Of a draw that ends up among the last of the tokens that are kept."""
    seeds = list(range(1 << 16))
    words = mx.array([seed_words(seed) for seed in seeds], mx.uint32)
    return seeds[mx.argmax(op.uniform(words, mx.full((len(seeds),), position))).item()]


@pytest.mark.parametrize("below", [3, 10, 19])
def test_a_threshold_far_below_the_largest(below):
    """The search begins near the largest logit and goes on further down; of the tail less than half is kept."""
    tail = -below - 0.3 * np.arange(250_000) / 250_000
    logits = mx.array(np.concatenate([[0.0], tail])[None].astype(np.float32))
    seed = seed_of_the_largest_u(3)
    weights = np.exp(tail)
    share = (1 + weights[:100_000].sum()) / (1 + weights.sum())
    for fields in ({"top_k": 100_001}, {"top_p": share}, {"top_k": 150_001, "top_p": share}):
        s = sequence(seed=seed, temperature=1.0, **fields)
        last = kept(shaped(logits[0], s), s.sampling, s.sampling.top_p).sum() - 1
        assert abs(drawn(logits, [s])[0].item() - last) < 0.15 * last < 20_000


@settings(max_examples=30, deadline=None)
@given(
    edges=st.lists(st.sampled_from([0, 1, 2, 127, 128, 511, 1022, 1023, 1024, 1025, 2047, 2048, 2049]), min_size=3, max_size=12),
    nudges=st.lists(st.sampled_from([-1, 0, 1]), min_size=12, max_size=12),
    high=st.sampled_from([0.0, 3.0, -7.5, 100.0]),
    top_p=st.sampled_from([0.2, 0.7, 0.97, 0.9999, 0.99999]),
    heavy=st.integers(0, 3),
)
def test_logits_at_the_edges_of_bins(edges, nudges, high, top_p, heavy):
    """A threshold is searched in bins of 1 / 128 first, down to 8 and then to 16 below the largest."""
    logits = np.full(300, -40.0 + high, np.float32)
    logits[0] = high
    for i, (edge, nudge) in enumerate(zip(edges, nudges, strict=False)):
        value = np.float32(high) - np.float32(edge / 128)
        value = np.nextafter(value, np.float32(nudge * np.inf)) if nudge else value
        logits[5 + 20 * i : 5 + 20 * i + 6 * heavy + 1] = min(value, np.float32(high))
    rows = [sequence(seed, temperature=1.0, top_p=top_p) for seed in range(4)]
    logits = mx.array(np.stack(4 * [logits]))
    assert_right(drawn(logits, rows)[0], logits, rows)


def test_of_equal_logits_at_the_threshold_top_p_takes_a_share_of_k():
    logits = mx.array([[0.0] + [-1.0] * 100] * 40)
    rows = [sequence(seed=i, temperature=1.0, top_k=2, top_p=0.7) for i in range(40)]
    assert drawn(logits, rows)[0].tolist() == [0] * 40


@pytest.mark.parametrize("spread", [0.01, 2.0])
def test_a_nucleus_that_ends_exactly_at_a_token(spread):
    """Where top_p is a cumulative probability, the sums of a search's rounds may fall on either side of it."""
    rng, count = np.random.default_rng(), 64
    row = (rng.normal(size=3000) * spread).astype(np.float32)
    x = -np.sort(-row.astype(np.float64))
    upto = np.cumsum(np.exp(x - x[0])) / np.exp(x - x[0]).sum()
    ends = upto[:100]
    rows = [sequence(seed=i, temperature=1.0, top_p=float(np.float32(rng.choice(ends)))) for i in range(count)]
    logits = mx.array(np.tile(row, (count, 1)))
    assert_right(drawn(logits, rows)[0], logits, rows)


def test_draws_follow_the_distribution():
    logits, count = np.array([0.0, 1.0, 2.0, -1.0, 0.5, 1.9, -3.0, -np.inf], np.float32), 1500
    tokens = drawn(mx.array(np.tile(logits, (count, 1))), [sequence(seed=i, temperature=0.7) for i in range(count)])[0]
    expected = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    found = np.bincount(np.array(tokens), minlength=8) / count
    assert found[7] == 0
    chi2 = count * ((found - expected)[:7] ** 2 / expected[:7]).sum()
    assert chi2 < 22.5  # 6 degrees of freedom, p = 0.001


PENALISED = [
    {"temperature": 0.0, "repetition_penalty": 1.5, "repetition_window": 2},
    {"temperature": 0.9, "repetition_penalty": 1.3},
    {"temperature": 0.0, "presence_penalty": 2.0, "frequency_penalty": 0.5},
    {"temperature": 0.7, "logit_bias": {5: 9.0, 6: -100.0}},
    {"temperature": 1.0, "top_p": 0.5, "frequency_penalty": 1.0, "logit_bias": {9: 6.0}},
]


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_penalties_and_bias(dtype):
    rng = np.random.default_rng()
    rows = [sequence(seed=i, generated=[4, 5, 4, 9, 700], **fields) for i, fields in enumerate(PENALISED)]
    logits = random_logits(rng, len(rows), 1003, dtype)
    logits[:, mx.array([4, 5, 9, 700])] = logits[:, mx.array([4, 5, 9, 700])] + 8
    assert_right(drawn(logits, rows)[0], logits, rows)


def test_the_history_goes_on_as_the_references():
    """Token by token, from shorter than the window to longer than the ring."""
    fields = [{"temperature": 0.9, "repetition_penalty": 1.4, "repetition_window": n} for n in (1, 3, 8, 5)]
    fields.append({"temperature": 0.9, "top_p": 0.8, "frequency_penalty": 0.5})
    rows = [sequence(seed=i, prompt=range(1 + i), max_tokens=20, **f) for i, f in enumerate(fields)]
    ours, plain = Sampler(rows, 12), Sampler(rows, 12)
    for step in range(15):
        logits = random_logits(np.random.default_rng(step), len(rows), 12, F32, spread=0.5)
        with kernels_run():
            tokens = ours(logits[:, None])[0]
            mx.eval(tokens, vars(ours.history))
        assert tokens.tolist() == plain(logits[:, None])[0].tolist()
        assert ours.history.table.tolist() == plain.history.table.tolist()
        for s in rows:
            s.submitted += 1


def masked(logits, rows, allowed):
    """sampled() with the bit of every token that `allowed` [B, V] names."""
    packed = np.packbits(allowed, axis=1, bitorder="little")
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).view(np.uint32)
    sampler = Sampler(rows, logits.shape[1])
    plan = op.Plan(**{**vars(sampler.plan), "mask": True})
    arguments = (logits, sampler.parameters, sampler.position(), plan, sampler.history, mx.array(packed))
    with kernels_run():
        ours, _ = op.sampled(*arguments)
        mx.eval(ours)
    return ours, op.reference(*arguments)[0]


@pytest.mark.parametrize("vocab", [97, 4099])
def test_only_what_the_mask_allows_is_drawn(vocab):
    rng = np.random.default_rng()
    rows = [sequence(seed=i, top_logprobs=2, **fields) for i, fields in enumerate(FORMS)]
    logits, allowed = random_logits(rng, len(rows), vocab, F32), rng.random((len(rows), vocab)) < 0.1
    allowed[:, vocab - 1] = True
    ours, _ = masked(logits, rows, allowed)
    hidden = mx.where(mx.array(allowed), logits, -mx.inf)
    assert_right(ours[0], hidden, rows)
    normal = wide(logits) - np.log(np.exp(wide(logits)).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        wide(ours[1]), np.take_along_axis(normal, np.array(ours[0])[:, None], 1)[:, 0], rtol=1e-5, atol=4e-6
    )


def test_where_nothing_is_allowed_the_token_is_the_references():
    rows = [sequence(temperature=t, top_p=p) for t, p in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.5))]
    ours, plain = masked(mx.zeros((3, 300)), rows, np.zeros((3, 300), bool))
    assert ours[0].tolist() == plain[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("vocab, count", [(97, 0), (97, 20), (5000, 5), (151936, 20)])
def test_logprobs_are_the_models_own(dtype, vocab, count):
    rng = np.random.default_rng()
    logits = random_logits(rng, 2, vocab, dtype)
    rows = [sequence(temperature=0.0, top_logprobs=count, logit_bias={7: 90.0}), sequence(temperature=0.9)]
    tokens, chosen, ids, best = drawn(logits, rows)
    assert tokens.tolist()[0] == 7 and ids.shape == best.shape == (2, count)
    x = wide(logits)
    truth = x - (x.max(-1, keepdims=True) + np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)))
    np.testing.assert_allclose(wide(chosen), truth[[0, 1], tokens.tolist()], rtol=2e-6, atol=2e-6)
    order = np.argsort(-truth, axis=-1, kind="stable")[:, :count]  # of equal ones the lowest token first
    assert ids.tolist() == order.tolist()
    np.testing.assert_allclose(wide(best), np.take_along_axis(truth, order, -1), rtol=2e-6, atol=2e-6)


def test_the_best_may_all_lie_in_one_chunk():
    rows = [sequence(temperature=0.0, top_logprobs=20)]
    ids = drawn(mx.concatenate([mx.zeros((1, 1000)), mx.arange(40.0)[None]], axis=1), rows)[2]
    assert ids.tolist() == [list(range(1039, 1019, -1))]


def bits(arrays, row):
    return [np.array(x[row]).tobytes() for x in arrays]


def test_a_row_has_the_same_bits_alone_in_a_batch_and_under_another_plan():
    rng = np.random.default_rng()
    fields = [{**f, "top_logprobs": 3} for f in [*FORMS, *PENALISED]]
    rows = [sequence(seed=i, generated=[4, 5, 4, 9], **f) for i, f in enumerate(fields)]
    logits = random_logits(rng, len(rows), 3001, BF16)
    together = drawn(logits, rows, order="random")
    for i, row in enumerate(rows):
        assert bits(drawn(logits[i : i + 1], [row]), 0) == bits(together, i), row.sampling


@pytest.mark.parametrize("fields", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.5}])
@pytest.mark.parametrize("what", ["huge", "one_left", "nothing_left", "nan", "infinite"])
def test_odd_logits_still_give_a_token(fields, what):
    row = {
        "huge": [6e4, -6e4, *[0.0] * 98], "one_left": [-np.inf] * 60 + [1.0] + [-np.inf] * 39,
        "nothing_left": [-np.inf] * 100, "nan": [np.nan] * 100, "infinite": [0.0] * 50 + [np.inf] + [0.0] * 49,
    }[what]  # fmt: skip
    tokens, _, ids, _ = drawn(mx.array([row], F32), [sequence(temperature=0.5, top_logprobs=4, **fields)])
    assert 0 <= tokens.item() < 100 and all(0 <= i < 100 for i in ids.tolist()[0])
    if what in ("huge", "one_left"):
        assert tokens.item() == np.argmax(row)


@pytest.mark.parametrize("logits, why", [(mx.zeros((1, 5)), "8 to"), (mx.zeros((1, 32), mx.int32), "int32")])
def test_what_is_not_covered_goes_to_the_reference(logits, why):
    with kernels_run():
        assert Sampler([sequence(temperature=0.0)], logits.shape[1])(logits[:, None])[0].item() == 0
    assert any(why in way.why for way in launch.report() if way.op == "sample" and way.way == "reference")


def test_streams_that_come_and_go_draw_what_plain_ops_draw(tmp_path):
    """Through the scheduler: rows join with an unread token, and each new batch has its own history."""
    model = models.load(checkpoints.make(tmp_path, "llama"))
    fields = [
        {"temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.5},
        {"temperature": 0.9, "top_p": 0.9, "top_logprobs": 2},
        {"temperature": 1.1, "top_k": 12, "logit_bias": {3: 2.0}, "repetition_penalty": 1.2, "repetition_window": 4},
        {"temperature": 0.0, "frequency_penalty": 0.5},
    ]

    def tokens(*ops):
        model.forget()
        runs = [Run(list(range(5, 12 + i)), 9 + 2 * i, seed=i, **f) for i, f in enumerate(fields)]
        with launch.only(*ops):
            run(Scheduler(model, Limits(rows=2)), *runs)
        return [r.tokens for r in runs]

    with kernels_run():
        assert tokens("sample") == tokens()


def test_it_can_be_traced():
    """No part of it looks at a value: mx.compile records it once."""
    launched = []

    def record(kernel, inputs, outputs, template, groups, threads):
        launched.append(kernel.name)
        return [mx.zeros(shape, dtype) for shape, dtype in outputs]

    rows = [sequence(temperature=0.7, top_p=0.9, presence_penalty=1.0, top_logprobs=2)]
    sampler, logits = Sampler(rows, 64), mx.zeros((1, 64))
    position, parameters = sampler.position(), vars(sampler.parameters)
    given = {name: value for name, value in parameters.items() if value is not None}

    def step(logits, given, position, history):
        made, history = op.sampled(logits, op.Parameters(**given), position, sampler.plan, op.History(**history))
        return made, vars(history)

    traced = mx.compile(step)
    with launch.through(record):
        history = vars(sampler.history)
        for _ in range(3):
            made, history = traced(logits, given, position, history)
        mx.eval(made, history)
    assert launched == ["sample", "sample_merge"]
    assert history["table"].shape == sampler.history.table.shape
