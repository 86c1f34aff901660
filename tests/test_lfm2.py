"""LFM2, dense and mixture, against transformers and mlx-lm on the same random weights."""

import json
from pathlib import Path

import checkpoints_lfm2 as checkpoints
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
from smelt import models
from smelt.models import moe, parts, short_conv
from smelt.models.checkpoint import CheckpointError

LOGITS = np.load(Path(__file__).parent / "reference" / "logits_lfm2.npz")
KINDS = list(checkpoints.CONFIGS)


@pytest.mark.parametrize("mlx", [False, True], ids=["hf-names", "mlx-names"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(tmp_path, kind, mlx):
    model = models.load(checkpoints.make(tmp_path, kind, mlx=mlx))
    memory = model.memory()
    hidden = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)))
    assert close(model.logits(hidden[:, -8:])[0], mx.array(LOGITS[kind]), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_equals_mlx_lm(tmp_path, kind):
    folder = checkpoints.make(tmp_path, kind)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


@pytest.mark.parametrize("kind", ["lfm2", "lfm2_moe"])
@pytest.mark.parametrize("spec", QUANTIZATIONS, ids=lambda s: f"{s['mode']}-{s['bits']}-{s['group_size']}")
def test_quantised_equals_mlx_lm(tmp_path, kind, spec):
    change = {"hidden_size": 128, "block_dim": 128, "moe_intermediate_size": 64, "block_ff_dim": 192,
              "block_multiple_of": 64}  # fmt: skip
    if kind == "lfm2_moe":
        change["intermediate_size"] = 192
    folder = checkpoints.make(tmp_path, kind, quantization=spec, **change)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


def test_mixed_quantisation_equals_mlx_lm(tmp_path):
    """As mlx-lm converts the mixture: 8 bits for the router; beside that a plain matrix and a finer one."""
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    finer = {"group_size": 64, "bits": 8}
    overrides = {f"model.layers.{i}.feed_forward.gate": finer for i in (2, 3)}
    overrides |= {
        "model.layers.2.self_attn.v_proj": {"group_size": 32, "bits": 6},
        "model.layers.0.conv.in_proj": False,
    }
    folder = checkpoints.make(tmp_path, "lfm2_moe", quantization=spec, overrides=overrides, moe_intermediate_size=64,
                              intermediate_size=160)  # fmt: skip
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert isinstance(model.blocks[2].mixer.qkv, tuple)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1,) * 39, (13, 13), (39,), (1, 30), (2, 1, 1, 9)], ids=str)
def test_prefill_in_chunks_equals_prefill_in_one_piece(tmp_path, kind, sizes):
    model = models.load(checkpoints.make(tmp_path, kind))
    assert close(ours_logits(model, PROMPT, sizes)[0], ours_logits(model, PROMPT)[0], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_position_alone_is_the_same(tmp_path, kind):
    model = models.load(checkpoints.make(tmp_path, kind))
    memory = model.memory()
    whole, last = memory.open(), memory.open()
    a = model(mx.array([PROMPT]), memory.step([whole], len(PROMPT)))
    b = model(mx.array([PROMPT]), memory.step([last], len(PROMPT)), last=True)
    assert b.shape == (1, 1, 64) and close(b, a[:, -1:], 1e-6)
    a, b = (model(mx.array([[5]]), memory.step([row], 1)) for row in (whole, last))
    assert close(b, a, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("back", range(1, 9))
def test_going_back_and_restoring_equal_a_cold_run(tmp_path, kind, back):
    goes_back(models.load(checkpoints.make(tmp_path, kind)), back)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_equal_the_rows_alone(tmp_path, kind):
    rows_stand_alone(models.load(checkpoints.make(tmp_path, kind)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_nothing_of_a_16_bit_model_is_promoted(tmp_path, kind, dtype, monkeypatch):
    seen = watch_types(monkeypatch, parts, short_conv, moe)
    model = models.load(checkpoints.make(tmp_path, kind, dtype=dtype))
    memory = model.memory()
    row = memory.open()
    for size in (5, 1):
        hidden = model(mx.array([PROMPT[:size]]), memory.step([row], size, keep=size > 1))
        assert {hidden.dtype, model.logits(hidden).dtype, *(a.dtype for a in memory.arrays)} == {dtype}
    assert {kind for name, kind in seen if name != "route"} == {dtype}


def test_a_convolution_remembers_the_same_however_long_the_prompt(tmp_path):
    model = models.load(checkpoints.make(tmp_path, "lfm2"))
    sizes = []
    for count in (3, 300):
        memory = model.memory()
        mx.eval(model(mx.zeros((1, count), mx.int32), memory.step([memory.open()], count), last=True))
        sizes.append(sum(state.nbytes for state in memory.recurrent))
    assert sizes == [3 * 2 * 64 * 4] * 2  # layers, taps before the last, width, float32


def test_names_of_multimodal_checkpoints(tmp_path):
    """LFM2-VL holds the same model under another prefix, beside a vision tower."""
    plain = models.load(checkpoints.make(tmp_path, "lfm2"))
    tensors = checkpoints.random_of(checkpoints.CONFIGS["lfm2"])
    tensors = {name.replace("model.", "model.language_model.", 1): array for name, array in tensors.items()}
    tensors["model.vision_tower.w"] = tensors["model.multi_modal_projector.w"] = mx.zeros((4, 4))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    config = {"model_type": "lfm2_vl", "text_config": checkpoints.CONFIGS["lfm2"], "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert close(ours_logits(models.load(tmp_path), PROMPT)[0], ours_logits(plain, PROMPT)[0], 1e-6)


def test_missing_and_left_over_names_are_listed(tmp_path):
    folder = checkpoints.make(tmp_path, "lfm2_moe")
    tensors = mx.load(str(folder / "model.safetensors"))
    tensors["model.layers.0.conv.extra"] = tensors.pop("model.layers.0.conv.conv.weight")
    tensors.pop("model.layers.3.feed_forward.experts.5.w1.weight")
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError) as error:
        models.load(folder)
    words = ["model.layers.0.conv.conv.weight", "model.layers.3.feed_forward.experts.5.w1", "model.layers.0.conv.extra"]
    assert all(word in str(error.value) for word in words)
