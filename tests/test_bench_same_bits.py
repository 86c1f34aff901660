"""The check that an answer has the same bits in any company, on models that keep that promise and that break it."""

import mlx.core as mx
import pytest
from smelt.bench import engines, packed, same_bits
from smelt.bench.checkpoints import SHAPES


@pytest.fixture(params=("tiny", "tiny-gemma", "tiny-moe"))
def folder(request, tmp_path):
    return packed.write(tmp_path, SHAPES[request.param], dtype=mx.float32)


def test_tokens_are_the_same_in_every_company(folder):
    found = same_bits.check(folder, count=20, rows=3, widths=(2, 5))
    assert [v.how for v in found] == ["batch of 3", "width 1", "width 2", "width 5"]
    assert [v.different for v in found] == [None] * 4


def test_a_result_that_depends_on_the_width_is_found(folder):
    engine = engines.Smelt(folder)
    plain = engine.model.logits
    object.__setattr__(engine.model, "logits", lambda h: plain(h) + (1e-6 if h.shape[1] == 4 else 0.0))
    prompt = engines.prompt(9, engine.vocab, 0)
    tokens = same_bits.drawn(engine, [prompt], 12)[0]
    sums = {width: same_bits.verified(engine.model, prompt, tokens, width)[1] for width in (1, 3, 4)}
    assert sums[1] == sums[3] != sums[4]


def test_a_row_that_depends_on_its_neighbours_is_found(folder):
    engine = engines.Smelt(folder)
    plain = engine.model.logits
    order = mx.arange(engine.vocab) / engine.vocab
    object.__setattr__(engine.model, "logits", lambda h: plain(h) + (100 * order if h.shape[0] > 1 else 0.0))
    prompts = [engines.prompt(9 + i, engine.vocab, i) for i in range(2)]
    verdict = next(same_bits.verdicts(engine, prompts, 12, ()))
    assert verdict.different is not None and "differ from token" in str(verdict)


def test_drafts_are_wrong_where_they_should_be():
    known = list(range(10))
    assert same_bits.guessed(known, 2, 4, 100, wrong=False) == [2, 3, 4, 5]
    assert same_bits.guessed(known, 2, 4, 100, wrong=True) == [2, 3, 5, 5]
    assert same_bits.guessed(known, 9, 4, 100, wrong=True) == [9]


def test_checksums_see_one_bit():
    logits = mx.random.normal((3, 64)).astype(mx.bfloat16)
    bits = logits.view(mx.uint16)
    bits[1, 7] = bits[1, 7] ^ 1
    same = (same_bits.checksums(logits) == same_bits.checksums(bits.view(mx.bfloat16))).tolist()
    assert same == [True, False, True]
