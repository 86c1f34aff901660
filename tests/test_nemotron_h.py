"""Nemotron-H, dense and with experts, against transformers and mlx-lm on the same random weights."""

import json
from pathlib import Path

import checkpoints_nemotron_h as checkpoints
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
from smelt.kernels.mamba2 import CHUNK
from smelt.models import mamba2, moe, nemotron_h, parts
from smelt.models.checkpoint import CheckpointError

LOGITS = np.load(Path(__file__).parent / "reference" / "logits_nemotron_h.npz")
KINDS = list(checkpoints.CONFIGS)


@pytest.mark.parametrize("mlx", [False, True], ids=["hf-names", "mlx-names"])
@pytest.mark.parametrize("kind", LOGITS.files)
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


# The widths that groups of 64 divide.
WIDE = {"hidden_size": 128, "intermediate_size": 192, "mamba_head_dim": 16, "moe_intermediate_size": 64,
        "moe_shared_expert_intermediate_size": 192}  # fmt: skip


@pytest.mark.parametrize("spec", QUANTIZATIONS, ids=lambda s: f"{s['mode']}-{s['bits']}-{s['group_size']}")
def test_quantised_equals_mlx_lm(tmp_path, spec):
    """A kind with every letter; mlx-lm compiles its blocks again for each, which is most of the time."""
    folder = checkpoints.make(tmp_path, "nemotron_h_latent", quantization=spec, moe_latent_size=64, **WIDE)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


def test_mixed_quantisation_equals_mlx_lm(tmp_path):
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    overrides = {
        "backbone.layers.3.mixer.v_proj": {"group_size": 32, "bits": 6},
        "backbone.layers.0.mixer.in_proj": {"group_size": 64, "bits": 8},
        "backbone.layers.1.mixer.switch_mlp.fc1": {"group_size": 64, "bits": 3},
        "backbone.layers.2.mixer.out_proj": False,
        "lm_head": {"group_size": 32, "bits": 8},
    }
    folder = checkpoints.make(tmp_path, "nemotron_h_moe", quantization=spec, overrides=overrides, **WIDE)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert isinstance(model.blocks[3].mixer.qkv, tuple)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1,) * 39, (13, 13), (39,), (1, 30), (2, 1, 1, 9)], ids=str)
def test_prefill_in_chunks_equals_prefill_in_one_piece(tmp_path, kind, sizes):
    model = models.load(checkpoints.make(tmp_path, kind))
    assert close(ours_logits(model, PROMPT, sizes)[0], ours_logits(model, PROMPT)[0], 2e-5)


