"""The tuner on tiny shapes: the emulator in place of a GPU, and a clock that the launches move."""

import json

import checkpoints
import mlx.core as mx
import pytest
import tiny
from msl.emulator import RUNS_HERE, Emulator
from smelt import models
from smelt.api import cli
from smelt.engine import tune, verify
from smelt.kernels import launch, linear_kernel, search, table, tuning_spaces
from smelt.kernels.linear import pack
from smelt.kernels.timing import Timer
from smelt.kernels.tuning import Call
from test_tuning import Clock

pytestmark = pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")
SPEC = {"group_size": 32, "bits": 4, "mode": "affine"}
LANES = {"simds": (1, 2, 4), "split": (1,), "rows": (2, 4), "values": (8,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.make(tmp_path_factory.mktemp("model"), "qwen3", quantization=SPEC, num_hidden_layers=1)


@pytest.fixture(scope="module")
def model(folder):
    return models.load(folder)


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.setenv("SMELT_HOME", str(tmp_path))
    monkeypatch.setattr(tuning_spaces, "LINEAR", {"lanes": LANES})
    attention = {"span": (1, 2), "simds": (1, 4, 8), "batch": (1, 2), "tile": (4,)}
    monkeypatch.setattr(tuning_spaces, "ATTENTION", {"lanes": attention})
    monkeypatch.setattr(tune, "ROWS", (1, 2))
    monkeypatch.setattr(tune, "CONTEXT", 20)
    monkeypatch.delenv("SMELT_TUNE", raising=False)
    monkeypatch.setenv("SMELT_KERNELS", "-self_attention")  # so that its parts run by themselves
    yield
    launch.use_table(None)
    launch.turn_on_again()


class Device:
    """The emulator as a GPU whose launches take time: `cost` says microseconds of (kernel's name, template)."""

    def __init__(self, cost, broken=lambda name, template: False):
        self.clock, self.emulator, self.cost, self.broken = Clock(), Emulator(), cost, broken

    def __call__(self, kernel, inputs, outputs, template, groups, threads):
        self.clock.now += 1e-6 * self.cost(kernel.name, template)
        made = self.emulator(kernel, inputs, outputs, template, groups, threads)
        return [damaged(made[0]), *made[1:]] if self.broken(kernel.name, template) else made

    @property
    def timer(self):
        return Timer(rotated=1, calls=2, rounds=3, clock=self.clock)


def damaged(x):
    """The first of its rows backwards: of a router's words the indices, which then have each other's weights."""
    return mx.flip(x, -1) if x.ndim == 1 else mx.concatenate([mx.flip(x[:1], -1), x[1:]])


def best_at(**wanted):
    """Ten microseconds, and one more for each knob that is not what is wanted."""
    return lambda name, template: 10 + sum(template.get(knob.upper(), value) != value for knob, value in wanted.items())


def searched(device, model, seconds=60.0, ops=()):
    with launch.through(device):
        return tune.tune(model, device.timer, seconds, ops)


def test_the_fastest_knobs_of_every_op_are_found(model):
    device = Device(best_at(simds=1, rows=2, batch=1))
    found = {(f.op, f.key): f for f in searched(device, model)}
    assert {op for op, _ in found} == {"linear", "attention", "qk_norm_rope", "sample"}
    for (op, _), result in found.items():
        assert result.tried == result.candidates and not result.wrong
        assert result.knobs["simds"] == 1 and result.us < 0.97 * result.before_us
        assert {"linear": result.knobs.get("rows") == 2, "attention": result.knobs.get("batch") == 1}.get(op, True)


def test_what_was_found_is_kept_and_used_afterwards(model, tmp_path):
    found = searched(Device(best_at(simds=1)), model, ops=("attention",))
    own = tune.keep(tmp_path / "t.json", search.entries(found), ("attention",))
    assert own.ops == launch.own_table().ops
    (key,) = own.ops["attention"]
    assert launch.knobs("attention", key, {"simds": 4, "batch": 8})["simds"] == 1
    assert "candidates tried" in own.ops["attention"][key]["note"]


def test_a_gain_of_less_than_three_percent_is_none(model):
    device = Device(lambda name, template: 10 + (0.2 if template.get("SIMDS") == 4 else 0.0))
    assert [f.knobs for f in searched(device, model, ops=("attention",))] == [None]


def test_a_wrong_candidate_is_never_timed_nor_chosen(model):
    device = Device(best_at(simds=1), broken=lambda name, t: name == "attention" and t["SIMDS"] == 1)
    (found,) = searched(device, model, ops=("attention",))
    assert {knobs["simds"] for knobs, _ in found.wrong} == {1} and "away" in found.wrong[0][1]
    assert found.knobs is None or found.knobs["simds"] != 1


def test_time_is_bounded_and_shared(model):
    device = Device(lambda name, template: 1e6 * 0.3)  # a launch takes a third of a second
    with launch.through(device):
        cases = search.cases_of(tuning_spaces.SPACES, tune.recorded(model))
        began = device.clock.now
        found = search.Tuner(device.timer, 60.0).tune(cases)
    assert device.clock.now - began < 60.0 + 30.0
    assert any(f.tried < f.candidates for f in found) and len({f.op for f in found}) > 1


def test_on_cuda_candidates_are_compiled_together_before_they_are_tried(model, monkeypatch):
    from smelt.kernels import cuda

    with launch.through(Device(lambda name, template: 1)):
        (case,) = [c for c in search.cases_of(tuning_spaces.SPACES, tune.recorded(model)) if c.op == "qk_norm_rope"]
    built = []

    def build(kernel, in_types, out_types, template, threads, same):
        built.append((kernel.name, template["SIMDS"], threads, len(in_types) == len(kernel.inputs)))
        raise RuntimeError("NVRTC refused a kernel")

    monkeypatch.setattr(launch, "machine", lambda: "cuda")
    monkeypatch.setattr(cuda, "build", build)
    search.build_ahead(case, [{"simds": 1}, {"simds": 2}])
    assert sorted(set(built)) == [("qk_norm_rope", 1, 32, True), ("qk_norm_rope", 2, 64, True)]


def test_progress_is_told_up_to_the_end(model):
    told, device = [], Device(best_at(simds=1))
    with launch.through(device):
        tune.tune(model, device.timer, 60.0, ("qk_norm_rope",), lambda *what: told.append(what))
    assert told[0][1] < told[0][2] and told[-1][1] == told[-1][2]
    assert {name for name, *_ in told} == {"qk_norm_rope *"}


def test_entries_of_other_ops_stay(tmp_path):
    path = tmp_path / "t.json"
    one = {"knobs": {"x": 1}}
    tune.keep(path, {"linear": {"a": one}, "attention": {"32": one}}, off={"router": "slow"})
    tune.keep(path, {"linear": {"b": {"knobs": {"x": 2}}}}, ("linear",))
    own = table.read(path, launch.chip())
    assert set(own.ops) == {"linear", "attention", "off"} and set(own.ops["linear"]) == {"b"}
    tune.keep(path, {}, off={})
    assert "off" not in table.read(path, launch.chip()).ops


@pytest.mark.parametrize("machine, kernels", [("cuda", {"bytes", "tiles", "lanes"}), ("metal", {"tiles", "lanes"})])
def test_all_candidates_of_linear_are_possible_and_few_enough(monkeypatch, machine, kernels):
    monkeypatch.undo()
    monkeypatch.setattr(launch, "machine", lambda: machine)
    monkeypatch.setattr(launch, "cores", lambda: 132)
    monkeypatch.setattr(launch, "core_memory", lambda: 228)
    weight = pack(mx.zeros((2 * 9728, 2560), mx.bfloat16))
    call = Call((mx.zeros((1, 2560), mx.bfloat16), weight, None, None, "silu", None), {})
    found = list(tuning_spaces.linear_candidates("linear", {}, call))
    assert {knobs["kernel"] for knobs in found} == kernels and 20 < len(found) < 600
    assert all(not linear_kernel.impossible(k, 4, 64, 2560, True, mx.bfloat16) for k in found)
    assert any(k.get("outs") == -(-9728 // (132 * 2)) for k in found), "every core the same"


# ---- verify


def verified(device, model):
    with launch.through(device):
        return verify.verify(model, device.timer)


def ticking(monkeypatch, clock, us):
    """Plain ops take time on the same clock."""
    for space in tuning_spaces.SPACES:
        real = space.reference

        def reference(*args, real=real, **kwargs):
            clock.now += us * 1e-6
            return real(*args, **kwargs)

        monkeypatch.setitem(space.__dict__, "reference", reference)


def test_every_kernel_is_verified_and_timed_beside_plain_ops(model, monkeypatch):
    device = Device(lambda name, template: 10)
    ticking(monkeypatch, device.clock, 40)
    verdicts = verified(device, model)
    assert {v.op for v in verdicts} == {"embed", "linear", "attention", "qk_norm_rope", "sample"}
    assert {v.verdict for v in verdicts} == {"good"} and verify.switched_off(verdicts) == {}
    launches = {"sample": 2}
    assert all(3.9 < v.ratio * launches.get(v.op, 1) < 4.1 for v in verdicts)


def test_a_slower_kernel_is_switched_off(model, monkeypatch):
    device = Device(lambda name, template: 50 if name.startswith("attention") else 10)
    ticking(monkeypatch, device.clock, 40)
    off = verify.switched_off(verified(device, model))
    assert set(off) == {"attention"}
    assert off["attention"].startswith("slower on this chip than plain ops: 100.0 us, 80.0")


def test_a_wrong_kernel_is_switched_off_whatever_its_time(model, monkeypatch):
    device = Device(lambda name, template: 1, broken=lambda name, template: name == "qk_norm_rope")
    ticking(monkeypatch, device.clock, 40)
    off = verify.switched_off(verified(device, model))
    assert set(off) == {"qk_norm_rope"} and "wrong on this chip" in off["qk_norm_rope"]


def test_a_kernel_that_raises_is_switched_off(model, monkeypatch):
    def broken(name, template):
        if name.startswith("linear"):
            raise RuntimeError("no such instruction")

    device = Device(lambda name, template: 1, broken)
    ticking(monkeypatch, device.clock, 40)
    off = verify.switched_off(verified(device, model))
    assert set(off) == {"linear"} and "no such instruction" in off["linear"]


# ---- the commands


def smelt(capsys, *words):
    status = cli.main(words)
    out, err = capsys.readouterr()
    return status, out, err


def test_without_a_gpu_the_command_says_what_is_missing(capsys, folder):
    status, out, err = smelt(capsys, "tune", str(folder))
    assert status == 1 and not out and err.count("\n") == 1
    assert "MLX computes on the CPU here" in err and "smelt[cuda]" in err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """With a tokenizer."""
    return tiny.make(tmp_path_factory.mktemp("whole"), quantization=SPEC, num_hidden_layers=1)


def quick(monkeypatch, device):
    """What the commands would take from a real GPU."""
    monkeypatch.setattr(tune, "tuning_timer", lambda *given: device.timer)
    monkeypatch.setattr(verify, "Timer", lambda **more: device.timer)
    return launch.through(device)


def test_the_command_writes_the_table_of_this_chip(capsys, whole, tmp_path, monkeypatch):
    words = ("tune", str(whole), "--quick", "--op", "qk_norm_rope")
    with quick(monkeypatch, Device(best_at(simds=1))):
        status, out, err = smelt(capsys, *words, "--dry-run")
        assert status == 0 and "Nothing was kept" in out and "KNOBS" in out and "simds=1" in out, err
        assert not table.path_in(tmp_path, "cpu").exists()
        said = json.loads(smelt(capsys, *words, "--json")[1])
    own = table.read(table.path_in(tmp_path, "cpu"), launch.chip())
    assert said["table"] == str(own.path) and said["found"][0]["knobs"] == {"simds": 1}
    assert own.ops["qk_norm_rope"]["*"]["knobs"] == {"simds": 1}


def test_a_bad_time_is_refused(capsys, folder):
    status, out, err = smelt(capsys, "tune", "--seconds", "soon")
    assert status == 2 and "--seconds" in err


def test_the_doctors_card(capsys, whole, tmp_path, monkeypatch):
    device = Device(lambda name, template: 10, broken=lambda name, template: name == "qk_norm_rope")
    ticking(monkeypatch, device.clock, 40)
    with quick(monkeypatch, device):
        status, out, err = smelt(capsys, "doctor", str(whole), "--json")
    said = json.loads(out)
    assert status == 1 and said["broken"] == ["Kernels beside plain ops"]
    assert {v["op"] for v in said["verdicts"] if v["verdict"] == "wrong"} == {"qk_norm_rope"}
    assert set(table.read(table.path_in(tmp_path, "cpu"), launch.chip()).ops["off"]) == {"qk_norm_rope"}
    device.broken = lambda name, template: False
    with quick(monkeypatch, device):
        status, out, err = smelt(capsys, "doctor", str(whole))
    assert status == 0 and "PLAIN OPS, us" in out and "All of it works." in out
    assert "off" not in table.read(table.path_in(tmp_path, "cpu"), launch.chip()).ops


def test_the_doctor_and_the_tuner_take_the_kv_cache_that_is_served(capsys, whole, monkeypatch):
    device = Device(lambda name, template: 10)
    ticking(monkeypatch, device.clock, 40)
    with quick(monkeypatch, device):
        status, out, err = smelt(capsys, "doctor", str(whole), "--kv-quant", "turbo4", "--json")
        said = json.loads(out)
        tuned = json.loads(smelt(capsys, "tune", str(whole), "--kv-quant", "8", "--op", "packed_attention", "--quick", "--json")[1])
    assert status == 0 and {"packed_attention", "linear"} <= {v["op"] for v in said["verdicts"]}
    lines = next(check["lines"] for check in said["checks"] if check["title"] == "Kernels")
    assert any(op.startswith("packed_attention") and "4-bit turned" in op and way.startswith("kernel") for op, way in lines)
    assert tuned["found"][0]["key"] == "32 8-bit" and tuned["found"][0]["candidates"] > 1
