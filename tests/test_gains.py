"""Where the weights of norms stand in a model: behind the scales of every packed matrix that a norm comes before."""

import checkpoints
import checkpoints_gemma
import checkpoints_gemma4
import checkpoints_gemma4_assistant
import checkpoints_lfm2
import checkpoints_nemotron_h
import checkpoints_qwen
import checkpoints_qwen3_next
import mlx.core as mx
import pytest
from parity import PROMPT, ours_logits
from smelt import models
from smelt.kernels import experts, linear
from smelt.kernels.linear import Weight
from smelt.models import gemma4_assistant

SPEC = {"group_size": 32, "bits": 4, "mode": "affine"}
WIDE = {"moe_intermediate_size": 64}
FAMILIES = {
    "llama": (checkpoints, {}),
    "qwen3": (checkpoints, {}),
    "gemma2_full": (checkpoints_gemma, {}),
    "gemma3": (checkpoints, {}),
    "gemma4_all": (checkpoints_gemma4, WIDE),
    "mixtral": (checkpoints_qwen, {}),
    "qwen3_moe": (checkpoints_qwen, WIDE),
    "qwen3_next": (checkpoints_qwen3_next, WIDE),
    "qwen3_5": (checkpoints_qwen3_next, {}),
    "lfm2_moe": (checkpoints_lfm2, WIDE | {"intermediate_size": 160}),
    "nemotron_h_moe": (checkpoints_nemotron_h, WIDE | {"moe_shared_expert_intermediate_size": 64}),
    "nemotron_h_latent": (checkpoints_nemotron_h, WIDE | {"moe_shared_expert_intermediate_size": 64}),
}


@pytest.fixture
def normed(monkeypatch) -> list:
    """Every packed matrix that is multiplied after a norm, and this norm: as the references are given them."""
    found = []
    monkeypatch.setenv("SMELT_KERNELS", "reference")

    def noting(real, where):
        def reference(*args, norm=None, **more):
            weight = args[where]
            if norm is not None and isinstance(weight, Weight) and weight.packed:
                found.append((weight, norm))
            return real(*args, norm=norm, **more)

        return reference

    monkeypatch.setattr(linear, "reference", noting(linear.reference, 1))
    monkeypatch.setattr(experts, "reference", noting(experts.reference, 2))
    return found


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_packed_matrix_after_a_norm_has_its_gain(tmp_path, normed, kind):
    module, changes = FAMILIES[kind]
    model = models.load(module.make(tmp_path, kind, quantization=SPEC, **changes))
    ours_logits(model, PROMPT[:3])
    assert len(normed) > len(model.blocks) and all(weight.ends_in(norm) for weight, norm in normed)
    assert all(mx.array_equal(w.scaling[-norm.weight.size :], norm.weight) for w, norm in normed)


def test_a_drafters_matrices_too(tmp_path, normed):
    target = models.load(checkpoints_gemma4.make(tmp_path / "target", "gemma4_small"))
    folder = checkpoints_gemma4_assistant.make(tmp_path / "drafter", "gemma4_small", quantization=SPEC)
    drafter, memory = gemma4_assistant.load(folder, target), target.memory()
    row = memory.open()
    hidden = target(mx.array([PROMPT[:3]]), memory.step([row], 3), last=True)
    mx.eval(drafter(mx.array(PROMPT[3:4]), hidden, memory.behind([row]), 1))
    assert len(normed) == 2 * len(drafter.blocks) and all(weight.ends_in(norm) for weight, norm in normed)


@pytest.mark.parametrize("kind", ["llama", "llama_tied"])
def test_a_head_that_is_the_embedding_stays_it(tmp_path, kind):
    model = models.load(checkpoints.make(tmp_path, kind, quantization=SPEC))
    assert (model.head is model.embedding) == (kind == "llama_tied") and model.head.ends_in(model.norm)


def test_scales_are_in_memory_once(tmp_path):
    folder = checkpoints.make(tmp_path, "qwen3", quantization=SPEC, hidden_size=1024, intermediate_size=2048)
    before = mx.get_active_memory()
    model = models.load(folder)
    weights = sum({id(array): array.nbytes for group in model.weights() for array in group}.values())
    matrices = [w for block in model.blocks for w in (block.mixer.qkv, block.mlp.gate_up)]
    views = [view for w in matrices for view in (w.scales, w.biases)]
    mx.eval(views)
    assert weights > 1 << 20 and mx.get_active_memory() - before < 1.02 * weights
    assert sum(view.nbytes for view in views) > 0.04 * weights
