"""Gemma 4 in all its sizes against transformers and mlx-lm."""

import json
from pathlib import Path

import checkpoints_gemma4
import mlx.core as mx
import numpy as np
import pytest
from checkpoints_gemma4 import FULL, SLIDING
from parity import (
    NEW_TOKENS,
    PROMPT,
    QUANTIZATIONS,
    close,
    feed,
    goes_back,
    ours_greedy,
    ours_logits,
    reference,
    rows_stand_alone,
)
from runner import Run, run
from smelt import models
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.step import TracedStep
from smelt.models import gemma4
from smelt.models.checkpoint import CheckpointError
from smelt.models.gemma4_parts import SharedAttention

LOGITS = np.load(Path(__file__).parent / "reference" / "logits_gemma4.npz")
KINDS = ["gemma4_small", "gemma4_dense", "gemma4_mixture", "gemma4_all"]
IMAGE = 300


@pytest.mark.parametrize("kind", [*KINDS, "gemma4_unified", "gemma4_media"])
def test_logits_equal_transformers(tmp_path, kind):
    """In gemma4_media the prompt has placeholders of an image and a video, with nothing that stands for them."""
    model = models.load(checkpoints_gemma4.make(tmp_path, kind))
    memory = model.memory()
    hidden = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)))
    assert close(model.logits(hidden[:, -8:])[0], mx.array(LOGITS[kind]), 2e-5)


@pytest.mark.parametrize("sizes", [(40,), (13, 27), (1,) * 40], ids=str)
def test_images_stand_where_their_placeholders_are(tmp_path, sizes):
    model = models.load(checkpoints_gemma4.make(tmp_path, "gemma4_image"))
    places = [i for i, token in enumerate(PROMPT) if token == IMAGE]
    embeddings = model.embed(mx.array([PROMPT]))
    embeddings[:, mx.array(places)] = checkpoints_gemma4.image(len(places))
    memory, found, start = model.memory(), [], 0
    row = memory.open()
    for size in sizes:
        part = slice(start, start + size)
        found.append(model(mx.array([PROMPT[part]]), memory.step([row], size), embeddings=embeddings[:, part]))
        start += size
    logits = model.logits(mx.concatenate(found, axis=1)[0, -8:])
    assert close(logits, mx.array(LOGITS["gemma4_image"]), 2e-5)
    assert not close(logits, mx.array(LOGITS["gemma4_media"]), 1e-2)


def test_a_placeholder_changes_the_lookup_alone(tmp_path):
    """Its logit is its own, though its embedding is that of padding."""
    model = models.load(checkpoints_gemma4.make(tmp_path, "gemma4_media"))
    pad = checkpoints_gemma4.BASE["pad_token_id"]
    instead = [pad if token in (300, 301, 302) else token for token in PROMPT]
    logits = ours_logits(model, PROMPT)[0]
    assert instead != PROMPT and close(logits, ours_logits(model, instead)[0], 1e-6)
    assert logits[IMAGE] != logits[pad]


# mlx-lm looks placeholders up as themselves; transformers, with which gemma4_media is compared above, as padding.
@pytest.mark.parametrize("kind", KINDS)
def test_float32_equals_mlx_lm(tmp_path, kind):
    folder = checkpoints_gemma4.make(tmp_path, kind)
    model = models.load(folder)
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


WIDE = {"hidden_size": 128, "intermediate_size": 192, "hidden_size_per_layer_input": 64}


# In float modes mlx-lm embeds in bfloat16, where sqrt(128) and the inputs for each layer are inexact: a width of 256
# and a model without such inputs are compared with it, the inputs for each layer with the same matrices unpacked.
@pytest.mark.parametrize("spec", QUANTIZATIONS, ids=lambda s: f"{s['mode']}-{s['bits']}-{s['group_size']}")
def test_quantised_equals_mlx_lm(tmp_path, spec):
    affine = spec["mode"] == "affine"
    changes = WIDE if affine else {**WIDE, "hidden_size": 256, "hidden_size_per_layer_input": 0}
    folder = checkpoints_gemma4.make(
        tmp_path, "gemma4_all" if affine else "gemma4_mixture", quantization=spec, **changes
    )
    model = models.load(folder)
    count = NEW_TOKENS if spec["bits"] == 4 else 6
    logits, tokens = reference(folder, PROMPT, count)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5)
    assert ours_greedy(model, PROMPT, count) == tokens


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_float_modes_equal_the_matrices_unpacked(tmp_path, mode):
    changes = {**WIDE, "enable_moe_block": False}
    spec = {"group_size": 16 if mode == "nvfp4" else 32, "bits": 8 if mode == "mxfp8" else 4, "mode": mode}
    folder = checkpoints_gemma4.make(tmp_path, "gemma4_all", quantization=spec, **changes)
    logits = ours_logits(models.load(folder), PROMPT)[0]
    tensors, config = mx.load(str(folder / "model.safetensors")), json.loads((folder / "config.json").read_text())
    del config["quantization"]
    for name in [name for name in tensors if name.endswith(".scales")]:
        weight = name.replace(".scales", ".weight")
        tensors[weight] = mx.dequantize(tensors[weight], tensors.pop(name), dtype=mx.float32, **spec)
    plain = models.load(checkpoints_gemma4.write(tmp_path / "plain", config, tensors))
    assert close(logits, ours_logits(plain, PROMPT)[0], 3e-5)


