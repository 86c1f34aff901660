"""Every op's space, in the models that run it: right kernels pass, a wrong one is found, every candidate can run."""

import itertools

import mlx.core as mx
import pytest
from cuda_fake import Driver
from msl.emulator import RUNS_HERE
from smelt import models
from smelt.bench import checkpoints, packed
from smelt.engine import tune, verify
from smelt.kernels import attention_kernel, launch, search, timing, tuning, tuning_spaces
from smelt.kernels.device_timing import DeviceTimer
from smelt.kernels.pages import Pages
from smelt.kernels.tuning_spaces import SPACES
from test_models_on_kernels import MODELS, load
from test_tune import Device

pytestmark = pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")
SPACE = {space.op: space for space in SPACES}
OPS = dict.fromkeys(("embed", "sample", "self_attention", "attention", "qk_norm_rope"), "qwen3_moe")
OPS |= {"add_norm": "gemma3", "packed_attention": "packed"}
OPS |= {op: name for name, (*_, ops) in reversed(MODELS.items()) for op in ops}


def loaded(folder, name):
    if name == "packed":
        model = load(folder, "qwen3_moe")
        model.pack_kv("turbo4")
        return model
    if name != "gemma3":
        return load(folder, name)
    return models.load(packed.write(folder, checkpoints.SHAPES["tiny-gemma"], dtype=mx.float32))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """name of a model -> the calls of its decode steps with 1 row and 2."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "ROWS", (1, 2))
        patch.setattr(tune, "CONTEXT", 12)
        for name in sorted(set(OPS.values())):
            with launch.through(Device(lambda name, template: 1)):
                model = loaded(tmp_path_factory.mktemp(name), name)
                found[name] = {op: tune.recorded(model, (op,)).get(op, []) for op in SPACE}
    return found


def test_every_space_is_of_an_op_that_some_model_runs():
    assert set(OPS) == set(SPACE)


@pytest.mark.parametrize("op", SPACE)
def test_a_right_kernel_passes_and_a_wrong_one_is_found(op, recorded):
    space, calls = SPACE[op], recorded[OPS[op]][op]
    assert len(calls) >= 2, "with one row and with two"
    with launch.through(device := Device(lambda name, template: 1)):
        for call in calls:
            assert tuning.fault(space, call, tuning.exact(space, call)) is None
        device.broken = lambda name, template: name.startswith(op)
        found = [tuning.fault(space, call, tuning.exact(space, call)) for call in calls]
    if op == "sample":  # what is flipped there may have one element
        found = [why for why in found if why]
    assert found and all("away" in why for why in found)


@pytest.mark.parametrize("op", SPACE)
def test_what_is_timed_on_a_cuda_device_is_what_the_kernel_launches(op, recorded, monkeypatch):
    space, calls, driver = SPACE[op], recorded[OPS[op]][op], Driver().install(monkeypatch)
    with launch.through(device := Device(lambda name, template: 1)):
        for call in calls:
            mx.eval(space.fused(space.fresh(call)))
        launched = [(kernel.name, *how) for kernel, _, _, _, *how in device.emulator.launches]
        timer = DeviceTimer(rotated=1, calls=2, rounds=3)
        run = timer.chained(timing.Chain(space.fused), timer.rotation(calls, space))
    (timed,) = driver.captured
    assert [(each.name, each.groups, each.threads) for each in timed[: len(launched)]] == launched
    assert len(timed) == 2 * len(launched) and run() == pytest.approx(len(launched) / len(calls))


@pytest.mark.parametrize("op", [op for op in SPACE if op not in ("embed", "router")])
def test_candidates_are_what_the_kernel_asks_for(op, recorded):
    """And the first, a middle and the last of them give right results."""
    space = SPACE[op]
    with launch.through(Device(lambda name, template: 1)):
        cases = search.cases_of([space], recorded[OPS[op]])
        asked = {case.op.partition("_down")[0].partition(" ")[0] for case in cases}
        assert asked == {"attention" if op == "self_attention" else op}
        for case in cases:
            found = case.candidates()
            assert set(case.default) <= set(found[0]) and len({str(knobs) for knobs in found}) == len(found) > 1
            for knobs in (found[0], found[len(found) // 2], found[-1]):
                with launch.forced(case.op, knobs):
                    for call in case.calls[:2]:
                        assert tuning.fault(space, call, tuning.exact(space, call)) is None, knobs


def test_heads_that_both_walks_take_have_candidates_of_both():
    walks = {}
    for head_dim, dtype in itertools.product((64, 96), (mx.bfloat16, mx.float32)):
        call = tuning.Call((mx.zeros((1, 2, 1, head_dim), dtype), Pages(1, head_dim, dtype), None), {})
        walks[head_dim, dtype] = {knobs["walk"] for knobs in SPACE["attention"].candidates("attention", {}, call)}
    assert walks.pop((64, mx.bfloat16)) == {"tiles", "lanes"}
    assert all(found == {"lanes"} for found in walks.values())


@pytest.mark.parametrize("ways", [("last", "merge"), ("merge",)])
@pytest.mark.parametrize("op", ["attention", "packed_attention"])
def test_parts_are_joined_in_every_way_that_there_is(op, ways, recorded, monkeypatch):
    monkeypatch.setattr(attention_kernel, "joins", lambda: ways)
    with launch.through(Device(lambda name, template: 1)):
        (case,) = search.cases_of([SPACE[op]], recorded[OPS[op]])
        found = case.candidates()
    others = [{str({**knobs, "join": None}) for knobs in found if knobs["join"] == join} for join in ways]
    assert {knobs["join"] for knobs in found} == set(ways) and all(each == others[0] for each in others)


def test_experts_take_turns_in_a_rotation(recorded):
    space, call = SPACE["experts"], recorded["qwen3_moe"]["experts"][0]
    timer = timing.Timer(rotated=3 * space.reads(call), calls=8)
    rotation = timer.rotation([call], space)
    asked = [tuple(call.args[1].indices.flatten().tolist()) for call in rotation]
    assert len(rotation) == 3 and len(set(asked)) == 3 and rotation[0].args[2] is rotation[1].args[2]
    assert max(max(indices) for indices in asked) < len(call.args[2].weight)
    assert all(call.args[1].whole for call in rotation)


def test_experts_of_equal_worth_are_as_good_as_each_other(recorded):
    call = recorded["qwen3_moe"]["router"][0]
    call = call.linked(lambda x: mx.zeros(x.shape, x.dtype))
    arrays = SPACE["router"].plain(call)
    other = [(arrays[0] + 1) % call.first.shape[-1], arrays[1]]
    settled = [tuning_spaces.router_settled(each, call) for each in (arrays, other)]
    assert all(mx.array_equal(a, b) for a, b in zip(*settled, strict=True))


def test_the_doctor_finds_every_op_of_a_mixture(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "ROWS", (1,))
    monkeypatch.setattr(tune, "CONTEXT", 12)
    device = Device(lambda name, template: 1)
    with launch.through(device):
        verdicts = verify.verify(load(tmp_path, "nemotron_h"), device.timer)
    assert {v.op for v in verdicts} >= {"linear", "router", "experts", "short_conv", "mamba2", "gated_group_norm"}
    assert not [v for v in verdicts if v.verdict == verify.WRONG]


@pytest.mark.parametrize("choices", [*tuning_spaces.ATTENTION.values(), tuning_spaces.WALK, tuning_spaces.SAMPLE, *tuning_spaces.LINEAR.values()])
def test_on_metal_only_threadgroups_for_any_number_of_registers_are_tried(choices, monkeypatch):
    """What is tuned with one row is also launched with eight, which take more registers; MLX would raise then."""
    monkeypatch.setattr(launch, "machine", lambda: "metal")
    found = list(tuning_spaces.combinations(choices))
    assert found and all(max(knobs.get(name, 1) for name in ("simds", "merge_simds")) <= launch.METAL_SIMDS for knobs in found)
