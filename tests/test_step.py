"""The traced decode step computes what the step built anew computes."""

import checkpoints
import mlx.core as mx
import pytest
from runner import Run, run
from smelt import models
from smelt.engine import step
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.step import TracedStep

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(300)]
CASES = [
    (40, {"temperature": 0.0}),
    (150, {"temperature": 0.9, "top_p": 0.9, "top_logprobs": 2}),
    (7, {"temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.5}),
    (63, {"temperature": 1.1, "top_k": 12, "logit_bias": {3: 2.0}}),
]


def tokens(model, traced, monkeypatch):
    model.forget()
    monkeypatch.setattr(TracedStep, "worthwhile", traced)
    runs = [Run(PROMPT[:n], 90 + i, seed=i, **fields) for i, (n, fields) in enumerate(CASES)]
    run(Scheduler(model, Limits(rows=3, chunk=64)), *runs)
    return [r.tokens for r in runs]


@pytest.mark.parametrize("kind", ["llama", "mistral_sliding", "gemma3", "qwen3"])
def test_traced_and_built_steps_draw_the_same(tmp_path, kind, monkeypatch):
    model = models.load(checkpoints.make(tmp_path, kind))
    assert tokens(model, True, monkeypatch) == tokens(model, False, monkeypatch)


def test_few_traces_serve_many_steps(tmp_path, monkeypatch):
    model = models.load(checkpoints.make(tmp_path, "llama"))
    traces = []
    original = TracedStep.traced
    monkeypatch.setattr(TracedStep, "traced", staticmethod(lambda *args: traces.append(1) or original(*args)))
    monkeypatch.setattr(TracedStep, "worthwhile", True)
    model.forget()
    run(Scheduler(model, Limits()), Run(PROMPT[:10], 200))
    assert len(traces) <= 6  # one for each power of two of pages, and of pool sizes on the way


def test_traces_do_not_grow_without_end(tmp_path, monkeypatch):
    model = models.load(checkpoints.make(tmp_path, "llama"))
    monkeypatch.setattr(TracedStep, "worthwhile", True)
    monkeypatch.setattr(step, "KEPT", 3)
    scheduler = Scheduler(model, Limits(rows=1))
    for top_k in (1, 2, 3, 4, 5, 2):
        run(scheduler, Run(PROMPT[:10], 3, temperature=1.0, top_k=top_k))
    assert [plan.top_k for plan, *_ in scheduler.traced.functions] == [4, 5, 2]


def test_a_model_that_needs_the_host_is_not_traced(tmp_path):
    model = models.load(checkpoints.make(tmp_path, "llama_dynamic"))
    assert not model.traceable
    assert models.load(checkpoints.make(tmp_path / "other", "llama")).traceable


def test_pools_are_written_in_place(tmp_path, monkeypatch):
    """A step must not copy the pools: the peak of memory would show them twice."""
    model = models.load(checkpoints.make(tmp_path, "llama", num_key_value_heads=4, head_dim=64))
    monkeypatch.setattr(TracedStep, "worthwhile", True)
    scheduler = Scheduler(model, Limits())
    one = Run(PROMPT[:10], 400)
    one.sequence.max_tokens = 40_000
    scheduler.add(one.sequence)
    for _ in range(20):
        scheduler.tick()
    row = scheduler.running[0].row
    scheduler.memory.paging[None].place([(row.extents[None], row.length)], 30_000)  # a large pool
    for _ in range(3):
        scheduler.tick()
    pools = scheduler.memory.nbytes
    assert pools > 30 << 20
    mx.reset_peak_memory()
    base = mx.get_active_memory()
    for _ in range(3):
        scheduler.tick()
    assert mx.get_peak_memory() - base < pools / 3


def test_a_recurrent_state_is_traced_after_a_draft_was_kept(tmp_path, monkeypatch):
    import checkpoints_lfm2

    model = models.load(checkpoints_lfm2.make(tmp_path, "lfm2"))
    monkeypatch.setattr(TracedStep, "worthwhile", True)
    scheduler, one = Scheduler(model, Limits()), Run(PROMPT[:10], 8)
    other = scheduler.memory.open()
    mx.eval(model(mx.array([PROMPT[:4]]), scheduler.memory.step([other], 4, keep=True)))
    run(scheduler, one)
    assert len(one.tokens) == 8
