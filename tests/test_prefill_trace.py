"""--prefill-trace: the parts of a prefill, their times, and that nothing else changes."""

import logging
import re
import time
from dataclasses import replace

import checkpoints
import checkpoints_gemma
import checkpoints_gemma4
import checkpoints_lfm2
import checkpoints_nemotron_h
import checkpoints_qwen
import checkpoints_qwen3_next
import mlx.core as mx
import pytest
from runner import Run, run
from smelt import models
from smelt.engine import prefill_trace
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.sequence import Prefilled

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(150)]
MODULES = (
    checkpoints_gemma,
    checkpoints_gemma4,
    checkpoints_lfm2,
    checkpoints_nemotron_h,
    checkpoints_qwen,
    checkpoints_qwen3_next,
)
KINDS = [(module, kind) for module in MODULES for kind in module.CONFIGS]


@pytest.fixture
def model(tmp_path):
    return models.load(checkpoints.make(tmp_path, "llama"))


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == prefill_trace.__name__]


def traced(model, *runs, **limits):
    run(Scheduler(model, Limits(trace=True, **limits)), *runs)
    return runs[0].tokens


def seconds(line):
    return {name: float(value) for name, value in re.findall(r"(\w+) (-?[\d.]+)(?= \+|$)", line.partition(" = ")[2])}


def total(line):
    return float(re.search(r"([\d.]+) ms", line)[1])


def test_every_layer_and_part_is_told_once_a_prompt(model, caplog):
    traced(model, Run(PROMPT), chunk=64)
    head, *layers = lines(caplog)
    assert head.startswith("prefill of 150 tokens in 3 chunks: ")
    assert list(seconds(head)) == ["embedding", "layers", "head", "draw"]
    assert [line.split(":")[0] for line in layers] == [f"  layer {i}" for i in range(len(model.blocks))]
    for line in layers:
        assert list(seconds(line)) == ["mixer", "mlp", "rest"]
        assert sum(seconds(line).values()) == pytest.approx(total(line), abs=0.02)
    assert sum(map(total, layers)) == pytest.approx(seconds(head)["layers"], abs=0.02 * len(layers))


@pytest.mark.parametrize(("module", "kind"), KINDS, ids=[kind for _, kind in KINDS])
def test_the_answer_is_the_same_with_every_kind_of_block(module, kind, tmp_path, caplog):
    model = models.load(module.make(tmp_path, kind))
    plain = Run(PROMPT)
    run(Scheduler(model, Limits(chunk=64)), plain)
    model.forget()
    assert traced(model, Run(PROMPT), chunk=64) == plain.tokens
    assert len(lines(caplog)) == 1 + len(model.blocks)


def test_a_part_takes_the_time_that_it_takes(model, caplog):
    """The slow part is the one that is shown as slow: what is queued by one is not waited for in another."""

    class Slow:
        def __init__(self, part):
            self.part = part

        def __call__(self, *args, **kwargs):
            time.sleep(0.05)
            return self.part(*args, **kwargs)

    blocks = list(model.blocks)
    blocks[1] = replace(blocks[1], mlp=Slow(blocks[1].mlp))
    traced(replace(model, blocks=blocks), Run(PROMPT[:20]), chunk=64)
    head, *layers = lines(caplog)
    mlps = [seconds(line)["mlp"] for line in layers]
    assert mlps[1] >= 50 and mlps[1] == max(mlps) and total(head) >= 50


def test_work_is_computed_in_the_part_that_asks_for_it(model, monkeypatch):
    """Lazy arrays would put the time of one part into the next that is waited for: each is there when it is noted."""
    seen = []
    since = prefill_trace.PrefillTrace.since

    def checked(self, arrays):
        took = since(self, arrays)
        begun = time.monotonic()
        mx.eval(arrays)  # nothing is left to do
        seen.append(time.monotonic() - begun)
        return took

    monkeypatch.setattr(prefill_trace.PrefillTrace, "since", checked)
    traced(model, Run(PROMPT), chunk=64)
    assert len(seen) == 3 * (1 + len(model.blocks)) + 2 and max(seen) < 0.01


def test_several_prompts_and_those_given_up_are_kept_apart(model, caplog):
    scheduler = Scheduler(model, Limits(trace=True, chunk=32))
    first, second = Run(PROMPT), Run(PROMPT[:40])
    put = first.sequence.put

    def leave(item):
        put(item)
        first.sequence.cancelled = isinstance(item, Prefilled) and item.done > 0

    first.sequence.put = leave
    run(scheduler, first, second)
    heads = [line for line in lines(caplog) if line.startswith("prefill")]
    assert heads[0].startswith("prefill of 40 tokens in 2 chunks") and len(heads) == 1


def test_without_the_flag_nothing_is_timed(model, caplog):
    run(Scheduler(model, Limits()), Run(PROMPT))
    assert not lines(caplog)


def test_it_is_told_whatever_the_log_level_is(model, monkeypatch):
    told = []
    handler = logging.Handler()
    handler.emit = told.append
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.ERROR)
    root.addHandler(handler)
    try:
        traced(model, Run(PROMPT[:20]))
    finally:
        root.removeHandler(handler)
    assert len(told) == 1 + len(model.blocks)