def test_mixed_quantisation(tmp_path):
    """As MLX converts the mixture, routers in 8 bits; and parts that cannot be joined, or are left as they are."""
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    layer = "model.layers.1"
    overrides = {
        f"{layer}.router.proj": {"group_size": 64, "bits": 8},
        f"{layer}.experts.switch_glu.up_proj": {"group_size": 32, "bits": 6},
        f"{layer}.self_attn.k_proj": {"group_size": 32, "bits": 8},
        "model.per_layer_model_projection": False,
        "model.embed_tokens_per_layer": {"group_size": 64, "bits": 8},
    }
    folder = checkpoints_gemma4.make(tmp_path, "gemma4_all", quantization=spec, overrides=overrides, **WIDE)
    model = models.load(folder)
    block = model.blocks[1]
    assert isinstance(block.mixer.qkv, tuple) and isinstance(block.mlp.experts.up, tuple)
    assert block.mlp.router.weight.bits == 8 and not model.per_layer.projection.packed
    logits, tokens = reference(folder, PROMPT, NEW_TOKENS)
    assert close(ours_logits(model, PROMPT)[0], logits, 2e-5) and ours_greedy(model, PROMPT, NEW_TOKENS) == tokens


@pytest.mark.parametrize("sizes", [(1,) * 39, (13, 13), (39,), (1, 30)], ids=lambda s: f"{s[0]}x{len(s)}")
@pytest.mark.parametrize("kind", ["gemma4_dense", "gemma4_all"])
def test_prefill_in_chunks_equals_prefill_in_one_piece(tmp_path, kind, sizes):
    model = models.load(checkpoints_gemma4.make(tmp_path, kind))
    assert close(ours_logits(model, PROMPT, sizes)[0], ours_logits(model, PROMPT)[0], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_position_alone_is_the_same(tmp_path, kind):
    """And the layers that share keys compute nothing else."""
    model = models.load(checkpoints_gemma4.make(tmp_path, kind))
    memory = model.memory()
    whole = model(mx.array([PROMPT]), memory.step([memory.open()], len(PROMPT)))
    row = memory.open()
    stages = list(model.stages(mx.array([PROMPT]), memory.step([row], len(PROMPT)), last=True))
    assert close(stages[-1], whole[:, -1:], 1e-5)
    own = 4
    assert [x.shape[1] for x in stages] == [40] * (own - 1) + [1] * (len(stages) - own + 1)
    assert close(feed(model, memory, row, [5]), ours_logits(model, [*PROMPT, 5])[0], 1e-5)


def test_layers_share_the_pages_of_the_last_of_their_kind(tmp_path):
    model = models.load(checkpoints_gemma4.make(tmp_path, "gemma4_small"))
    pages = [block.mixer.pages for block in model.blocks]
    assert pages[4] is pages[2] and pages[5] is pages[2] and pages[6] is pages[3]
    assert all(isinstance(block.mixer, SharedAttention) for block in model.blocks[4:])
    assert len(model.memory().states) == 4
    assert [p.window for p in pages[:4]] == [24, None, 24, None] and [p.head_dim for p in pages[:4]] == [16, 32, 16, 32]


@pytest.mark.parametrize("kind, back", [("gemma4_all", 1), ("gemma4_all", 3), *((kind, 8) for kind in KINDS)])
def test_going_back_and_restoring_equal_a_cold_run(tmp_path, kind, back):
    goes_back(models.load(checkpoints_gemma4.make(tmp_path, kind)), back)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_equal_the_rows_alone(tmp_path, kind):
    rows_stand_alone(models.load(checkpoints_gemma4.make(tmp_path, kind)))


def test_a_traced_step_draws_what_a_step_draws(tmp_path, monkeypatch):
    """Shared pools and inputs for each layer go through a trace as well. Few layers: the CPU takes long to trace."""
    few = {"num_hidden_layers": 2, "layer_types": [FULL, FULL], "num_kv_shared_layers": 1}
    model = models.load(checkpoints_gemma4.make(tmp_path, "gemma4_media", **few))
    found, traces, trace = [], [], TracedStep.traced
    monkeypatch.setattr(TracedStep, "traced", staticmethod(lambda *args: traces.append(1) or trace(*args)))
    for traced in (True, False):
        model.forget()
        monkeypatch.setattr(TracedStep, "worthwhile", traced)
        one = Run(PROMPT, 4, seed=1, temperature=0.0)
        run(Scheduler(model, Limits(rows=1, chunk=16)), one)
        found.append(one.tokens)
    assert found[0] == found[1] and len(found[0]) == 4 and traces


def test_sliding_layers_do_not_grow_with_the_prompt(tmp_path):
    model = models.load(checkpoints_gemma4.make(tmp_path, "gemma4_small"))
    sizes = []
    for tokens in (240, 720):
        memory = model.memory()
        row = memory.open()
        for _ in range(tokens // 40):
            mx.eval(model(mx.array([PROMPT]), memory.step([row], 40), last=True), memory.arrays)
        sizes.append({window: sum(p.nbytes for p in memory.pages if p.window == window) for window in (24, None)})
        model.forget()
    assert sizes[0][24] == sizes[1][24] and sizes[1][None] >= 2 * sizes[0][None]


@pytest.mark.parametrize("kind", ["gemma4_dense", "gemma4_all"])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_nothing_of_a_16_bit_model_is_promoted(tmp_path, kind, dtype, monkeypatch):
    """The weights of a router are float32 on purpose, in transformers too; what the experts give is not."""
    from smelt.kernels import linear as linear_module
    from smelt.models import gemma4_parts, moe, parts

    seen = []

    def watching(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            seen.extend(x.dtype for x in (result if isinstance(result, tuple) else (result,)) if x is not None)
            return result

        return call

    for module in (parts, gemma4_parts, moe):
        for name in ("linear", "qk_norm_rope", "attention", "add_norm", "rms_norm", "embed", "experts", "_scaled_sum"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, watching(getattr(module, name)))
    monkeypatch.setattr(linear_module, "matmul", watching(linear_module.matmul))
    model = models.load(checkpoints_gemma4.make(tmp_path, kind, dtype=dtype))
    memory = model.memory()
    row = memory.open()
    for size in (5, 1):
        hidden = model(mx.array([PROMPT[:size]]), memory.step([row], size))
        assert {hidden.dtype, model.logits(hidden).dtype, *(x.dtype for x in memory.arrays)} == {dtype}
        assert mx.all(mx.isfinite(model.logits(hidden)))
    assert set(seen) == {dtype}


@pytest.mark.parametrize("prefix", checkpoints_gemma4.MEDIA_NAMES)
def test_names_of_multimodal_checkpoints(tmp_path, prefix):
    """Hugging Face's and MLX's, which also leaves out the keys of layers that share; towers are left aside."""
    plain = models.load(checkpoints_gemma4.make(tmp_path / "plain", "gemma4_all"))
    text = checkpoints_gemma4.CONFIGS["gemma4_all"]
    tensors = checkpoints_gemma4.random_tensors(text)
    if prefix.startswith("language_model."):
        unused = tuple(f"model.layers.{i}.self_attn.{x}_" for i in (4, 5, 6) for x in "kv")
        tensors = {n: a for n, a in checkpoints_gemma4.as_mlx(tensors).items() if not n.startswith(unused)}
    tensors = {checkpoints_gemma4.renamed(name, prefix): array for name, array in tensors.items()}
    towers = ("vision_tower.x", "model.vision_tower.x", "embed_vision.x", "audio_tower.x", "model.embed_audio.x")
    tensors |= dict.fromkeys(towers, mx.zeros((4, 4)))
    config = {"model_type": "gemma4", "text_config": text, "tie_word_embeddings": True}
    wrapped = models.load(checkpoints_gemma4.write(tmp_path / "wrapped", config, tensors))
    assert close(ours_logits(wrapped, PROMPT)[0], ours_logits(plain, PROMPT)[0], 1e-6)


def test_configs_of_newer_transformers(tmp_path):
    """They hold what full layers differ in under each layer's number."""
    folder = checkpoints_gemma4.make(tmp_path, "gemma4_dense")
    logits = ours_logits(models.load(folder), PROMPT)[0]
    config = json.loads((folder / "config.json").read_text())
    kv_heads, head_dim = config.pop("num_global_key_value_heads"), config.pop("global_head_dim")
    config["per_layer_config"] = {"3": {"num_key_value_heads": kv_heads, "head_dim": head_dim}}
    (folder / "config.json").write_text(json.dumps(config))
    assert close(ours_logits(models.load(folder), PROMPT)[0], logits, 1e-6)


def test_missing_fields_have_the_defaults_of_transformers():
    c = gemma4.Config.read({})
    kinds = [FULL if kind.window is None else SLIDING for kind in c.layers]
    assert kinds == ([SLIDING] * 5 + [FULL]) * 5 and c.own == 30 and c.per_layer == 256 and not c.experts
    sliding, full = c.layers[0], c.layers[5]
    assert (sliding.head_dim, sliding.kv_heads, sliding.window, full.head_dim, full.kv_heads) == (256, 4, 512, 512, 4)
    assert sliding.rope["rope_theta"] == 1e4 and full.rope["partial_rotary_factor"] == 0.25
    unified = gemma4.Config.read({"model_type": "gemma4_unified_text"})
    assert unified.per_layer == 0 and unified.layers[0].window == 1024 and unified.context == 262144


@pytest.mark.parametrize(
    "change, words",
    [
        ({"use_bidirectional_attention": "all"}, "both directions"),
        ({"num_kv_shared_layers": 6}, "none of the first 1 layers"),
    ],
)
def test_what_cannot_be_is_told(tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        models.load(checkpoints_gemma4.make(tmp_path, "gemma4_small", **change))
