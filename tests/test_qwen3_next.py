"""Qwen 3 Next and 3.5 against transformers and mlx-lm."""

import logging
from pathlib import Path

import checkpoints_qwen3_next
import mlx.core as mx
import numpy as np
import pytest
from parity import (
    NEW_TOKENS,
    PROMPT,
    QUANTIZATIONS,
    close,
    goes_back,
    ours_greedy,
    ours_logits,
    reference,
    rows_stand_alone,
    watch_types,
)
from runner import Run, run
from smelt import models
from smelt.bench import checkpoints
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.step import TracedStep
from smelt.kernels import self_attention
from smelt.models import delta_net, moe, parts
from smelt.models.checkpoint import CheckpointError

LOGITS = np.load(Path(__file__).parent / "reference" / "logits_qwen3_next.npz")
KINDS = list(checkpoints_qwen3_next.CONFIGS)
SHORT = ["qwen3_next", "qwen3_next_odd", "qwen3_5", "qwen3_5_moe"]  # the others are the same inside of a bigger one


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(tmp_path, kind):
    model = models.load(checkpoints_qwen3_next.make(tmp_path, kind))
    memory = model.memory()
    hidden = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)))
    assert close(model.logits(hidden[:, -8:])[0], mx.array(LOGITS[kind]), 2e-5)


# mlx-lm knows neither layer_types nor the model_type of a text part alone.
KNOWN_TO_MLX_LM = ["qwen3_next", "qwen3_5_whole", "qwen3_5_moe_whole"]


@pytest.mark.parametrize("kind", KNOWN_TO_MLX_LM)
def test_float32_equals_mlx_lm(tmp_path, kind):
    folder = checkpoints_qwen3_next.make(tmp_path, kind)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


WIDE = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 192, "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64, "linear_key_head_dim": 32, "linear_value_head_dim": 32}  # fmt: skip


def wide(kind):
    mixed = "moe" in kind or "next" in kind
    return {name: size for name, size in WIDE.items() if mixed or not name.startswith(("moe", "shared"))}


@pytest.mark.parametrize(
    "kind, spec",
    [("qwen3_next", QUANTIZATIONS[2]), ("qwen3_5_whole", QUANTIZATIONS[6])]
    + [("qwen3_5_moe_whole", spec) for spec in QUANTIZATIONS],
    ids=str,
)
def test_quantised_equals_mlx_lm(tmp_path, kind, spec):
    folder = checkpoints_qwen3_next.make(tmp_path, kind, quantization=spec, **wide(kind))
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


def test_mixed_quantisation(tmp_path):
    """Small projections left plain, as mixed checkpoints do, and q packed otherwise than k and v."""
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    overrides = {
        **{f"model.layers.{i}.linear_attn.in_proj_{part}": False for i in range(3) for part in "ab"},
        "model.layers.3.self_attn.q_proj": {"group_size": 32, "bits": 8},
        "model.layers.3.mlp.gate": {"group_size": 64, "bits": 8},
        "model.layers.3.mlp.shared_expert_gate": {"group_size": 64, "bits": 8},
    }
    folder = checkpoints_qwen3_next.make(tmp_path, "qwen3_5_moe_whole", quantization=spec, overrides=overrides, **WIDE)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert [w.packed for w in model.blocks[0].mixer.into] == [True, False]
    assert [w.bits for w in model.blocks[3].mixer.qkv] == [8, 4, 8]
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5) and ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_mlx_and_of_hugging_face(tmp_path, kind):
    """Norms stored whole or minus one, convolutions turned or not, experts stacked or one by one."""
    models_of_both = [
        models.load(checkpoints_qwen3_next.make(tmp_path / str(mlx), kind, mlx=mlx)) for mlx in (False, True)
    ]
    theirs, ours = (ours_logits(model, PROMPT)[0] for model in models_of_both)
    assert close(ours, theirs, 1e-5)


def test_text_positions_of_an_mrope_config(tmp_path):
    """Older configs say rope_scaling of type mrope; with text alone its three positions are one."""
    folder = checkpoints_qwen3_next.make(tmp_path / "new", "qwen3_5")
    scaling = {"type": "mrope", "mrope_section": [2, 1, 1]}
    older = {"rope_parameters": None, "rope_theta": 100000.0, "partial_rotary_factor": 0.25, "rope_scaling": scaling}
    other = checkpoints_qwen3_next.make(tmp_path / "old", "qwen3_5", **older)
    assert close(*(ours_logits(models.load(f), PROMPT)[0] for f in (folder, other)), 1e-6)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_towers_and_drafting_layers_are_left_out_with_a_line(tmp_path, caplog, prefix):
    folder = checkpoints_qwen3_next.make(tmp_path, "qwen3_5_whole")
    before = ours_logits(models.load(folder), PROMPT)[0]
    tensors = checkpoints_qwen3_next.random_tensors(checkpoints_qwen3_next.CONFIGS["qwen3_5_whole"]["text_config"])
    named = checkpoints_qwen3_next.whole(tensors, prefix)
    named["language_model.mtp.norm.weight"] = mx.zeros((4,))
    checkpoints.write_shards(folder, named, 1)
    with caplog.at_level(logging.INFO):
        model = models.load(folder)
    assert [r.getMessage() for r in caplog.records if "left out" in r.getMessage()] == [
        "left out 3 tensors of mtp, visual: only the language model is used"
    ]
    assert close(ours_logits(model, PROMPT)[0], before, 1e-6)


