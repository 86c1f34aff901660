"""A kernel that is wrong or raises on this chip is switched off by name, the others stay on."""

import checkpoints
import checkpoints_nemotron_h
import checkpoints_qwen3_next
import mlx.core as mx
import pytest
from msl.emulator import Emulator
from smelt import models
from smelt.engine import selfcheck
from smelt.engine.step import TracedStep
from smelt.kernels import launch
from test_tune import damaged


@pytest.fixture(autouse=True)
def clean():
    yield
    launch.turn_on_again()
    TracedStep.off = None


SPEC = {"group_size": 32, "bits": 4, "mode": "affine"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return models.load(checkpoints.make(folder, "qwen3", quantization=SPEC, num_hidden_layers=2))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """With sandwich norms."""
    return models.load(checkpoints.make(tmp_path_factory.mktemp("gemma"), "gemma3", quantization=SPEC))


@pytest.fixture(scope="module")
def delta_net(tmp_path_factory):
    """With experts, and heads that the kernels cover."""
    folder = tmp_path_factory.mktemp("delta")
    changes = {"moe_intermediate_size": 64, "linear_key_head_dim": 32, "num_hidden_layers": 2, "mlp_only_layers": []}
    return models.load(checkpoints_qwen3_next.make(folder, "qwen3_next", **changes))


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mamba")
    return models.load(checkpoints_nemotron_h.make(folder, "nemotron_h", ssm_state_size=32, hybrid_override_pattern="M-*"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """With packed keys and values."""
    folder = tmp_path_factory.mktemp("packed")
    made = models.load(checkpoints.make(folder, "qwen3", quantization=SPEC, num_hidden_layers=2))
    made.pack_kv("turbo4")
    return made


DENSE = ("embed", "linear", "attention", "pages", "qk_norm_rope", "self_attention")
CASES = [
    *(("model", op) for op in DENSE),
    *(("delta_net", op) for op in ("router", "experts", "short_conv", "gated_delta")),
    *(("mamba", op) for op in ("mamba2", "gated_group_norm")),
    ("gemma", "add_norm"),
    ("model", "sample"),
    *(("packed", op) for op in ("packed_qk_norm_rope", "packed_attention")),
]


def broken(name, how):
    """The emulator, with one kernel that does wrong."""
    emulator = Emulator()

    def run(kernel, inputs, outputs, template, groups, threads):
        if kernel.name.startswith(name) and how == "raises":
            raise RuntimeError("no such instruction")
        made = emulator(kernel, inputs, outputs, template, groups, threads)
        return [damaged(made[0]), *made[1:]] if kernel.name.startswith(name) else made

    return run


def test_working_kernels_stay_on(model):
    with launch.through(Emulator()):
        selfcheck.check(model)
        assert {launch.unavailable(op) for op in selfcheck.OPS} == {None}


def test_where_heads_are_packed_other_kernels_are_compared_without_that(packed, monkeypatch):
    """Kernels round otherwise than their references, by which codes of few bits change: that is no fault of theirs."""
    compared, original = {}, selfcheck.fault

    def noting(model, op, plain, allowed):
        compared[op] = selfcheck.packed(model), allowed
        return original(model, op, plain, allowed)

    monkeypatch.setattr(selfcheck, "fault", noting)
    with launch.through(Emulator()):
        selfcheck.check(packed)
    codings = {op for op, (is_packed, _) in compared.items() if is_packed}
    assert codings == set(selfcheck.OF_PACKED) and {"linear", "embed", "sample"} <= compared.keys() - codings
    assert all(allowed == (selfcheck.PACKED if op in codings else selfcheck.TOLERANCE)[packed.dtype] for op, (_, allowed) in compared.items())
    assert "self_attention" not in compared, "it never runs over packed heads: why compile it at start?"
    assert selfcheck.packed(packed) and not launch.turned_off()


def test_every_op_is_checked_by_a_test():
    assert tuple(op for _, op in CASES) == selfcheck.OPS


def test_an_op_that_the_model_has_not_is_not_tried(model, monkeypatch):
    tried = []
    monkeypatch.setattr(selfcheck, "fault", lambda model, op, plain, allowed: tried.append(op))
    with launch.through(Emulator()):
        selfcheck.check(model)
    assert tuple(tried) == (*DENSE, "sample")


@pytest.mark.parametrize("made, op", CASES)
@pytest.mark.parametrize("how", ["raises", "is wrong"])
def test_a_broken_kernel_is_switched_off_alone(request, made, op, how):
    with launch.through(broken(op, how)):
        selfcheck.check(request.getfixturevalue(made))
        found = {other: launch.unavailable(other) for other in selfcheck.OPS}
    words = "no such instruction" if how == "raises" else ("it draws" if op == "sample" else "away")
    assert words in found.pop(op) and set(found.values()) == {None}


def test_wrong_logprobs_are_noticed(model):
    emulator = Emulator()

    def run(kernel, inputs, outputs, template, groups, threads):
        made = emulator(kernel, inputs, outputs, template, groups, threads)
        if kernel.name == "sample_merge" and template["SCORES"]:
            tokens, logprobs, *rest = mx.split(made[0], [groups[0], 2 * groups[0]])
            made = [mx.concatenate([tokens, (logprobs.view(mx.float32) + 0.1).view(mx.uint32), *rest])]
        return made

    with launch.through(run):
        selfcheck.check(model)
        assert "logprobs" in launch.unavailable("sample")


def test_a_trace_that_fails_is_not_used(model, monkeypatch):
    def traced(*args):
        raise ValueError("cannot trace this")

    monkeypatch.setattr(launch, "machine", lambda: "cuda")
    monkeypatch.setenv("SMELT_KERNELS", "reference")
    monkeypatch.setattr(TracedStep, "traced", staticmethod(traced))
    selfcheck.check_trace(model)
    assert "cannot trace this" in TracedStep.off
    assert not TracedStep(model, model.memory()).worthwhile


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_trace_that_is_wrong_is_not_used(model, monkeypatch, wrong):
    """Of one token, or only where drafts are verified."""
    trace = TracedStep.traced

    def traced(model, memory, given, plan, slots, fresh, new):
        made, pieces, *rest = trace(model, memory, given, plan, slots, fresh, new)
        if (new > 1) == (wrong > 1):
            tokens = (made[0] + 1) % model.vocab
            made, pieces = [tokens, *made[1:]], [[tokens], *pieces[1:]]
        return made, pieces, *rest

    monkeypatch.setattr(launch, "machine", lambda: "cuda")
    monkeypatch.setenv("SMELT_KERNELS", "reference")
    monkeypatch.setattr(TracedStep, "traced", staticmethod(traced))
    selfcheck.check_trace(model)
    assert TracedStep.off == "it draws other tokens"


def test_on_a_cpu_there_is_nothing_to_check(model, monkeypatch):
    monkeypatch.setattr(selfcheck, "logits", lambda model: pytest.fail("computed"))
    selfcheck.check(model)
