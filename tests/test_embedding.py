"""Embeddings by the engine: what they are, together and alone, in pieces, beside streams, and when things go wrong."""

import json
import time

import checkpoints
import mlx.core as mx
import numpy as np
import pytest
import tiny
from runner import Run
from smelt import models
from smelt.engine.embedding import Embedding, pooling_of
from smelt.engine.engine import Engine
from smelt.engine.errors import BadRequest, ContextExceeded, EngineFailed, NotReady
from smelt.engine.options import Options
from smelt.engine.scheduler import Limits
from smelt.engine.service import Service

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(300)]
PROMPTS = [PROMPT[:40], PROMPT[5:8], PROMPT[:1], PROMPT[60:160], PROMPT[9:12]]
KINDS = ["llama", "llama_dynamic", "mistral_sliding", "gemma3", "qwen3"]


def engine_of(folder, **limits):
    engine = Engine(lambda: (models.load(folder), Limits(**{"rows": 4, "chunk": 32, **limits})))
    engine.start()
    assert engine.ready.wait(60) and engine.state == "ready", engine.error
    return engine


@pytest.fixture(params=KINDS)
def engine(request, tmp_path):
    engine = engine_of(checkpoints.make(tmp_path, request.param))
    yield engine
    engine.close()


@pytest.fixture
def llama(tmp_path):
    engine = engine_of(checkpoints.make(tmp_path, "llama"))
    yield engine
    engine.close()


def embed(engine, prompts, pooling="mean"):
    made = Embedding(prompts, pooling)
    engine.embed(made)
    return made


def truth(engine, prompt, pooling):
    """From one forward pass over the whole prompt."""

    def compute():
        memory = engine.model.memory()
        row = memory.open(len(prompt))
        hidden = engine.model(mx.array([prompt]), memory.step([row], len(prompt)))
        states = np.array(engine.model.normed(hidden)[0].astype(mx.float32), np.float64)
        engine.model.forget()
        engine.scheduler = engine._new_scheduler()
        return states

    states = engine.call(compute, 60)
    vector = states.mean(axis=0) if pooling == "mean" else states[-1]
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_they_are_pooled_hidden_states_however_they_are_batched(engine, pooling):
    expected = [truth(engine, prompt[:20], pooling) for prompt in PROMPTS]
    found = embed(engine, [prompt[:20] for prompt in PROMPTS], pooling).wait(60)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    alone = embed(engine, [PROMPTS[0][:20]], pooling).wait(60)
    np.testing.assert_allclose(alone[0], expected[0], atol=2e-5)


