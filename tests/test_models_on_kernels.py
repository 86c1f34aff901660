"""Whole models whose every op has a kernel for its shapes, on the emulator or this machine's GPU."""

import checkpoints_lfm2
import checkpoints_nemotron_h
import checkpoints_qwen
import checkpoints_qwen3_next
import mlx.core as mx
import pytest
from msl.accuracy import kernels_run
from msl.inputs import handed_over
from parity import PROMPT, close, goes_back, ours_logits, rows_stand_alone
from runner import Run, launches_of_traced_steps
from smelt import models
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.step import TracedStep
from smelt.kernels import experts_kernel, launch, linear_kernel, router_kernel
from smelt.models import gains

SPEC = {"group_size": 32, "bits": 4, "mode": "affine"}
ATTENTION, MIXTURE = {"linear", "self_attention"}, {"router", "experts"}
WIDE = {"moe_intermediate_size": 64, "quantization": SPEC}
MODELS = {  # name: (its checkpoint, the ops that it is made of)
    "qwen3_moe": (checkpoints_qwen, "qwen3_moe", WIDE, ATTENTION | MIXTURE),
    "qwen3_next": (checkpoints_qwen3_next, "qwen3_next", {**WIDE, "linear_key_head_dim": 32, "linear_value_head_dim": 32},
                   ATTENTION | MIXTURE | {"short_conv", "gated_delta"}),
    "nemotron_h": (checkpoints_nemotron_h, "nemotron_h_moe",
                   {**WIDE, "mamba_head_dim": 16, "ssm_state_size": 32, "moe_shared_expert_intermediate_size": 64},
                   ATTENTION | MIXTURE | {"short_conv", "mamba2", "gated_group_norm"}),
    "lfm2": (checkpoints_lfm2, "lfm2_moe", {**WIDE, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 160},
             ATTENTION | MIXTURE | {"short_conv"}),
}  # fmt: skip


def load(folder, name):
    module, kind, changes, _ = MODELS[name]
    return models.load(module.make(folder, kind, **changes))


