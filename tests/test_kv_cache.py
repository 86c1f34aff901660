"""Models whose keys and values are packed: every family, on plain ops and on kernels; what is asked for and refused.

Of the largest logit, random float32 models of 2 to 7 layers are off by 0.0005 to 0.006 with 8 bits, and by 0.008 to 0.1 with 4
and turbo4. With 2 of 32 channels of the keys thirty times as large (Llama, 40 tokens, norms over 8 prompts): by 0.54 with 4
bits, by 0.25 with turbo4.
"""

import json

import checkpoints
import checkpoints_gemma
import checkpoints_gemma4
import checkpoints_lfm2
import checkpoints_nemotron_h
import checkpoints_qwen
import checkpoints_qwen3_next
import mlx.core as mx
import pytest
import tiny
from msl.accuracy import kernels_run
from parity import PROMPT, close, feed, goes_back, ours_logits, rows_stand_alone
from runner import Run, launches_of_traced_steps, run
from smelt import models
from smelt.bench import checkpoints as bench
from smelt.engine import kv_cache
from smelt.engine.errors import BadRequest
from smelt.engine.limits import longest
from smelt.engine.options import KV_MODES, Options
from smelt.engine.request import Request
from smelt.engine.scheduler import Limits, Scheduler
from smelt.engine.service import Service
from smelt.engine.step import TracedStep
from smelt.kernels import launch
from smelt.kernels.coding import MODES, coding
from smelt.kernels.pages import LEAST_TABLE, Pages

FAMILIES = {  # name: (its checkpoint, changes that make heads of whole groups)
    "llama": (checkpoints, "llama_tied", {}),
    "mistral": (checkpoints, "mistral_sliding", {"head_dim": 32}),
    "qwen2": (checkpoints_qwen, "qwen2", {"head_dim": 32}),
    "qwen3_moe": (checkpoints_qwen, "qwen3_moe", {"head_dim": 96}),
    "gemma2": (checkpoints_gemma, "gemma2", {}),
    "gemma3": (checkpoints, "gemma3", {"head_dim": 64}),
    "gemma4": (checkpoints_gemma4, "gemma4_all", {"head_dim": 32, "global_head_dim": 64}),  # keys shared, and taken for values
    "qwen3_next": (checkpoints_qwen3_next, "qwen3_next", {}),
    "lfm2": (checkpoints_lfm2, "lfm2", {"num_attention_heads": 2, "num_key_value_heads": 1}),
    "nemotron_h": (checkpoints_nemotron_h, "nemotron_h", {}),
}  # fmt: skip
PACKED = {"4", "8", "turbo2", "turbo4"}


def load(folder, name, **more):
    module, kind, changes = FAMILIES[name]
    return models.load(module.make(folder, kind, **changes | more))


def test_the_words_of_flags_are_those_of_the_codings():
    assert set(KV_MODES) == {"off", *MODES}


@pytest.fixture
def rounding(monkeypatch):
    """Pages that are not packed, but get heads that were packed and unpacked by the mode in the list."""
    mode, write = [], Pages.write

    def rounded(self, k, v, rows):
        if self.coding is None and mode:
            code = coding(mode[0], self.head_dim)
            k, v = (code.turn_back(code.decode(*code.encode(x))).astype(x.dtype) for x in (k, v))
        write(self, k, v, rows)

    monkeypatch.setattr(Pages, "write", rounded)
    return mode


@pytest.mark.parametrize("mode", sorted(PACKED))
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_heads_that_were_rounded_so(tmp_path, name, mode, rounding):
    model = load(tmp_path, name)
    rounding.append(mode)
    expected = ours_logits(model, PROMPT, (24, 1, 4))[0]
    model.pack_kv(mode)
    assert close(ours_logits(model, PROMPT, (24, 1, 4))[0], expected, 1e-3)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gemma4"])
def test_eight_bits_are_near_none_at_all(tmp_path, name):
    """But for Gemma 4, whose random scores are so large that noise of 0.003 in keys moves logits by a tenth."""
    model = load(tmp_path, name)
    expected = ours_logits(model, PROMPT)[0]
    model.pack_kv("8")
    assert close(ours_logits(model, PROMPT)[0], expected, 0.01)


@pytest.mark.parametrize("mode", ["8", "turbo4"])
@pytest.mark.parametrize("name", ["mistral", "gemma4", "qwen3_next"])
def test_going_back_restoring_and_batches(tmp_path, name, mode):
    model = load(tmp_path, name)
    model.pack_kv(mode)
    goes_back(model, 3)
    model.forget()
    rows_stand_alone(model)


