"""The experts' two kernels: on the emulator, or on this machine's GPU, against float64."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import assert_accurate, kernels_run, wide
from msl.inputs import handed_over
from smelt.kernels import experts_kernel, launch
from smelt.kernels.columns import Columns
from smelt.kernels.experts import experts, reference
from smelt.kernels.linear import Weight, as_float32, pack, unpack, with_gain
from smelt.kernels.norm import Norm
from smelt.kernels.router import Routed, Routing, route
from test_linear_kernel import ACT

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
E = 6


class Problem:
    """Random arguments of `experts`, and its value in float64."""

    def __init__(self, rows, width, inner, dtype, bits=4, group=32, top=3, glu="silu", act=None, norm=False,
                 residual=False, bias=False, beside=False, down=None):  # fmt: skip
        self.seed = int(np.random.SeedSequence().entropy % 2**32)
        print("seed", self.seed)  # shown when a test fails
        self.rng, self.dtype = np.random.default_rng(self.seed), dtype
        self.glu, self.act = glu, act
        self.x = self.draw(rows, width, mean=0.3)
        self.indices = mx.array(np.stack([self.rng.permutation(E)[:top] for _ in range(rows)]).astype(np.uint32))
        self.weights = mx.softmax(mx.array(self.rng.normal(size=(rows, top)).astype(np.float32)), axis=-1)
        self.up = self.stack(2 * inner if glu else inner, width, bits, group, bias)
        self.down = self.stack(width, inner, *(down or (bits, group)), bias)
        self.norm = Norm(self.draw(width, mean=1.0, scale=0.2), 1e-5) if norm else None
        self.residual = self.draw(rows, width) if residual else None
        self.beside = (self.draw(rows, width), self.draw(rows, 1)) if beside else None

    def draw(self, *shape, mean=0.0, scale=1.0):
        return mx.array((mean + scale * self.rng.normal(size=shape)).astype(np.float32)).astype(self.dtype)

    def stack(self, outputs, width, bits, group, bias):
        matrix = self.draw(E, outputs, width, scale=width**-0.5)
        packed = pack(matrix, group, bits) if bits < 16 else Weight(matrix)
        return replace(packed, bias=self.draw(E, outputs) if bias else None)

    def arguments(self, rows=slice(None)):
        beside = None if self.beside is None else tuple(array[rows] for array in self.beside)
        extras = {"glu": self.glu, "act": self.act, "norm": self.norm, "beside": beside}
        extras["residual"] = None if self.residual is None else self.residual[rows]
        return (self.x[rows], Routed((self.indices[rows], self.weights[rows])), self.up, self.down), extras

    def fused(self, rows=slice(None)):
        given, extras = self.arguments(rows)
        y = experts(*given, **extras)
        mx.eval(y)
        return y

    def plain(self):
        given, extras = self.arguments()
        return reference(*given, **extras)

    def truth(self):
        x = wide(self.x)
        if self.norm:
            x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.norm.eps) * wide(self.norm.weight)
        up, down = self.product(self.up), self.product(self.down)
        y = np.zeros((len(x), self.x.shape[1])) if self.residual is None else wide(self.residual)
        if self.beside:
            own, gate = map(wide, self.beside)
            y = y + own / (1 + np.exp(-gate))
        for n, (chosen, weights) in enumerate(zip(self.indices.tolist(), wide(self.weights), strict=True)):
            y[n] += sum(w * down(e, self.activated(up(e, x[n]))) for e, w in zip(chosen, weights, strict=True))
        return y

    def activated(self, h):
        if not self.glu:
            return ACT[self.act](h)
        gate, up = np.split(h, 2)
        return ACT[self.glu](gate) * up

    @staticmethod
    def product(weight):
        """(expert, vector) -> their product and the bias, float64."""
        matrices = wide(unpack(as_float32(weight) if weight.packed else weight))
        bias = np.zeros(matrices.shape[:2]) if weight.bias is None else wide(weight.bias)
        return lambda e, v: matrices[e] @ v + bias[e]

    def check(self, order="forward"):
        with kernels_run(order):
            y = self.fused()
        assert_accurate(y, self.plain(), self.truth())


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=["f16", "bf16", "f32"])
@pytest.mark.parametrize("bits, group", [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128), (16, 0)])
def test_every_type_and_packing(dtype, bits, group):
    Problem(2, 256, 128, dtype, bits, group, norm=True).check()


EVERYTHING = {"norm": True, "residual": True, "bias": True, "beside": True}


@pytest.mark.parametrize(
    "bits, more, up, down",
    [
        (16, {}, set(), set()),
        (4, {}, {"scales"}, {"scales"}),
        (4, {"norm": True, "residual": True}, {"scales", "gain"}, {"scales", "residual"}),
        (4, EVERYTHING, {"scales", "bias", "gain"}, {"scales", "bias", "residual", "beside", "gate"}),
    ],
    ids=["plain", "packed", "as in a block", "everything"],
)
def test_only_what_there_is_is_handed_over_and_a_packed_stack_is_two_inputs(bits, more, up, down):
    problem = Problem(2, 64, 32, BF16, bits, **more)
    with handed_over() as launched:
        problem.fused()
    (_, first), (_, second) = launched
    assert set(first) == {"x", "routed", "w"} | up and set(second) == {"h", "routed", "w"} | down
    assert first["routed"] is second["routed"]
    for found, weight in ((first, problem.up), (second, problem.down)):
        assert found["w"] is weight.weight and (bits == 16 or found["scales"] is weight.scaling)


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=["f16", "bf16", "f32"])
def test_a_gain_behind_the_scales_is_no_input_and_gives_the_same_bits(dtype):
    problem = Problem(2, 96, 32, dtype, norm=True, bias=True)
    plain = problem.plain()
    with kernels_run():
        expected = problem.fused()
        problem.up = with_gain(problem.up, problem.norm)
        assert mx.array_equal(problem.fused(), expected)
    assert mx.array_equal(problem.plain(), plain)
    with handed_over() as launched:
        problem.fused()
    assert set(launched[0][1]) == {"x", "routed", "w", "scales", "bias"} and launched[0][1]["scales"] is problem.up.scaling


def test_both_take_the_one_array_that_the_router_made():
    launched, problem = {}, Problem(2, 64, 32, BF16)

    def noting(kernel, inputs, outputs, template, groups, threads):
        made = [mx.zeros(shape, dtype) for shape, dtype in outputs]
        launched[kernel.name] = inputs, made
        return made

    with launch.through(noting):
        experts(problem.x, route(mx.ones((2, E), BF16), Routing(3)), problem.up, problem.down, glu="silu")
    assert all(len(made) == 1 for _, made in launched.values())
    assert launched["experts"][0][1] is launched["experts_down"][0][1] is launched["router"][1][0]


FORMS = {
    "nothing": {},
    "norm": {"norm": True},
    "geglu, biases": {"glu": "gelu_tanh", "bias": True},
    "relu2": {"glu": None, "act": "relu2", "norm": True},
    "residual": {"residual": True},
    "beside": {"beside": True},
    "all": {"norm": True, "bias": True, "residual": True, "beside": True},
    "down in other bits": {"down": (8, 32)},
    "one expert": {"top": 1},
    "all experts": {"top": E},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=["bf16", "f32"])
def test_every_form(dtype, form):
    Problem(3, 96, 160, dtype, **FORMS[form]).check("random")


ODD = [
    (64, 32, {"experts": {"simds": 2, "rows": 2, "values": 8}, "experts_down": {"simds": 1, "split": 1, "rows": 2, "values": 8}}),
    (1056, 96, {"experts": {"simds": 5, "rows": 8, "values": 32}, "experts_down": {"simds": 6, "split": 3, "rows": 6, "values": 16}}),
    (480, 288, {"experts": {"simds": 1, "rows": 4, "values": 16}, "experts_down": {"simds": 4, "split": 4, "rows": 4, "values": 32}}),
]  # fmt: skip


@pytest.mark.parametrize("width, inner, knobs", ODD, ids=lambda value: str(value) if isinstance(value, int) else "")
def test_odd_shapes_and_knobs(monkeypatch, width, inner, knobs):
    def chosen(op, weight, dtype, width, rows, top):
        assert experts_kernel.impossible(knobs[op], weight.bits, width) is None
        return knobs[op]

    monkeypatch.setattr(experts_kernel, "chosen_knobs", chosen)
    Problem(2, width, inner, BF16, norm=True, residual=True).check("reverse")


@pytest.mark.parametrize("dtype", [F16, BF16], ids=["f16", "bf16"])
def test_a_row_has_the_same_bits_among_1_to_8(dtype):
    problem = Problem(8, 256, 64, dtype, norm=True, residual=True, beside=True)
    with kernels_run():
        alone = [problem.fused(slice(i, i + 1)) for i in range(8)]
        for rows in range(2, 9):
            together = problem.fused(slice(0, rows))
            assert mx.array_equal(together, mx.concatenate(alone[:rows])), f"{rows} rows"


def test_it_keeps_leading_dimensions():
    problem = Problem(6, 64, 32, BF16)
    given, extras = problem.arguments()
    with kernels_run():
        x, routed = given[0].reshape(2, 3, -1), Routed(tuple(a.reshape(2, 3, -1) for a in given[1]))
        y = experts(x, routed, *given[2:], **extras)
        assert y.shape == (2, 3, 64) and mx.array_equal(y.reshape(6, 64), problem.fused())


def test_the_gate_as_a_column_of_a_wider_array():
    problem = Problem(3, 64, 32, BF16, beside=True)
    with kernels_run():
        alone = problem.fused()
        own, gate = problem.beside
        given, extras = problem.arguments()
        row = mx.concatenate([problem.x, gate], axis=-1)
        assert mx.array_equal(experts(*given, **extras | {"beside": (own, Columns(row, 64, 1))}), alone)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width, inner", [(64, 96), (160, 64), (96, 224)])
def test_the_defaults_of_either_chip(monkeypatch, bits, width, inner):
    knobs = {}
    for chip in ("sm_90", "applegpu_g16s"):
        monkeypatch.setattr(launch, "chip", lambda chip=chip: (chip, ""))
        knobs[chip] = [default(bits, width, 2) for default in experts_kernel.DEFAULTS.values()]
        Problem(3, width, inner, BF16, bits=bits, norm=True, residual=True).check("random")
    assert (knobs["sm_90"] == knobs["applegpu_g16s"]) == (bits == 8)


@pytest.mark.parametrize("chip", ["sm_90", "applegpu_g16s"])
@pytest.mark.parametrize("bits", [4, 8, 16, 32])
@pytest.mark.parametrize("width", [32, 96, 704, 768, 1408, 2048, 4096, 7168, 14336])
def test_default_knobs_are_possible_at_any_width(bits, width, chip, monkeypatch):
    monkeypatch.setattr(launch, "chip", lambda: (chip, ""))
    for default in experts_kernel.DEFAULTS.values():
        for top in (1, 2, 8, 10):
            assert experts_kernel.impossible(default(bits, width, top), bits, width) is None


REFUSED = {
    "more than 8 rows": lambda p: p(rows=9),
    "6-bit affine weights": lambda p: p(bits=6),
    "rows wider than 7680": lambda p: p(width=7712),
    "experts of a width that is no multiple of 32": lambda p: p(inner=48, bits=16),
    "indices are mlx.core.int32, weights mlx.core.float32": lambda p: p(of=lambda q: setattr(q, "indices", q.indices.astype(mx.int32))),
    "gate and x differ in type": lambda p: p(of=lambda q: setattr(q, "beside", (q.x, mx.zeros((2, 1))))),
    "no epilogue gelu ": lambda p: p(glu="gelu"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_does_not_cover_falls_to_the_reference_and_says_why(why):
    def run(rows=2, width=64, inner=64, of=lambda problem: None, **more):
        problem = Problem(rows, width, inner, BF16, **more)
        of(problem)
        with kernels_run():
            problem.fused()

    REFUSED[why](run)
    assert why in {way.why for way in launch.report() if way.op == "experts"}
