"""Which way an op runs and why; the switches; the tables of knobs; what CUDA is given."""


import mlx.core as mx
import pytest
from msl.emulator import RUNS_HERE, Emulator
from smelt.kernels import cubins, cuda, launch, linear_kernel
from smelt.kernels.linear import linear, pack


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.delenv("SMELT_KERNELS", raising=False)
    monkeypatch.setattr(launch, "machine", lambda: "cpu")
    yield
    launch.use_table(None)


def test_on_the_cpu_every_op_takes_its_reference_and_says_why():
    assert not launch.uses_kernel("an op", ("some case",), None)
    way = next(way for way in launch.report() if way.op == "an op")
    assert (way.way, way.why, way.case) == ("reference", "MLX computes on the CPU", "some case")


def test_report_counts_calls_by_case_and_reason():
    with launch.through(Emulator()):
        for refusal in (None, None, "too odd"):
            launch.uses_kernel("counted", (1, "case"), refusal)
    ways = {(way.way, way.why): way.calls for way in launch.report() if way.op == "counted"}
    assert ways == {("kernel", ""): 2, ("reference", "too odd"): 1}


@pytest.mark.parametrize(
    "setting, off",
    [("reference", True), ("-linear", True), ("-router, -linear", True), ("-router", False), ("", False)],
)
def test_switches(monkeypatch, setting, off):
    monkeypatch.setenv("SMELT_KERNELS", setting)
    with launch.through(Emulator()):
        assert launch.uses_kernel("linear", (setting,), None) is not off


def test_a_switch_that_means_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("SMELT_KERNELS", "linear")
    with (
        launch.through(Emulator()),
        pytest.raises(ValueError, match="neither 'reference' nor a name with '-' before it"),
    ):
        launch.uses_kernel("linear", (), None)


@pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")
def test_a_switched_off_kernel_gives_the_reference_result(monkeypatch):
    weight, x = pack(mx.random.normal((16, 64))), mx.random.normal((1, 64))
    emulator = Emulator()
    with launch.through(emulator):
        linear(x, weight)
        assert len(emulator.launches) == 1
        monkeypatch.setenv("SMELT_KERNELS", "-linear")
        linear(x, weight)
    assert len(emulator.launches) == 1


def test_a_file_without_its_body_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "MSL", tmp_path)
    (tmp_path / "empty.metal").write_text("// nothing\n")
    with pytest.raises(ValueError, match="empty.metal needs the line '// ---- body' once, it has 0"):
        launch.Kernel("empty", ("a",), ("o",)).text  # noqa: B018


def test_includes_are_inserted_once(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "MSL", tmp_path)
    (tmp_path / "a.metal").write_text("// a\n")
    (tmp_path / "b.metal").write_text('#include "a.metal"\n// b\n')
    (tmp_path / "k.metal").write_text('#include "a.metal"\n#include "b.metal"\n' + launch.BODY + "o[0] = 1.0f;\n")
    helpers, body = launch.Kernel("k", ("a",), ("o",)).text
    assert helpers == "// a\n// b\n" and body == "o[0] = 1.0f;\n"


TRANSLATED = {
    "threadgroup float part[32];": "__shared__ float part[32];",
    "threadgroup vec<T, 2> part[2 * N][M];": "__shared__ vec<T, 2> part[2 * N][M];",
    "threadgroup float* p = part + 1;": "float* p = part + 1;",
    "const device T* x": "const T* x",
    "thread uint (&words)[W]": "uint (&words)[W]",
    "*(const device uint4*)from": "*(const uint4*)from",
    "constant float table[4] = {": "static __device__ const float table[4] = {",
    "threadgroup_barrier(mem_flags::mem_device);": "threadgroup_barrier(mem_flags::mem_device);",
    "uint i = thread_position_in_grid.x;": "uint i = thread_position_in_grid.x;",
}


@pytest.mark.parametrize("metal", TRANSLATED)
def test_address_spaces_are_translated(metal):
    assert cuda.translate(metal) == TRANSLATED[metal]


def test_template_values_become_constants():
    template = {"T": mx.bfloat16, "N": 3, "GATED": True}
    assert cuda.constants(template).splitlines() == [
        "using T = bfloat;",
        "constexpr int N = 3;",
        "constexpr bool GATED = true;",
    ]


def test_cubins_are_compiled_once_and_kept(tmp_path, monkeypatch):
    compiled = []

    class Compiler:
        version = (13, 0)

        def compile(self, text, arch):
            compiled.append((text, arch))
            return b"code of " + text.encode()

    monkeypatch.setattr(cubins, "nvrtc", Compiler)
    cubins.use_folder(tmp_path / "cubins")
    try:
        assert [cubins.cubin("text", "sm_90a") for _ in range(2)] == [b"code of text"] * 2
        cubins.cubin("text", "sm_80")
    finally:
        cubins.use_folder(None)
    assert compiled == [("text", "sm_90a"), ("text", "sm_80")]
    assert len(list((tmp_path / "cubins").iterdir())) == 2


def test_a_launch_checks_its_shape():
    kernel = launch.Kernel("linear", ("x",), ("y",))
    with pytest.raises(AssertionError, match="48 threads"):
        kernel([mx.zeros(1)], [], template={}, groups=(1, 1, 1), threads=48)


def test_cuda_is_not_handed_what_stands_where_there_is_nothing():
    x, w = mx.zeros((1, 32)), mx.zeros((8, 32))
    given = [x, w, x, x, x, mx.zeros((1, 8))]
    same = cuda.alike(linear_kernel.LANES, given)
    assert same == (0, 1, 0, 0, 0, 5)
    text = cuda.unit(linear_kernel.LANES, [a.dtype for a in given], [mx.float32], {"T": mx.float32}, 32, same)
    assert "const float* gain = x;" in text and "__restrict__ gain" not in text and "__restrict__ residual" in text
