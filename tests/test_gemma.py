"""Gemma 2 against transformers and mlx-lm, and the configs of Gemma 3 as they are published."""

import json
from pathlib import Path

import checkpoints
import checkpoints_gemma
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
from smelt.models import gemma3

LOGITS = np.load(Path(__file__).parent / "reference" / "logits_gemma.npz")


@pytest.mark.parametrize("kind", checkpoints_gemma.CONFIGS)
def test_logits_equal_transformers(tmp_path, kind):
    model = models.load(checkpoints_gemma.make(tmp_path, kind))
    memory = model.memory()
    hidden = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)))
    assert close(model.logits(hidden[:, -8:])[0], mx.array(LOGITS[kind]), 2e-5)


# mlx-lm leaves Gemma 2's sliding_window unread, and Gemma 3's cap of logits; it rounds the scale of Gemma 3's
# embeddings to bfloat16 whatever the model's type. Transformers, with which they are compared above, does none of this.
def test_float32_equals_mlx_lm(tmp_path):
    folder = checkpoints_gemma.make(tmp_path, "gemma2_full")
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


@pytest.mark.parametrize("spec", QUANTIZATIONS, ids=lambda s: f"{s['mode']}-{s['bits']}-{s['group_size']}")
def test_quantised_equals_mlx_lm(tmp_path, spec):
    folder = checkpoints_gemma.make(
        tmp_path, "gemma2_full", quantization=spec, hidden_size=256, intermediate_size=192, num_hidden_layers=2
    )
    model = models.load(folder)
    count = NEW_TOKENS if spec["bits"] == 4 else 6
    logits, tokens = reference(folder, PROMPT, count)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, count) == tokens


def test_mixed_quantisation(tmp_path):
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    overrides = {"model.layers.0.self_attn.v_proj": {"group_size": 32, "bits": 8}, "model.layers.1.mlp.up_proj": False}
    folder = checkpoints_gemma.make(tmp_path, "gemma2_full", quantization=spec, overrides=overrides)
    model = models.load(folder)
    assert isinstance(model.blocks[0].mixer.qkv, tuple) and isinstance(model.blocks[1].mlp.gate_up, tuple)
    logits, tokens = reference(folder, PROMPT, 6)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5) and ours_greedy(model, PROMPT, 6) == tokens


@pytest.mark.parametrize("sizes", [(1,) * 39, (13, 13), (39,), (1, 30)], ids=lambda s: f"{s[0]}x{len(s)}")
def test_prefill_in_chunks_equals_prefill_in_one_piece(tmp_path, sizes):
    model = models.load(checkpoints_gemma.make(tmp_path, "gemma2"))
    assert close(ours_logits(model, PROMPT, sizes)[0], ours_logits(model, PROMPT)[0], 1e-5)


@pytest.mark.parametrize("back", [1, 3, 8])
def test_going_back_and_restoring_equal_a_cold_run(tmp_path, back):
    goes_back(models.load(checkpoints_gemma.make(tmp_path, "gemma2")), back)


def test_rows_of_a_batch_equal_the_rows_alone(tmp_path):
    rows_stand_alone(models.load(checkpoints_gemma.make(tmp_path, "gemma2")))