OUTLIERS = {"4": 0.54, "turbo4": 0.25}  # norm of the error of logits, by the norm of these


def with_outliers(folder, factor=30.0):
    """A checkpoint of which two channels of all keys are `factor` times as large, and those of queries so much smaller."""
    tensors, config = checkpoints.random_of("llama_tied"), checkpoints.CONFIGS["llama_tied"]
    larger = mx.where(mx.arange(config["head_dim"]) % (config["head_dim"] // 2) == 5, factor, 1.0)  # a pair that turns
    for name, tensor in tensors.items():
        for part, scale in (("k_proj", larger), ("q_proj", 1 / larger)):
            if part in name:
                tensors[name] = tensor * mx.tile(scale, len(tensor) // len(scale))[:, None]
    folder.mkdir()
    bench.write_shards(folder, tensors, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_turning_helps_where_keys_have_outliers(tmp_path):
    """Channels of keys that are large in all tokens are what trained models have (Liu et al. 2024, KIVI)."""
    model = models.load(with_outliers(tmp_path / "model"))
    prompts = [PROMPT[i:] + PROMPT[:i] for i in range(0, 40, 5)]
    expected = [ours_logits(model, prompt)[0] for prompt in prompts]
    away = {}
    for mode in OUTLIERS:
        model.pack_kv(mode)
        differences = [ours_logits(model, prompt)[0] - logits for prompt, logits in zip(prompts, expected, strict=True)]
        away[mode] = float(mx.linalg.norm(mx.stack(differences)) / mx.linalg.norm(mx.stack(expected)))
    assert away == pytest.approx(OUTLIERS, rel=0.1)


# On kernels


def packed_model(folder, mode, reading="auto"):
    spec = {"group_size": 32, "bits": 4, "mode": "affine"}
    model = models.load(checkpoints_qwen.make(folder, "qwen3_moe", moe_intermediate_size=64, quantization=spec))
    model.pack_kv(mode, reading)
    return model


@pytest.mark.parametrize("mode", sorted(PACKED))
def test_kernels_give_the_logits_of_plain_ops(tmp_path, mode, monkeypatch):
    model = packed_model(tmp_path, mode)
    plain = ours_logits(model, PROMPT[:20], (8, 1))[0]
    model.forget()
    monkeypatch.setattr(launch, "_ways", {})
    with kernels_run("random"):
        assert close(ours_logits(model, PROMPT[:20], (8, 1))[0], plain, 1e-3)
    ways = {(way.op, way.way) for way in launch.report()}
    assert {("packed_attention", "kernel"), ("packed_qk_norm_rope", "kernel"), ("pages", "kernel")} <= ways


def test_dense_reading_of_pages_that_kernels_write(tmp_path):
    model = packed_model(tmp_path, "turbo4", "dense")
    plain = ours_logits(model, PROMPT[:20], (8, 1))[0]
    model.forget()
    with kernels_run():
        assert close(ours_logits(model, PROMPT[:20], (8, 1))[0], plain, 1e-3)
        goes_back(model, 3)


@pytest.mark.parametrize("mode", ["8", "turbo2"])
def test_a_row_has_the_same_bits_decoded_verified_and_in_a_batch(tmp_path, mode):
    model, lengths = packed_model(tmp_path, mode), (11, 6)
    with kernels_run():
        alone = []
        for length in lengths:
            memory = model.memory()
            row = memory.open()
            feed(model, memory, row, PROMPT[:length])
            alone.append([feed(model, memory, row, [token]) for token in PROMPT[length : length + 4]])
            model.forget()
        memory = model.memory()
        rows = [memory.open() for _ in lengths]
        for row, length in zip(rows, lengths, strict=True):
            feed(model, memory, row, PROMPT[:length])
        tokens = mx.array([PROMPT[n : n + 4] for n in lengths])
        together = model.logits(model(tokens, memory.step(rows, 4, keep=True)))
        mx.eval(together)
    assert all(mx.array_equal(together[row, t], alone[row][t]) for row in range(2) for t in range(4))


@pytest.mark.parametrize("reading", ["auto", "dense"])
def test_traced_and_built_steps_draw_the_same(tmp_path, reading, monkeypatch):
    """A traced step writes to pools that it does not hold, or, without kernels, takes and gives them."""
    model = load(tmp_path, "mistral")
    model.pack_kv("turbo4", reading)
    found = []
    for traced in (True, False):
        model.forget()
        monkeypatch.setattr(TracedStep, "worthwhile", traced)
        runs = [Run(PROMPT[:n], 70 + i, seed=i) for i, n in enumerate((40, 7, 33))]
        run(Scheduler(model, Limits(rows=2, chunk=16)), *runs)
        found.append([r.tokens for r in runs])
    assert found[0] == found[1]


@pytest.mark.parametrize("parts", [1, 2])
def test_a_traced_step_launches_two_kernels_for_the_attention_of_a_layer(tmp_path, monkeypatch, parts):
    model = packed_model(tmp_path, "turbo4")
    knobs = {"span": LEAST_TABLE // parts, "join": "last"}
    with launches_of_traced_steps(monkeypatch) as launched, launch.forced("packed_attention", knobs):
        scheduler = Scheduler(model, Limits())
        one = Run(PROMPT[:12], 12)
        scheduler.add(one.sequence)
        scheduler.tick()
        launched.clear()
        while not scheduler.idle:
            scheduler.tick()
    attention = [name for name in launched if "attention" in name or "qk" in name or "pages" in name]
    assert attention == ["packed_qk_norm_rope", "packed_attention"] * len(model.blocks)
    assert launched.count("rotation") == 1 and launched.count("workspace") == parts - 1, "for all layers together"


# What is asked for


def test_more_context_fits(tmp_path):
    """By the bits of an element and its part of a scale and a bias; what it takes to unpack a layer counts, too."""
    model = load(tmp_path, "llama", num_hidden_layers=12, dtype=mx.bfloat16, head_dim=64)
    plain = longest(model.memory(), 1 << 20, 1 << 20)
    model.pack_kv("4")
    packed, memory = longest(model.memory(), 1 << 20, 1 << 20), model.memory()
    assert 2 < packed / plain < 16 / (4 + 2 * 16 / 64)
    row = memory.open(200)
    feed(model, memory, row, PROMPT)
    held = sum(pages.slot_bytes * memory.paging[pages.window].slots for pages in memory.pages)
    assert memory.nbytes == held


def test_heads_that_do_not_suit_it_are_refused(tmp_path):
    model = models.load(checkpoints.make(tmp_path, "llama"))
    with pytest.raises(kv_cache.Unfit, match="--kv-quant 8 is not possible with this model: heads of 16"):
        kv_cache.prepare(model, "8")
    kv_cache.prepare(model, "off")
    assert all(pages.coding is None for pages in model.pages())


def test_fused_is_refused_where_it_cannot_be(tmp_path, monkeypatch):
    model = load(tmp_path, "llama")
    kv_cache.prepare(model, "4", "fused")
    with pytest.raises(kv_cache.Unfit, match="--kv-attn-mode fused is not possible here: MLX computes on the CPU"):
        kv_cache.require(model, Options(kv_quant="4", kv_attn_mode="fused"))
    kv_cache.require(model, Options(kv_quant="4"))
    with kernels_run():
        kv_cache.require(model, Options(kv_quant="4", kv_attn_mode="fused"))
        monkeypatch.setenv("SMELT_KERNELS", "-packed_attention")
        with pytest.raises(kv_cache.Unfit, match="switched off by SMELT_KERNELS"):
            kv_cache.require(model, Options(kv_quant="4", kv_attn_mode="fused"))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    made = Service(Options(model=str(tiny.make(tmp_path_factory.mktemp("tiny"), head_dim=32)), kv_quant="turbo4", warmup=False))
    made.start()
    made.wait_ready(60)
    yield made
    made.close()


@pytest.mark.parametrize("asked", [None, "turbo4"])
def test_a_request_may_name_what_there_is(service, asked):
    events = list(service.submit(Request(text="Hello", max_tokens=5, kv_quant=asked)))
    assert events[-1].usage.completion_tokens == 5
    assert all(pages.coding.title == "4-bit turned" for pages in service.engine.model.pages())
    assert service.info.kv_quant == "turbo4"


@pytest.mark.parametrize("asked", ["off", "4"])
def test_a_request_for_another_is_refused_with_both_names(service, asked):
    with pytest.raises(BadRequest, match=f"kv_quant is {asked}; .* --kv-quant turbo4") as refused:
        service.submit(Request(text="Hello", kv_quant=asked))
    assert refused.value.param == "kv_quant"
