"""Gemma 4's drafter against transformers, and at work: its drafts never show in the answer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import checkpoints
import checkpoints_gemma4
import checkpoints_gemma4_assistant as assistants
import mlx.core as mx
import numpy as np
import pytest
import tiny
from checkpoints_gemma4 import FULL, SLIDING
from msl.accuracy import kernels_run
from parity import close
from planted import lookup
from runner import Run, run, until_drawn
from smelt import models
from smelt.engine.errors import BadRequest
from smelt.engine.events import Text
from smelt.engine.options import Options
from smelt.engine.request import Request
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.service import Service
from smelt.engine.speculation import DRAFTER, TRIAL, Speculation
from smelt.engine.step import TracedStep
from smelt.kernels import launch
from smelt.models import gemma4_assistant, source
from smelt.models.checkpoint import CheckpointError
from test_scheduler import MIXED, PROMPT, fresh, syncs  # noqa: F401
from test_scheduler_guided import Stairs

REFERENCE = np.load(Path(__file__).parent / "reference" / "drafts_gemma4.npz")
KINDS = list(assistants.CONFIGS)
CASES = [(PROMPT[: 20 + 23 * i], 24 + i, i, fields) for i, fields in enumerate(MIXED)]


def pair(folder, kind, block=None, **changes):
    target = models.load(checkpoints_gemma4.make(folder / "target", kind))
    return replace(target, drafter=gemma4_assistant.load(assistants.make(folder / "drafter", kind, **changes), target, block))


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_equal_transformers(tmp_path, kind):
    model = pair(tmp_path, kind)
    memory, expected = model.memory(), REFERENCE[f"{kind}.tokens"].tolist()
    row = memory.open()
    hidden = model(mx.array([PROMPT[:20]]), memory.step([row], 20))[:, -1:]
    newest = mx.argmax(model.logits(hidden)[:, 0], axis=-1)
    assert [newest.item(), *model.drafter(newest, hidden, memory.behind([row]), 3)[0].tolist()] == expected
    hidden = model.normed(hidden)
    for token, theirs in zip(expected, REFERENCE[f"{kind}.hidden"], strict=False):
        _, hidden = model.drafter.forward(mx.array([token]), hidden, memory.behind([row]))
        assert close(hidden[0, 0], mx.array(theirs), 1e-4)  # what the step before rounded is in it
    assert row.length == 20


def plain(model, guided=lambda i: False):
    runs = [Run(p, n, seed=s, guide=Stairs() if guided(i) else None, **f) for i, (p, n, s, f) in enumerate(CASES)]
    for one in runs:
        run(fresh(model), one)
    return [one.tokens for one in runs]


class Oracle:
    """In the drafter's place: knows the one answer, and is wrong now and then."""

    def __init__(self, prompt, answer, block, wrong_every=0):
        self.start, self.answer, self.block, self.wrong_every, self.calls = len(prompt), answer, block, wrong_every, 0

    arrays, pays = (), True

    def __call__(self, tokens, hidden, step, count):
        self.calls += 1
        first = step.position.item() - self.start + 1
        drafts = (self.answer + [0] * count)[first : first + count]
        if self.wrong_every and self.calls % self.wrong_every == 0:
            drafts[self.calls % count] = (drafts[self.calls % count] + 1) % 320
        return mx.array([drafts], mx.uint32)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_drafts_changes_nothing(tmp_path, kind, traced, monkeypatch):
    """Garbage, that is: the weights are random. Rows of the drafter beside rows of lookup, with grammars, with none."""
    if traced and kind != "gemma4_dense":
        pytest.skip("one kind is traced: it takes the CPU long")
    model = pair(tmp_path, kind, block=4)
    expected = plain(model, lambda i: i % 3 == 2)
    monkeypatch.setattr(TracedStep, "worthwhile", traced)
    for rows in (1, 3):
        runs = []
        for i, (prompt, count, seed, fields) in enumerate(CASES):
            made = lookup(prompt) if i == 1 else None if i == 4 else Speculation(lookup(prompt).lookup, 5, drafter=True)
            runs.append(Run(prompt, count, seed=seed, guide=Stairs() if i % 3 == 2 else None, speculation=made, **fields))
        run(fresh(model, rows=rows), *runs)
        assert [r.tokens for r in runs] == expected
        assert all(runs[i].sequence.paths.drafted for i in (0, 3))
        assert not runs[4].sequence.paths.drafted