def test_a_prompt_of_several_chunks_equals_mlx_lm(tmp_path):
    folder = checkpoints.make(tmp_path, "nemotron_h")
    prompt = (PROMPT * 9)[: 2 * CHUNK + 50]
    model = models.load(folder)
    logits, tokens = reference(folder, prompt, 8)
    assert close(ours_logits(model, prompt)[0], logits, 2e-5) and ours_greedy(model, prompt, 8) == tokens
    assert close(ours_logits(model, prompt, (CHUNK + 7, 100))[0], logits, 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_position_alone_is_the_same(tmp_path, kind):
    model = models.load(checkpoints.make(tmp_path, kind))
    memory = model.memory()
    whole, last = memory.open(), memory.open()
    a = model(mx.array([PROMPT]), memory.step([whole], len(PROMPT)))
    b = model(mx.array([PROMPT]), memory.step([last], len(PROMPT)), last=True)
    assert b.shape == (1, 1, 64) and close(b, a[:, -1:], 2e-6)
    a, b = (model(mx.array([[5]]), memory.step([row], 1)) for row in (whole, last))
    assert close(b, a, 2e-6)


@pytest.mark.parametrize("kind", ["nemotron_h", "nemotron_h_latent"])
@pytest.mark.parametrize("back", range(1, 9))
def test_going_back_and_restoring_equal_a_cold_run(tmp_path, kind, back):
    goes_back(models.load(checkpoints.make(tmp_path, kind)), back)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_equal_the_rows_alone(tmp_path, kind):
    rows_stand_alone(models.load(checkpoints.make(tmp_path, kind)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_nothing_of_a_16_bit_model_is_promoted(tmp_path, kind, dtype, monkeypatch):
    """But for what is meant to be float32: the heads' states, and the router's weights."""
    seen = watch_types(monkeypatch, parts, mamba2, moe, nemotron_h)
    model = models.load(checkpoints.make(tmp_path, kind, dtype=dtype))
    memory = model.memory()
    row = memory.open()
    for size in (5, 20, 1):
        hidden = model(mx.array([PROMPT[:size]]), memory.step([row], size, keep=size == 5))
        assert {hidden.dtype, model.logits(hidden).dtype} == {dtype}
    assert {kind for name, kind in seen if name != "route"} == {dtype}
    assert {state.pools["heads"].dtype for state in memory.recurrent} == {mx.float32}
    assert {state.pools["conv"].dtype for state in memory.recurrent} == {dtype}


def test_a_recurrence_remembers_the_same_however_long_the_prompt(tmp_path):
    model = models.load(checkpoints.make(tmp_path, "nemotron_h"))
    sizes = []
    for count in (3, 300):
        memory = model.memory()
        mx.eval(model(mx.zeros((1, count), mx.int32), memory.step([memory.open()], count), last=True))
        sizes.append(sum(state.nbytes for state in memory.recurrent))
    conv, heads = 3 * (8 * 12 + 2 * 2 * 16), 8 * 12 * 16
    assert sizes == [4 * (conv + heads) * 4] * 2  # four layers, float32


@pytest.mark.parametrize("inf", [float("inf"), {"__float__": "Infinity"}], ids=str)
def test_infinity_in_either_spelling(tmp_path, inf):
    model = models.load(checkpoints.make(tmp_path, "nemotron_h_limit", time_step_limit=[0.25, inf]))
    assert model.blocks[0].mixer.limit == (0.25, float("inf"))


@pytest.mark.parametrize("old, new", [("backbone.", "model."), ("", "language_model.")])
def test_other_prefixes(tmp_path, old, new):
    """As transformers saves it, and inside a multimodal checkpoint."""
    folder = checkpoints.make(tmp_path, "nemotron_h_moe", rename=lambda name: new + name.removeprefix(old)
                              if name.startswith(old) else name)  # fmt: skip
    assert close(ours_logits(models.load(folder), PROMPT[:33])[0], mx.array(LOGITS["nemotron_h_moe"][0]), 2e-5)


def test_prediction_layers_are_left_out(tmp_path):
    folder = checkpoints.make(tmp_path, "nemotron_h")
    tensors = mx.load(str(folder / "model.safetensors"))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | {"mtp.layers.0.norm.weight": mx.ones((64,))})
    models.load(folder)


def test_missing_and_left_over_names_are_listed(tmp_path):
    folder = checkpoints.make(tmp_path, "nemotron_h_moe")
    tensors = mx.load(str(folder / "model.safetensors"))
    tensors["backbone.layers.0.mixer.extra"] = tensors.pop("backbone.layers.0.mixer.A_log")
    tensors.pop("backbone.layers.1.mixer.experts.5.up_proj.weight")
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError) as error:
        models.load(folder)
    words = ["layers.0.mixer.A_log", "layers.1.mixer.experts.5.up_proj", "left over: backbone.layers.0.mixer.extra"]
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "changes", [{"hybrid_override_pattern": "M-X"}, {"layers_block_type": ["mamba", "perceptron"]}], ids=str
)
def test_unknown_layers_are_refused_by_name(tmp_path, changes):
    folder = checkpoints.make(tmp_path, "nemotron_h")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps(json.loads(config) | changes))
    with pytest.raises(CheckpointError, match="known are mamba"):
        models.load(folder)
