"""linear's two kernels: on the emulator, or on this machine's GPU, against float64."""

import itertools
import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from msl.inputs import handed_over
from smelt.kernels import launch, linear_bytes, linear_kernel, table
from smelt.kernels.linear import Weight, as_float32, linear, pack, reference, unpack, with_gain
from smelt.kernels.norm import Norm

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
TILES = {"kernel": "tiles", "simds": 2, "slice": 2, "outs": 16, "depth": 1, "resident": 1}
BYTES = TILES | {"kernel": "bytes", "together": 1}
TWO = BYTES | {"simds": 1, "together": 2}
LANES = {"kernel": "lanes", "simds": 2, "split": 1, "rows": 4, "values": 8}
ACT = {
    None: lambda y: y,
    "silu": lambda y: y / (1 + np.exp(-y)),
    "gelu_tanh": lambda y: 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))),
    "relu2": lambda y: np.maximum(y, 0) ** 2,
}


class Problem:
    """Random arguments of `linear`, and its value in float64."""

    def __init__(self, rows, width, outputs, dtype, bits=4, group=64, norm=False, residual=False, bias=False, glu=None,
                 act=None):  # fmt: skip
        self.seed = int(np.random.SeedSequence().entropy % 2**32)
        print("seed", self.seed)  # shown when a test fails
        rng = np.random.default_rng(self.seed)
        of_matrix = 2 * outputs if glu else outputs

        def draw(*shape, mean=0.0, scale=1.0):
            return mx.array((mean + scale * rng.normal(size=shape)).astype(np.float32)).astype(dtype)

        matrix = draw(of_matrix, width, scale=width**-0.5)
        self.x = draw(rows, width, mean=0.3)
        packed = pack(matrix, group, bits) if bits < 16 else Weight(matrix)
        self.weight = replace(packed, bias=draw(of_matrix) if bias else None)
        self.norm = Norm(draw(width, mean=1.0, scale=0.2), 1e-5) if norm else None
        self.residual = draw(rows, outputs) if residual else None
        self.glu, self.act = glu, act

    def extras(self, rows=slice(None)):
        residual = None if self.residual is None else self.residual[rows]
        return {"norm": self.norm, "residual": residual, "glu": self.glu, "act": self.act}

    def truth(self) -> np.ndarray:
        x = wide(self.x)
        if self.norm:
            x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.norm.eps) * wide(self.norm.weight)
        y = x @ self.wide_matrix().T + (0 if self.weight.bias is None else wide(self.weight.bias))
        if self.glu:
            gate, up = np.split(y, 2, axis=-1)
            y = ACT[self.glu](gate) * up
        return ACT[self.act](y) + (0 if self.residual is None else wide(self.residual))

    def wide_matrix(self) -> np.ndarray:
        return wide(unpack(as_float32(self.weight) if self.weight.packed else self.weight))

    def fused(self, rows=slice(None)) -> mx.array:
        y = linear(self.x[rows], self.weight, **self.extras(rows))
        mx.eval(y)
        return y

    def check(self, order="forward"):
        with kernels_run(order):
            y = self.fused()
        assert_accurate(y, reference(self.x, self.weight, **self.extras()), self.truth())


@pytest.fixture
def force(monkeypatch):
    """Make `linear` take this kernel with these knobs, which must be possible for its arguments."""

    def force(knobs):
        def chosen(bits, group, width, rows, gated, dtype, count):
            assert linear_kernel.impossible(knobs, bits, group, width, gated, dtype) is None
            return linear_kernel.fitted(knobs, bits, group, width, gated, count)

        monkeypatch.setattr(linear_kernel, "chosen_knobs", chosen)

    return force