@pytest.mark.parametrize("wrong_every", [0, 2])
@pytest.mark.parametrize("case", range(4))
def test_right_drafts_save_steps(tmp_path, wrong_every, case):
    prompt, _, seed, fields = CASES[case]
    model = pair(tmp_path, "gemma4_dense")
    one = Run(prompt, 60, seed=seed, **fields)
    run(fresh(model), one)
    model = replace(model, drafter=Oracle(prompt, one.tokens, 5, wrong_every))
    found, scheduler = Run(prompt, 60, seed=seed, speculation=Speculation(None, drafter=True), **fields), fresh(model)
    run(scheduler, found)
    paths = found.sequence.paths
    assert found.tokens == one.tokens and paths.speculation == "drafter" and paths.accepted == 59 - scheduler.steps
    assert scheduler.steps < (25 if wrong_every else 16)


def test_it_goes_on_from_the_last_token_that_counts(tmp_path):
    """After a prompt, a plain step, and a draft that was right, partly right and wrong: it is given what a cold run has."""
    model = pair(tmp_path, "gemma4_small", block=4)
    prompt = PROMPT[:37]
    one = Run(prompt, 40)
    run(fresh(model), one)
    text, real, given = prompt + one.tokens, model.drafter, []
    oracle = Oracle(prompt, one.tokens, 4, wrong_every=2)

    class Watched(Oracle):
        def __call__(self, tokens, hidden, step, count):
            given.append((step.position.item(), tokens.item(), hidden, real(tokens, hidden, step, 3)[0].tolist()))
            return super().__call__(tokens, hidden, step, count)

    watched = Watched(prompt, one.tokens, oracle.block, oracle.wrong_every)
    run(fresh(replace(model, drafter=watched)), Run(prompt, 40, speculation=Speculation(None, drafter=True)))
    assert len(given) > 10
    for position, token, hidden, drafts in given:
        memory = model.memory()
        row = memory.open()
        cold = model(mx.array([text[:position]]), memory.step([row], position))[:, -1:]
        assert token == text[position] and close(hidden, cold, 2e-5)
        assert drafts == real(mx.array([token]), cold, memory.behind([row]), 3)[0].tolist()
        model.forget()


def test_a_drafter_that_does_not_pay_leaves_it_to_the_lookup(tmp_path):
    model = pair(tmp_path, "gemma4_dense", block=4)
    prompt = [5, 6, 7, 8] * 9
    found = Run(prompt, 60, speculation=Speculation(lookup(prompt, size=3).lookup, 5, drafter=True), temperature=3.0)
    scheduler = fresh(model)
    run(scheduler, found)
    gate = found.sequence.speculation.gates[DRAFTER]
    assert not gate.on and gate.tried == 0 and found.sequence.paths.drafts >= TRIAL and not scheduler.assistant.hidden


@pytest.mark.parametrize("fields", MIXED, ids=str)
def test_a_step_waits_once(tmp_path, syncs, fields, monkeypatch):  # noqa: F811
    """The drafts are read with the draws; nothing else is waited for."""
    model = pair(tmp_path, "gemma4_dense", block=4)
    monkeypatch.setattr("smelt.engine.speculation.LEAST_GAIN", 0.0)
    runs = [Run(PROMPT[: 20 + i], 200, seed=i, speculation=Speculation(None, drafter=True), **fields) for i in range(2)]
    scheduler = fresh(model)
    until_drawn(scheduler, runs, 3)
    for _ in range(10):
        syncs.update(read=0, other=0, submit=0)
        scheduler.tick()
        assert syncs == {"read": 1, "other": 0, "submit": 1} and scheduler.pending[-1].round.made is not None


