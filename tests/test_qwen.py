"""Qwen 2, the mixtures of Qwen 3, and Mixtral against transformers and mlx-lm."""

from pathlib import Path

import checkpoints_qwen
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
)
from smelt import models
from smelt.bench import checkpoints
from smelt.models.checkpoint import CheckpointError
from smelt.models.moe import Moe

LOGITS = np.load(Path(__file__).parent / "reference" / "logits_qwen.npz")
KINDS = list(checkpoints_qwen.CONFIGS)
MIXTURES = [kind for kind in KINDS if kind not in ("qwen2", "qwen2_sliding")]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(tmp_path, kind):
    model = models.load(checkpoints_qwen.make(tmp_path, kind))
    memory = model.memory()
    hidden = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)))
    assert close(model.logits(hidden[:, -8:])[0], mx.array(LOGITS[kind]), 2e-5)


# mlx-lm leaves the sliding windows of these families unread; transformers, with which they are compared above, does not.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "sliding" not in kind])
def test_float32_equals_mlx_lm(tmp_path, kind):
    folder = checkpoints_qwen.make(tmp_path, kind)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


WIDE = {"hidden_size": 128, "head_dim": 64, "intermediate_size": 192, "num_hidden_layers": 2}


@pytest.mark.parametrize("kind", ["qwen2", "qwen3_moe", "mixtral"])
@pytest.mark.parametrize("spec", QUANTIZATIONS, ids=lambda s: f"{s['mode']}-{s['bits']}-{s['group_size']}")
def test_quantised_equals_mlx_lm(tmp_path, kind, spec):
    changes = {**WIDE, "head_dim": 32} if kind != "qwen3_moe" else {**WIDE, "moe_intermediate_size": 64}
    folder = checkpoints_qwen.make(tmp_path, kind, quantization=spec, **changes)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


def test_mixed_quantisation(tmp_path):
    """As MLX converts mixtures, the router in 8 bits; and gate and up that cannot be joined."""
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    layer = "model.layers.1.mlp"
    overrides = {
        f"{layer}.gate": {"group_size": 64, "bits": 8},
        f"{layer}.switch_mlp.up_proj": {"group_size": 32, "bits": 6},
        "model.layers.0.mlp.switch_mlp.down_proj": False,
    }
    changes = {**WIDE, "moe_intermediate_size": 64}
    folder = checkpoints_qwen.make(tmp_path, "qwen3_moe", quantization=spec, overrides=overrides, **changes)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert model.blocks[1].mlp.router.weight.bits == 8 and isinstance(model.blocks[1].mlp.experts.up, tuple)
    assert not model.blocks[0].mlp.experts.down.packed
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5) and ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


def test_layers_with_experts(tmp_path):
    model = models.load(checkpoints_qwen.make(tmp_path, "qwen3_moe_some"))
    assert [isinstance(block.mlp, Moe) for block in model.blocks] == [False, False, False, True]


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_one_by_one_or_stacked(tmp_path, kind):
    folder = checkpoints_qwen.make(tmp_path, kind)
    before = ours_logits(models.load(folder), PROMPT)[0]
    tensors = checkpoints_qwen.stacked(mx.load(str(folder / "model.safetensors")))
    checkpoints.write_shards(folder, tensors, 2)
    assert close(ours_logits(models.load(folder), PROMPT)[0], before, 1e-6)


def test_a_missing_expert_is_named(tmp_path):
    folder = checkpoints_qwen.make(tmp_path, "mixtral")
    tensors = mx.load(str(folder / "model.safetensors"))
    del tensors["model.layers.1.block_sparse_moe.experts.3.w3.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError, match=r"missing: model.layers.1.block_sparse_moe.experts.3.w3.weight"):
        models.load(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1,) * 39, (13, 13), (1, 30)], ids=str)
def test_prefill_in_chunks_equals_prefill_in_one_piece(tmp_path, kind, sizes):
    model = models.load(checkpoints_qwen.make(tmp_path, kind))
    assert close(ours_logits(model, PROMPT, sizes)[0], ours_logits(model, PROMPT)[0], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back", [1, 3, 8])
def test_going_back_and_restoring_equal_a_cold_run(tmp_path, kind, back):
    goes_back(models.load(checkpoints_qwen.make(tmp_path, kind)), back)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_equal_the_rows_alone(tmp_path, kind):
    rows_stand_alone(models.load(checkpoints_qwen.make(tmp_path, kind)))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("kind", MIXTURES)
def test_nothing_of_a_16_bit_model_is_promoted(tmp_path, kind, dtype):
    model = models.load(checkpoints_qwen.make(tmp_path, kind, dtype=dtype))
    memory = model.memory()
    row = memory.open()
    for size in (30, 1):
        step = memory.step([row], size)
        outputs = [*model.stages(mx.array([PROMPT[:size]]), step)]
        assert {x.dtype for x in (*outputs, model.logits(outputs[-1]), *memory.arrays)} == {dtype}