@pytest.mark.parametrize("knobs", [TILES, BYTES, TWO, LANES], ids=["tiles", "bytes", "two threadgroups", "lanes"])
@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=["f16", "bf16", "f32"])
@pytest.mark.parametrize("bits, group", [(4, 64), (4, 32), (4, 128), (8, 64), (8, 32), (8, 128), (16, 0)])
def test_every_type_and_packing(force, knobs, dtype, bits, group):
    if dtype == F32:
        if knobs is not LANES:
            pytest.skip("the matrix units take 16-bit types")
        knobs = LANES | {"values": 4 if bits == 16 else 8}
    if knobs["kernel"] == "bytes" and bits == 16:
        pytest.skip("bytes are packed")
    width = 512 if knobs is TWO else 256
    if knobs["kernel"] == "bytes":
        knobs = knobs | {"simds": 256 // linear_bytes.unit_of(bits, group) // 2}
    force(knobs)
    Problem(3, width, 40, dtype, bits, group).check()


@pytest.mark.parametrize("knobs", [TILES, BYTES, LANES], ids=["tiles", "bytes", "lanes"])
def test_a_packed_matrix_is_two_inputs(force, knobs):
    force(knobs)
    problem = Problem(2, 256, 24, BF16, norm=True)
    x, w, norm = problem.x, problem.weight, problem.norm
    with handed_over() as launched:
        linear(x, w, norm=norm)
    (_, found), wanted = launched[0], {"x": x, "w": w.weight, "scales": w.scaling, "gain": norm.weight}
    assert found.keys() == wanted.keys() and all(found[name] is array for name, array in wanted.items())


@pytest.mark.parametrize("knobs", [TILES, BYTES, LANES], ids=["tiles", "bytes", "lanes"])
def test_a_gain_behind_the_scales_is_no_input(force, knobs):
    force(knobs)
    problem = Problem(2, 256, 24, BF16, norm=True)
    w, other = with_gain(problem.weight, problem.norm), Norm(problem.norm.weight + 0, 1e-5)
    with handed_over() as launched:
        for norm in (problem.norm, other, None):
            linear(problem.x, w, norm=norm)
    behind, apart, without = ((set(found), found["scales"] is w.scaling) for _, found in launched)
    assert behind == without == ({"x", "w", "scales"}, True) and apart == ({"x", "w", "scales", "gain"}, True)


EPILOGUES = {
    "bias": {"bias": True},
    "norm": {"norm": True},
    "residual": {"residual": True},
    "norm, swiglu": {"norm": True, "glu": "silu"},
    "geglu, bias": {"glu": "gelu_tanh", "bias": True},
    "relu2": {"act": "relu2"},
    "all": {"norm": True, "residual": True, "bias": True, "glu": "silu"},
}


WIDTHS = {
    "tiles": (TILES, 128),
    "bytes": (BYTES, 128),
    "two threadgroups": (TWO, 256),
    "lanes": (LANES | {"split": 2, "values": 16}, 192),
}


@pytest.mark.parametrize("knobs, width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("extras", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize("dtype", [F16, BF16], ids=["f16", "bf16"])
def test_every_prologue_and_epilogue(force, knobs, width, extras, dtype):
    force(knobs)
    Problem(2, width, 24, dtype, **extras).check("random")


@pytest.mark.parametrize("knobs, width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("bits, glu", [(4, None), (8, "silu")])
def test_a_gain_behind_the_scales_gives_the_same_bits(force, knobs, width, bits, glu):
    """Of 21 rows the gain does not follow the biases at once, for it begins at a multiple of 8 values."""
    force(knobs)
    problem = Problem(3, width, 21, BF16, bits, norm=True, residual=True, glu=glu)
    x, apart, other = problem.x, problem.weight, Norm(problem.norm.weight * 2, 1e-5)
    with kernels_run():
        expected = problem.fused()
        problem.weight = with_gain(apart, problem.norm)
        assert mx.array_equal(problem.fused(), expected)
        for norm in (other, None):
            assert mx.array_equal(linear(x, problem.weight, norm=norm), linear(x, apart, norm=norm))


@pytest.mark.parametrize("dtype", [F32, F16], ids=["f32", "f16"])
def test_a_gain_behind_the_scales_is_read_in_any_type(force, dtype):
    force(LANES)
    problem = Problem(2, 192, 21, dtype, norm=True)
    problem.weight = with_gain(problem.weight, problem.norm)
    problem.check()


ODD = [
    (TILES, 1, 64 * 5, 1, "5 slices for 2 simdgroups, one output", {"slice": 1}),
    (TILES, 8, 64 * 7, 17, "rows past the end of the last tile", {"slice": 1, "simds": 3, "outs": 9}),
    (TILES, 5, 64 * 6, 130, "many tiles a threadgroup", {"slice": 3, "outs": 33}),
    (TILES, 8, 64 * 2, 8, "less k than one pass", {"slice": 1, "simds": 5}),
    (TILES, 4, 64 * 14, 70, "loads one by one", {"depth": 1, "simds": 3, "outs": 21}),
    (TILES, 6, 64 * 14, 70, "many loads under way", {"depth": 4, "simds": 3, "outs": 21}),
    (BYTES, 1, 64 * 10, 1, "5 slices for 6 simdgroups, one output", {"slice": 2, "simds": 6}),
    (BYTES, 8, 64 * 6, 17, "rows past the end of the last tile", {"slice": 1, "simds": 6, "outs": 9}),
    (BYTES, 3, 64 * 12, 50, "slices that fill the banks", {"slice": 4, "simds": 3, "outs": 24, "depth": 2}),
    (BYTES, 7, 64 * 6, 130, "many tiles a threadgroup", {"slice": 3, "outs": 33}),
    (BYTES, 8, 64 * 4, 100, "one turn of several pairs", {"slice": 1, "simds": 4, "outs": 37, "depth": 2}),
    (BYTES, 4, 64 * 2, 440, "turns of four pairs, and what is left", {"slice": 1, "outs": 216, "depth": 3}),
    (BYTES, 6, 64 * 4, 70, "many loads under way", {"depth": 4, "simds": 4, "outs": 21, "slice": 1}),
    (BYTES, 5, 64 * 8, 70, "two threadgroups share k", {"outs": 24, "together": 2}),
    (BYTES, 1, 64 * 10, 1, "three share 5 slices, one output", {"together": 3}),
    (BYTES, 8, 64 * 14, 17, "two, rows past the end of the last tile", {"slice": 1, "simds": 8, "outs": 9, "together": 2}),
    (BYTES, 3, 64 * 24, 50, "three, in long slices", {"slice": 4, "outs": 24, "depth": 2, "together": 3}),
    (BYTES, 8, 64 * 14, 40, "the last of four has less k", {"slice": 1, "simds": 4, "together": 4, "depth": 2}),
    (BYTES, 3, 64 * 16, 50, "eight, of more outputs than threads", {"slice": 1, "outs": 33, "depth": 2, "together": 8}),
    (LANES, 1, 64, 1, "fewer k than lanes, one output", {}),
    (LANES, 8, 64 * 9, 35, "k that the lanes do not divide", {"values": 16, "split": 2}),
    (LANES, 7, 64 * 17, 10, "four simdgroups share k", {"simds": 4, "split": 4, "values": 32, "rows": 8}),
]


@pytest.mark.parametrize("knobs, rows, width, outputs, changes", [(k, r, w, o, c) for k, r, w, o, _, c in ODD],
                         ids=[f"{k['kernel']}: {what}" for k, *_, what, _ in ODD])  # fmt: skip
@pytest.mark.parametrize("glu", [None, "silu"])
def test_odd_shapes(force, knobs, rows, width, outputs, changes, glu):
    force(knobs | changes)
    Problem(rows, width, outputs, BF16, norm=True, glu=glu).check("reverse")


SPLITS = {
    "tiles": TILES,
    "bytes": BYTES,
    "two threadgroups": TWO | {"outs": 8},
    "bytes in long slices": BYTES | {"simds": 1, "slice": 4},
    "bytes in a slice each": BYTES | {"simds": 4, "slice": 1, "outs": 24},
    "lanes": LANES,
}


@pytest.mark.parametrize("knobs", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("dtype", [F16, BF16], ids=["f16", "bf16"])
def test_a_row_has_the_same_bits_among_1_to_8(force, knobs, dtype):
    force(knobs)
    problem = Problem(8, 256, 24, dtype, norm=True, glu="silu", residual=True)
    with kernels_run():
        alone = [problem.fused(slice(i, i + 1)) for i in range(8)]
        for rows in range(2, 9):
            together = problem.fused(slice(0, rows))
            assert mx.array_equal(together, mx.concatenate(alone[:rows])), f"{rows} rows"


def test_bits_do_not_hang_on_turns_nor_on_stages(force, monkeypatch):
    problem = Problem(8, 128, 112, BF16, norm=True, glu="silu", residual=True)
    found = {}
    for at_once, depth in ((12, 3), (12, 1), (14, 3), (14, 2)):  # of 14 pairs: four turns, or one
        monkeypatch.setattr(linear_bytes, "AT_ONCE", at_once)
        force(BYTES | {"slice": 1, "outs": 112, "depth": depth})
        with kernels_run("random"):
            found[at_once, depth] = problem.fused()
            for rows in (1, 5):
                assert mx.array_equal(problem.fused(slice(0, rows)), found[at_once, depth][:rows]), f"{rows} rows"
    assert all(mx.array_equal(y, found[12, 3]) for y in found.values())


@pytest.mark.parametrize("bits, group", [(4, 32), (4, 128), (8, 64)])
def test_numbers_are_the_same_in_passes_over_few_rows_and_over_many(force, bits, group):
    force(BYTES | {"slice": 2 * 64 // linear_bytes.unit_of(bits, group), "simds": 4})
    problem = Problem(8, 64 * 8, 24, BF16, bits, group, norm=True)
    with kernels_run("random"):
        together = problem.fused()
        for rows in (1, 3, 4, 5):
            assert mx.array_equal(problem.fused(slice(0, rows)), together[:rows]), f"{rows} rows"


@pytest.mark.parametrize("outlier", [1000.0, 2.0**-120])
@pytest.mark.parametrize("dtype", [F16, BF16], ids=["f16", "bf16"])
def test_one_value_may_be_far_from_the_others(force, outlier, dtype):
    force(BYTES)
    problem = Problem(3, 256, 24, dtype)
    problem.x[:, 70] = mx.array(outlier, dtype)
    problem.x[2, 128:192] = mx.array(2.0**-126 if dtype == BF16 else 0.0, dtype)
    problem.check()


@pytest.mark.parametrize("knobs", [TILES, BYTES, TWO], ids=["tiles", "bytes", "two threadgroups"])
@pytest.mark.parametrize("wrong", ["inf", "nan"])
def test_a_row_that_overflows_leaves_its_neighbours_alone(force, knobs, wrong):
    force(knobs)
    problem = Problem(3, 256, 24, BF16)
    with kernels_run():
        before = problem.fused()
        problem.x[1, 5] = mx.array(float(wrong), BF16)
        after = problem.fused()
    assert mx.array_equal(before[0], after[0]) and mx.array_equal(before[2], after[2])
    assert not mx.isfinite(after[1]).any()


def test_it_keeps_leading_dimensions():
    problem = Problem(6, 256, 24, BF16)
    with kernels_run():
        y = linear(problem.x.reshape(2, 3, 256), problem.weight)
        flat = problem.fused()
    assert y.shape == (2, 3, 24) and mx.array_equal(y.reshape(6, 24), flat)


@pytest.mark.parametrize(
    "rows, width, outputs, bits, group", [(1, 2560, 48, 4, 64), (8, 96, 16, 8, 32), (2, 4096, 16, 16, 0)]
)
def test_default_knobs_are_possible(rows, width, outputs, bits, group):
    Problem(rows, width, outputs, BF16, bits, group).check()


@pytest.mark.parametrize(
    "width", [32, 64, 96, 320, 1024, 2048, 2560, 3072, 4096, 5120, 8192, 9728, 11008, 14336, 28672, 49152]
)
@pytest.mark.parametrize("bits, group", [(4, 32), (4, 64), (4, 128), (8, 64), (16, 0)])
@pytest.mark.parametrize("machine", ["cpu", "metal", "cuda"])
def test_default_knobs_are_possible_at_any_width(monkeypatch, machine, bits, group, width):
    if group and width % group:
        pytest.skip("no such matrix")
    monkeypatch.setattr(launch, "machine", lambda: machine)
    monkeypatch.setattr(launch, "core_memory", lambda: 228)
    for cores, outputs, gated in itertools.product((10, 132), (16, 2560, 9728, 151936), (False, True)):
        monkeypatch.setattr(launch, "cores", lambda: cores)  # noqa: B023
        knobs = linear_kernel.default_tiles(bits, group or width, width, outputs, gated, BF16)
        assert linear_kernel.impossible(knobs, bits, group or width, width, gated, BF16) is None
        if machine != "metal" and bits < 16:
            knobs = linear_bytes.default(bits, group, width, outputs, gated)
            if knobs and not linear_kernel.impossible(knobs, bits, group, width, gated, BF16):
                for count in range(1, 9):
                    fitted = linear_bytes.fitted(knobs, bits, group, width, gated, count)
                    assert linear_bytes.fits(fitted, bits, group, width, gated, count)
            else:
                assert width < 256 or width // group % 2 or width > 8 * 20 * 4 * 64
        knobs = linear_kernel.default_lanes(bits, group or width, width)
        assert linear_kernel.impossible(knobs, bits, group or width, width, gated, BF16) is None


@pytest.mark.parametrize("width, kernel, together", [(4096, "bytes", 1), (9728, "bytes", 2), (28672, "bytes", 8), (49152, "tiles", 1)])
def test_a_long_k_is_shared_and_a_longer_one_goes_to_tiles(monkeypatch, width, kernel, together):
    for name, value in {"machine": "cuda", "chip": ("sm_90", "NVIDIA H200"), "cores": 132, "core_memory": 228}.items():
        monkeypatch.setattr(launch, name, lambda value=value: value)
    knobs = linear_kernel.default_knobs(4, 64, width, 4096, False, BF16)
    assert (knobs["kernel"], knobs.get("together", 1)) == (kernel, together)


def shipped_knobs():
    for chip, ops in json.loads(table.SHIPPED.read_text()).items():
        for shape, entry in ops.get("linear", {}).items():
            yield pytest.param(chip, shape, entry, id=f"{chip}: {shape}")


@pytest.mark.parametrize("chip, shape, entry", list(shipped_knobs()))
def test_shipped_knobs_are_possible_and_say_what_they_reached(monkeypatch, chip, shape, entry):
    monkeypatch.setattr(launch, "machine", lambda: "cuda" if chip.startswith(("NVIDIA", "sm_")) else "metal")
    monkeypatch.setattr(launch, "core_memory", lambda: 228)
    bits, width = int(shape.split("-bit ")[0]), int(shape.split()[1].split("->")[0])
    group = 0 if bits == 16 else 64
    assert linear_kernel.impossible(entry["knobs"], bits, group, width, shape.endswith(" gated"), BF16) is None
    assert entry["note"]


REFUSED = {
    "more than 8 rows": lambda p: linear(mx.zeros((9, 256), BF16), p.weight),
    "parts that differ in quantisation": lambda p: linear(p.x, (p.weight, pack(mx.zeros((8, 256), BF16), 64, 8))),
    "6-bit affine weights": lambda p: linear(p.x, pack(mx.zeros((8, 256), BF16), 64, 6)),
    "4-bit mxfp4 weights": lambda p: linear(p.x, pack(mx.zeros((8, 256), BF16), 32, 4, "mxfp4")),
    "weights and x differ in type": lambda p: linear(p.x.astype(F16), p.weight),
    "no epilogue gelu ": lambda p: linear(p.x, p.weight, glu="gelu"),
    "residual and x differ in type": lambda p: linear(p.x, p.weight, residual=mx.zeros((2, 16), F32)),
    "a norm without a weight": lambda p: linear(p.x, p.weight, norm=Norm(None, 1e-6)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_does_not_cover_falls_to_the_reference_and_says_why(why):
    with kernels_run():
        mx.eval(REFUSED[why](Problem(2, 256, 16, BF16)))
    assert why in {way.why for way in launch.report() if way.op == "linear"}