def test_rows_that_leave_and_come_back(tmp_path):
    """Cancelled while their drafts are on the way; dropped for want of memory, and read again."""
    model = pair(tmp_path, "gemma4_small", block=4)
    expected = plain(model)
    scheduler = Scheduler(model, Limits(rows=4, chunk=16, state_bytes=3 * model.memory().row_bytes(120)))
    leaving = Run(PROMPT[:30], 1000, speculation=Speculation(None, drafter=True))
    runs = [Run(p, n, seed=s, speculation=Speculation(None, drafter=True), **f) for p, n, s, f in CASES]
    scheduler.add(leaving.sequence)
    while not any(pending.round for pending in scheduler.pending):
        scheduler.tick()
    leaving.sequence.cancelled = True
    run(scheduler, *runs)
    assert leaving.wait().end.reason == "cancelled" and [r.tokens for r in runs] == expected
    assert not scheduler.assistant.hidden


def test_on_kernels_it_reads_the_targets_pages(tmp_path):
    """Written in place; behind a rejected draft, which is still there, and beyond the window."""
    wide = {"head_dim": 32, "global_head_dim": 64}
    target = models.load(checkpoints_gemma4.make(tmp_path / "target", "gemma4_dense", **wide))
    drafter = gemma4_assistant.load(assistants.make(tmp_path / "drafter", "gemma4_dense", text=wide), target)

    def drafted():
        target.forget()
        memory, found = target.memory(), []
        rows = [memory.open(), memory.open()]
        for row, count in zip(rows, (40, 9), strict=True):
            hidden = target(mx.array([PROMPT[:count]]), memory.step([row], count))[:, -1:]
            found.append(drafter(mx.array([7]), hidden, memory.behind([row]), 2))
        hidden = target(mx.array([[5, 6, 7]] * 2), memory.step(rows, 3, keep=True))
        for row in rows:
            memory.rewind(row, 2)
        found.append(drafter(mx.array([3, 4]), hidden[:, :1], memory.behind(rows), 2))
        mx.eval(found)
        return [drafts.tolist() for drafts in found]

    plain = drafted()
    with kernels_run():
        assert drafted() == plain
        assert any(way.op == "attention" and way.way == "kernel" and way.calls for way in launch.report())


@pytest.mark.parametrize("kind", ["gemma4_small", "gemma4_dense"])
def test_packed_drafters(tmp_path, kind):
    spec = {"group_size": 32, "bits": 8, "mode": "affine"}
    whole, packed = (pair(tmp_path / name, kind, **more) for name, more in (("whole", {}), ("packed", {"quantization": spec})))
    assert packed.drafter.pre.packed and packed.drafter.head.packed
    found = []
    for model in (whole, packed):
        memory = model.memory()
        row = memory.open()
        hidden = model(mx.array([PROMPT[:20]]), memory.step([row], 20))[:, -1:]
        found.append(model.drafter.forward(mx.array([3]), model.normed(hidden), memory.behind([row]))[1])
    assert mx.sqrt(mx.mean((found[1] - found[0]) ** 2)) < 0.05 * mx.sqrt(mx.mean(found[0] ** 2))


def test_tokens_of_a_round_by_the_target():
    class Target:
        def __init__(self, count):
            block = type("Dense", (), {"mlp": None})
            self.blocks = [block] * count

    assert [gemma4_assistant.block_of(Target(count)) for count in (30, 35, 42, 60)] == [2, 2, 4, 8]


def test_the_mixture_has_a_block_of_its_own(tmp_path):
    assert pair(tmp_path, "gemma4_mixture").drafter.block == gemma4_assistant.BLOCK_OF_MIXTURE == 4


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"backbone_hidden_size": 128}, "backbone_hidden_size is 128 wide, the model's is 96"),
        ({"text": {"vocab_size": 384}}, "vocabulary is 384 tokens, the model's is 320"),
        ({"text": {"head_dim": 32}}, "heads that is 32 wide, the model's is 16"),
        ({"text": {"num_attention_heads": 3}}, "3 heads cannot share the 2 heads"),
        ({"model_type": "gemma4"}, "of the type 'gemma4'; a drafter is of the type gemma4_assistant"),
        ({"num_centroids": 40, "use_ordered_embeddings": False}, "left over: masked_embedding"),
    ],
)
def test_a_drafter_of_another_model_is_refused(tmp_path, changes, words):
    target = models.load(checkpoints_gemma4.make(tmp_path / "target", "gemma4_dense"))
    folder = assistants.make(tmp_path / "drafter", "gemma4_dense")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= changes.pop("text", {})
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=words):
        gemma4_assistant.load(folder, target)