def test_missing_names_are_told(tmp_path):
    folder = checkpoints_qwen3_next.make(tmp_path, "qwen3_next")
    tensors = mx.load(str(folder / "model.safetensors"))
    gone = ["linear_attn.in_proj_ba.weight", "linear_attn.A_log", "mlp.shared_expert_gate.weight"]
    for name in gone:
        del tensors[f"model.layers.2.{name}"]
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError) as error:
        models.load(folder)
    assert all(f"model.layers.2.{name}" in str(error.value) for name in gone) and "left over: none" in str(error.value)


@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize("sizes", [(1,) * 39, (13, 13), (39,), (1, 30)], ids=str)
def test_prefill_in_chunks_equals_prefill_in_one_piece(tmp_path, kind, sizes):
    model = models.load(checkpoints_qwen3_next.make(tmp_path, kind))
    assert close(ours_logits(model, PROMPT, sizes)[0], ours_logits(model, PROMPT)[0], 2e-5)


@pytest.mark.parametrize("kind", SHORT)
def test_a_prompt_longer_than_a_chunk(tmp_path, kind):
    model = models.load(checkpoints_qwen3_next.make(tmp_path, kind))
    tokens = PROMPT * 5
    assert close(ours_logits(model, tokens, (8,) * 24)[0], ours_logits(model, tokens)[0], 5e-5)


@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize("back", [1, 3, 8])
def test_going_back_and_restoring_equal_a_cold_run(tmp_path, kind, back):
    goes_back(models.load(checkpoints_qwen3_next.make(tmp_path, kind)), back)


@pytest.mark.parametrize("kind", SHORT)
def test_rows_of_a_batch_equal_the_rows_alone(tmp_path, kind):
    rows_stand_alone(models.load(checkpoints_qwen3_next.make(tmp_path, kind)))


@pytest.mark.parametrize("kind", SHORT)
def test_the_last_position_alone_is_the_same(tmp_path, kind):
    for layers in (4, 3):  # the last one has attention, or a delta net
        model = models.load(checkpoints_qwen3_next.make(tmp_path, kind, num_hidden_layers=layers))
        memory = model.memory()
        whole = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)))
        last = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)), last=True)
        assert last.shape == (1, 1, 64) and close(last, whole[:, -1:], 1e-5)


@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_nothing_of_a_16_bit_model_is_promoted(tmp_path, kind, dtype, monkeypatch):
    """But for the states of the delta net, which the reference keeps in float32 too."""
    seen = watch_types(monkeypatch, parts, self_attention, moe, delta_net)
    model = models.load(checkpoints_qwen3_next.make(tmp_path, kind, dtype=dtype))
    memory = model.memory()
    row = memory.open()
    for size in (30, 1):
        hidden = model(mx.array([PROMPT[:size]]), memory.step([row], size))
        assert {hidden.dtype, model.logits(hidden).dtype} == {dtype}
    names = {"linear", "qk_norm_rope", "attention", "short_conv", "gated_delta", "embed"}
    assert {found for name, found in seen if name != "route"} == {dtype} and {name for name, _ in seen} >= names
    assert {a.dtype for a in memory.arrays if a.ndim == 3} == {dtype}
    assert {a.dtype for a in memory.arrays if a.ndim == 4} == {mx.float32}


def test_recurrent_layers_do_not_grow_with_the_prompt(tmp_path):
    model = models.load(checkpoints_qwen3_next.make(tmp_path, "qwen3_5"))
    sizes = []
    for count in (16, 400):
        _, memory, _ = ours_logits(model, (PROMPT * 10)[:count])
        sizes.append(sum(state.nbytes for state in memory.recurrent))
        model.forget()
    assert sizes[0] == sizes[1] == sum(state.row_bytes for state in memory.recurrent) > 0


@pytest.mark.parametrize("traced", [False, True])
def test_rows_that_come_and_go_draw_what_they_draw_alone(tmp_path, monkeypatch, traced):
    """Through the scheduler, with prompts in pieces; and with the decode step as one traced graph."""
    model = models.load(checkpoints_qwen3_next.make(tmp_path, "qwen3_5_moe"))
    lengths = (10, 90, 33)
    alone = [ours_greedy(model, (PROMPT * 3)[:n], 12) for n in lengths]
    model.forget()
    monkeypatch.setattr(TracedStep, "worthwhile", traced)
    runs = [Run((PROMPT * 3)[:n], 12) for n in lengths]
    run(Scheduler(model, Limits(rows=2, chunk=32)), *runs)
    assert [r.tokens for r in runs] == alone