def fed(model, memory, rows, tokens, keep=False):
    """Logits of every token, [B, T, V]."""
    step = memory.step(rows, len(tokens[0]), keep=keep)
    logits = model.logits(model(mx.array(tokens), step))
    mx.eval(logits)
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_every_op_of_a_decode_step_is_a_kernel(tmp_path, name, monkeypatch):
    model = load(tmp_path, name)
    monkeypatch.setattr(launch, "_ways", {})
    with kernels_run():
        ours_logits(model, PROMPT[:3])
    assert {(way.op, way.way) for way in launch.report() if way.calls} >= {(op, "kernel") for op in MODELS[name][-1]}
    assert not [way for way in launch._ways.values() if way.way == "reference"]


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_references(tmp_path, name):
    model = load(tmp_path, name)
    plain = ours_logits(model, PROMPT[:20], (8, 1))[0]
    with kernels_run("random"):
        assert close(ours_logits(model, PROMPT[:20], (8, 1))[0], plain, 2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_has_the_same_bits_decoded_verified_and_in_a_batch(tmp_path, name):
    """Two rows of different lengths: four tokens at once, or one by one and each row alone."""
    model, lengths = load(tmp_path, name), (11, 6)
    alone, together = [], []
    with kernels_run():
        for length in lengths:
            memory = model.memory()
            row = memory.open()
            fed(model, memory, [row], [PROMPT[:length]])
            alone.append([fed(model, memory, [row], [[token]])[0, 0] for token in PROMPT[length : length + 6]])
            model.forget()
        memory = model.memory()
        rows = [memory.open() for _ in lengths]
        for row, length in zip(rows, lengths, strict=True):
            fed(model, memory, [row], [PROMPT[:length]])
        drafted = [PROMPT[n : n + 3] + [9] for n in lengths]  # the last is rejected
        together.append(fed(model, memory, rows, drafted, keep=True)[:, :3])
        for row in rows:
            memory.rewind(row, 1)
        for t in range(3, 6):
            order = rows if t % 2 else rows[::-1]  # slots that follow one another, and that do not
            logits = fed(model, memory, order, [[PROMPT[row.length]] for row in order])
            together.append(logits if t % 2 else logits[::-1])
    together = mx.concatenate(together, axis=1)
    for row in range(2):
        for t in range(6):
            assert mx.array_equal(together[row, t], alone[row][t]), f"row {row}, token {t}"


@pytest.mark.parametrize("name", ["qwen3_next", "nemotron_h", "lfm2"])
def test_going_back_restoring_and_batches(tmp_path, name):
    model = load(tmp_path, name)
    with kernels_run():
        goes_back(model, 3)
        model.forget()
        rows_stand_alone(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_decode_step_is_launched_while_it_is_traced_and_then_no_more(tmp_path, name, monkeypatch):
    model = load(tmp_path, name)
    with launches_of_traced_steps(monkeypatch) as launched:
        scheduler = Scheduler(model, Limits())
        one = Run(PROMPT[:8], 12)
        scheduler.add(one.sequence)
        counts = []
        while not scheduler.idle:
            before = len(launched)
            scheduler.tick()
            counts.append(len(launched) - before)
    kernels = MODELS[name][-1] - {"attention", "linear"}
    assert kernels <= set(launched) and len(one.wait().tokens) == 12
    assert counts[0] > 0 and sum(count > 0 for count in counts) == 2 and counts[-1] == 0  # the prompt, and one trace


def handed_over_in_traced_steps(model, monkeypatch) -> list:
    """What `handed_over` finds of a short answer."""
    monkeypatch.setattr(TracedStep, "worthwhile", True)
    with handed_over() as launched:
        scheduler = Scheduler(model, Limits())
        scheduler.add(Run(PROMPT[:8], 4).sequence)
        while not scheduler.idle:
            scheduler.tick()
    return launched


@pytest.mark.parametrize("name", MODELS)
def test_a_traced_step_launches_with_the_arrays_that_were_read(tmp_path, name, monkeypatch):
    """Nothing is cut from scales or biases in a step."""
    model = load(tmp_path, name)
    read = {id(array) for group in model.weights() for array in group}
    launched = handed_over_in_traced_steps(model, monkeypatch)
    packed = [found for kernel, found in launched if found.get("scales") is not None]
    assert len(packed) > 4 * len(model.blocks) and all(id(a[name]) in read for a in packed for name in ("w", "scales"))


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_next", "lfm2"])
def test_the_gains_of_queries_and_keys_are_one_array_that_was_read(tmp_path, name, monkeypatch):
    model = load(tmp_path, name)
    read = {id(array) for group in model.weights() for array in group}
    found = [given["gains"] for _, given in handed_over_in_traced_steps(model, monkeypatch) if "gains" in given]
    assert found and all(id(gains) in read and len(gains) == 2 for gains in found)


@pytest.mark.parametrize("name", MODELS)
def test_a_traced_step_hands_no_array_over_twice(tmp_path, name, monkeypatch):
    """Each input of each launch costs the host time; so many a mixture has."""
    launched = handed_over_in_traced_steps(load(tmp_path, name), monkeypatch)
    assert not [kernel.name for kernel, found in launched if len({id(x) for x in found.values()}) < len(found)]
    counts = {kernel: set() for kernel in (router_kernel.KERNEL, experts_kernel.UP, experts_kernel.DOWN)}
    for kernel, found in launched:
        counts.get(kernel, set()).add(len(found))
    expected = {"qwen3_moe": (1, 4, 5), "qwen3_next": (1, 4, 7), "nemotron_h": (2, 4, 5), "lfm2": (2, 4, 5)}[name]
    assert counts == {kernel: {count} for kernel, count in zip(counts, expected, strict=True)}


@pytest.mark.parametrize("name", MODELS)
def test_a_norm_before_a_packed_matrix_is_no_input(tmp_path, name, monkeypatch):
    """Behind its scales the gain costs no input of its own, and every launch is given what it is given otherwise."""
    model = load(tmp_path, name)
    monkeypatch.setattr(gains, "with_gain", lambda weight, norm: weight)
    ours, plain = (handed_over_in_traced_steps(each, monkeypatch) for each in (model, load(tmp_path, name)))
    normed = (*linear_kernel.KERNELS.values(), experts_kernel.UP)
    assert [kernel for kernel, _ in ours] == [kernel for kernel, _ in plain]
    for (kernel, found), (_, before) in zip(ours, plain, strict=True):
        packed = kernel in normed and "scales" in before
        assert set(found) == set(before) - ({"gain"} if packed else set())
    assert sum(len(found) for _, found in plain) - sum(len(found) for _, found in ours) > 2 * len(model.blocks)


def test_who_writes_to_pages_next_waits_for_a_traced_step(tmp_path, monkeypatch):
    """A prompt may get the pages of a row that has ended, which the step that was submitted meanwhile writes to."""
    model = load(tmp_path, "qwen3_moe")
    given = []

    def noting(kernel, inputs, outputs, template, groups, threads):
        if kernel.name == "pages_append":
            given.append(inputs[-1])
        return [mx.ones(shape, dtype) for shape, dtype in outputs]

    monkeypatch.setattr(TracedStep, "worthwhile", True)
    with launch.through(noting):
        scheduler = Scheduler(model, Limits())
        scheduler.pace.rate = 1e9  # a tick reads a whole prompt
        scheduler.add(Run(PROMPT[:12], 100).sequence)
        for _ in range(3):
            scheduler.tick()
        scheduler.add(Run(PROMPT[:11], 100).sequence)
        given.clear()
        scheduler.decode()
        scheduler.prefill()
        step = scheduler.pending[0]
    assert len(given) == len(model.blocks)
    assert all(mx.array_equal(after, step.arrays[0].view(mx.uint8)) for after in given)


@pytest.mark.parametrize("name", ["qwen3_moe", "lfm2"])
def test_a_row_goes_on_in_pages_that_another_writes_to(tmp_path, name):
    """The second has the first one's pages, of which it copies a part of the last, and both decode together."""
    model, first, second = load(tmp_path, name), [*PROMPT, *PROMPT[:20]], [*PROMPT, *PROMPT[:10], 7, 8, 9]

    def answers(entries):
        model.forget()
        scheduler, runs = Scheduler(model, Limits(prefix_entries=entries)), [Run(first, 6), Run(second, 4)]
        runs[0].sequence.borders = runs[1].sequence.borders = (len(PROMPT) + 10,)
        for one in runs:
            scheduler.add(one.sequence)
        while not scheduler.idle:
            scheduler.tick()
        return [one.sequence.generated for one in runs], runs[1].sequence.cached

    with kernels_run():
        warm, cached = answers(4)
        cold, none = answers(0)
    assert warm == cold and (cached, none) == (len(PROMPT) + 10, 0)