def test_a_drafter_is_no_model_to_be_served(tmp_path):
    folder = text_of(assistants.make(tmp_path, "gemma4_dense"))
    with pytest.raises(CheckpointError, match="gemma4_assistant is a drafter: serve the model that it drafts for"):
        models.load(folder)
    found = source.inspect("d", folder, "folder")
    assert not found.supported and "it is a drafter" in found.reason


def test_targets_that_it_cannot_serve_are_named(tmp_path):
    folder = assistants.make(tmp_path / "drafter", "gemma4_dense")
    with pytest.raises(CheckpointError, match="the drafter is Gemma 4's, and the model is not"):
        gemma4_assistant.load(folder, models.load(checkpoints.make(tmp_path / "llama", "llama")))
    full = checkpoints_gemma4.make(tmp_path / "full", "gemma4_dense", layer_types=[FULL] * 4)
    with pytest.raises(CheckpointError, match=f"needs {SLIDING.partition('_')[0]} layers; the model has none"):
        gemma4_assistant.load(folder, models.load(full))


# In a service


def text_of(folder):
    """The built-in tokenizer beside a checkpoint, and the vocabulary that goes with it."""
    for name in tiny.TEXT_FILES:
        shutil.copy(tiny.BUILTIN / name, folder / name)
    return folder


def served(tmp_path, kind, drafter=True, **options):
    vocab = {"vocab_size": 4096, "vocab_size_per_layer_input": 4096}
    target = text_of(checkpoints_gemma4.make(tmp_path / f"target-{kind}", kind, **vocab))
    made = assistants.make(tmp_path / f"drafter-{kind}", kind, text={"vocab_size": 4096})
    service = Service(Options(model=str(target), drafter=str(made) if drafter else None, warmup=False, **options))
    service.start()
    service.wait_ready(60)
    return service


def answered(service, **fields):
    request = Request(messages=[{"role": "user", "content": "Hi"}], max_tokens=20, sampling={"temperature": 0.0}, **fields)
    events = list(service.submit(request))
    return "".join(e.text for e in events if isinstance(e, Text)), events[-1].timings.paths.speculation


@pytest.mark.parametrize("kind, default", [("gemma4_small", "drafter"), ("gemma4_mixture", None)])
def test_a_request_says_whether_it_drafts(tmp_path, kind, default):
    """Unasked it does, but for a mixture."""
    service = served(tmp_path, kind, draft_block=3)
    try:
        found = {said: answered(service, enable_drafter=said, enable_pld=False) for said in (None, True, False)}
        assert {said: by for said, (_, by) in found.items()} == {None: default, True: "drafter", False: None}
        assert len({text for text, _ in found.values()}) == 1 and service.engine.model.drafter.block == 3
    finally:
        service.close()


def test_without_a_drafter_none_can_be_asked_for(tmp_path):
    service = served(tmp_path, "gemma4_small", drafter=False)
    try:
        with pytest.raises(BadRequest, match="there is no drafting model: serve with --drafter") as refused:
            answered(service, enable_drafter=True)
        assert refused.value.param == "enable_drafter" and answered(service, enable_drafter=False, enable_pld=False)[1] is None
    finally:
        service.close()


def test_a_drafter_that_does_not_fit_ends_the_start(tmp_path):
    with pytest.raises(CheckpointError, match="vocabulary is 320 tokens"):
        target = tmp_path / "target"
        text_of(checkpoints_gemma4.make(target, "gemma4_small", vocab_size=4096, vocab_size_per_layer_input=4096))
        service = Service(Options(model=str(target), drafter=str(assistants.make(tmp_path / "d", "gemma4_small"))))
        service.start()
        service.wait_ready(60)