def test_sliding_layers_do_not_grow_with_the_prompt(tmp_path):
    model = models.load(checkpoints_gemma.make(tmp_path, "gemma2"))
    sizes = []
    for tokens in (240, 720):
        memory = model.memory()
        row = memory.open()
        for _ in range(tokens // 40):
            mx.eval(model(mx.array([PROMPT]), memory.step([row], 40), last=True), memory.arrays)
        sizes.append([pages.nbytes for pages in memory.pages])
        model.forget()
    assert [pages.window for pages in memory.pages] == [24, None, 24, None]
    assert sizes[0][::2] == sizes[1][::2] and sizes[1][1] >= 2 * sizes[0][1]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_nothing_of_a_16_bit_model_is_promoted(tmp_path, dtype, monkeypatch):
    from smelt.kernels import attention as attention_module
    from smelt.kernels import self_attention as self_attention_module
    from smelt.models import parts

    seen = []

    def watching(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            seen.extend(x.dtype for x in (result if isinstance(result, tuple) else (result,)))
            return result

        return call

    for name in ("linear", "self_attention", "add_norm", "embed", "soft_cap"):
        monkeypatch.setattr(parts, name, watching(getattr(parts, name)))
    for name in ("qk_norm_rope", "attention"):
        monkeypatch.setattr(self_attention_module, name, watching(getattr(self_attention_module, name)))
    for name in ("attend_capped", "soft_cap"):
        monkeypatch.setattr(attention_module, name, watching(getattr(attention_module, name)))
    model = models.load(checkpoints_gemma.make(tmp_path, "gemma2", dtype=dtype))
    memory = model.memory()
    row = memory.open()
    for size in (5, 1):
        hidden = model(mx.array([PROMPT[:size]]), memory.step([row], size))
        assert {hidden.dtype, model.logits(hidden).dtype, *(x.dtype for x in memory.arrays)} == {dtype}
    assert set(seen) == {dtype}


PUBLISHED = {  # text_config of multimodal Gemma 3, which leaves out what equals the defaults, and what they amount to
    "4b": ({"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, (8, 4, 256, 256)),
    "12b": ({"hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16, "num_hidden_layers": 48,
             "num_key_value_heads": 8, "sliding_window": 1024,
             "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, (16, 8, 256, 256)),
    "27b": ({"head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32,
             "num_hidden_layers": 62, "num_key_value_heads": 16, "query_pre_attn_scalar": 168, "sliding_window": 1024,
             "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, (32, 16, 128, 168)),
}  # fmt: skip


@pytest.mark.parametrize("size", PUBLISHED)
def test_multimodal_gemma3_configs_leave_out_defaults(size):
    config, (heads, kv_heads, head_dim, scalar) = PUBLISHED[size]
    c = gemma3.Config.read({"model_type": "gemma3_text", **config})
    assert (c.heads, c.kv_heads, c.head_dim, c.vocab, c.trained) == (heads, kv_heads, head_dim, 262208, 131072)
    assert c.eps == 1e-6 and c.scale == scalar**-0.5 and c.cap is None
    assert c.windows[:12] == ((1024,) * 5 + (None,)) * 2
    assert c.local_rope == {"rope_theta": 10_000.0, "rope_type": "default"}
    assert c.global_rope["rope_theta"] == 1e6 and c.global_rope["factor"] == 8.0


# As Hugging Face writes it (before and after 4.52), and mlx-vlm, which keeps the head apart.
NAMES = [("language_model.model.", "language_model."), ("model.language_model.", ""),
         ("language_model.model.", "")]  # fmt: skip


@pytest.mark.parametrize("body, head", NAMES)
def test_multimodal_gemma3_in_every_naming(tmp_path, body, head):
    """Quantised, with the towers' own entries in the config, fields left out, and a head that repeats the embedding."""
    text = {key: value for key, value in checkpoints.CONFIGS["gemma3"].items() if key != "rope_local_base_freq"}
    tensors = checkpoints.random_of("gemma3")
    plain = ours_logits(models.load(checkpoints.make(tmp_path / "plain", "gemma3")), PROMPT)[0]
    names = {body + name.removeprefix("model."): array for name, array in tensors.items()}
    names[f"{head}lm_head.weight"] = tensors["model.embed_tokens.weight"]
    towers = ("vision_tower.vision_model.x", "multi_modal_projector.mm_soft_emb_norm.weight", "model.vision_tower.x")
    names |= dict.fromkeys(towers, mx.zeros((4, 4)))
    folder = tmp_path / "media"
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), names)
    config = {
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": {"hidden_size": 8},
        "image_token_index": 262144,
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert close(ours_logits(models.load(folder), PROMPT)[0], plain, 1e-6)