def test_long_ones_are_read_in_pieces(llama):
    long = PROMPT[:200]
    found = embed(llama, [long, PROMPT[:3], long], "mean").wait(60)
    np.testing.assert_allclose(found[0], truth(llama, long, "mean"), atol=2e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    np.testing.assert_allclose(embed(llama, [long], "last").wait(60)[0], truth(llama, long, "last"), atol=2e-5)


def pool_is_free(engine):
    paging = engine.scheduler.memory.paging.values()
    return all(sum(size for _, size in each.pool.free) == each.pool.pages for each in paging)


def test_streams_go_on_and_say_the_same(llama):
    expected = Run(PROMPT[:10], 40)
    llama.submit(expected.sequence)
    tokens = expected.wait().tokens
    beside = Run(PROMPT[:10], 40)
    llama.submit(beside.sequence)
    made = embed(llama, [PROMPT[:200]] * 6)
    assert beside.wait().tokens == tokens
    assert len(made.wait(60)) == 6
    assert llama.call(lambda: pool_is_free(llama), 60)


def test_a_stream_gets_its_tokens_while_texts_are_read(llama):
    made = embed(llama, [PROMPT] * 20)
    run = Run(PROMPT[:4], 8)
    llama.submit(run.sequence)
    run.wait()
    assert made.wait(0) is None, "the stream was answered before all texts were read"
    assert len(made.wait(60)) == 20


def test_requests_take_turns(llama):
    first = embed(llama, [PROMPT] * 20)
    second = embed(llama, [PROMPT[:5]])
    assert len(second.wait(60)) == 1 and first.wait(0) is None
    first.cancel()


def test_a_cancelled_one_ends_and_frees_its_rows(llama):
    made = embed(llama, [PROMPT] * 50)
    while not llama.call(lambda: llama.scheduler.memory.paging[None].pool.pages, 60):
        time.sleep(0.005)
    made.cancel()
    begin = time.monotonic()
    while llama.embeddings:
        time.sleep(0.005)
    assert time.monotonic() - begin < 1 and made.wait(0) is None
    assert llama.call(lambda: pool_is_free(llama), 60)


def test_it_waits_for_room(tmp_path):
    folder = checkpoints.make(tmp_path, "llama")
    row = models.load(folder).memory().row_bytes(260)
    engine = engine_of(folder, state_bytes=row)
    try:
        run = Run(PROMPT[:10], 120)
        engine.submit(run.sequence)
        while not run.sequence.generated:
            time.sleep(0.005)
        made = embed(engine, [PROMPT[:250]])
        assert len(run.wait().tokens) == 120, "it was not preempted"
        assert len(made.wait(60)) == 1
    finally:
        engine.close()


def test_requests_beside_each_other_hold_no_more_state_than_one(llama):
    made = [embed(llama, [PROMPT[:200], PROMPT[:200]]) for _ in range(4)]
    most = 0
    while any(each.answer.empty() for each in made):
        rows = llama.call(lambda: (llama.scheduler.lent, llama.scheduler.memory.row_bytes(200)), 60)
        most = max(most, rows[0])
        assert rows[0] <= rows[1]
    assert most > 0 and llama.scheduler.lent == 0


def test_a_failed_step_is_an_error_and_the_engine_goes_on(llama, monkeypatch):
    original = type(llama.model).normed

    def breaking(self, hidden):
        raise RuntimeError("no more")

    monkeypatch.setattr(type(llama.model), "normed", breaking)
    with pytest.raises(EngineFailed, match="no more"):
        embed(llama, [PROMPT[:5]]).wait(60)
    monkeypatch.setattr(type(llama.model), "normed", original)
    assert len(embed(llama, [PROMPT[:5]]).wait(60)) == 1


def test_closing_ends_it(llama):
    made = embed(llama, [PROMPT] * 50)
    llama.close()
    with pytest.raises(NotReady):
        made.wait(10)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(Options(model=str(tiny.make(tmp_path_factory.mktemp("tiny"))), warmup=False))
    service.start()
    service.wait_ready(60)
    yield service
    service.close()


def test_texts_and_their_tokens_are_the_same(service):
    text = "once upon a time"
    made = service.embed([text, service.tokenizer.encode_whole(text)])
    one, two = made.wait(60)
    assert one == two and len(one) == service.info.hidden_size and made.tokens > 6
    assert sum(value * value for value in one) == pytest.approx(1, abs=1e-5)


def test_the_poolings_differ_and_the_first_is_the_checkpoints(service):
    mean, last, default = (service.embed(["once upon a time"], pooling).wait(60)[0] for pooling in ("mean", "last", None))
    assert mean == default and mean != last


def test_what_is_too_long_or_unknown_is_refused(service):
    with pytest.raises(ContextExceeded, match="1025 tokens.*1024") as error:
        service.embed(["a", [5] * 1025])
    assert error.value.param == "input[1]"
    with pytest.raises(BadRequest, match="token 1000000") as error:
        service.embed([[1_000_000]])
    assert error.value.param == "input[0]"


def test_the_pooling_that_a_checkpoint_names(tmp_path):
    assert pooling_of(tmp_path) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    config = tmp_path / "1_Pooling" / "config.json"
    for text, expected in [
        (json.dumps({"pooling_mode_lasttoken": True}), "last"),
        (json.dumps({"pooling_mode_mean_tokens": True}), "mean"),
        ("{", "mean"),
        ("[]", "mean"),
    ]:
        config.write_text(text)
        assert pooling_of(tmp_path) == expected
