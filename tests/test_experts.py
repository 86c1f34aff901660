"""Experts against a loop over tokens and experts in float64, and how their matrices are found in a checkpoint."""

import mlx.core as mx
import numpy as np
import pytest
from smelt.kernels import launch
from smelt.kernels.experts import SORT, UNPACK_PAIRS, experts, product
from smelt.kernels.linear import Weight, as_float32, joined, pack, unpack
from smelt.kernels.norm import Norm
from smelt.kernels.router import Routed
from smelt.models.checkpoint import CheckpointError, Tensors

E, D, F, K = 8, 64, 96, 3


def numbers(*shape, seed=0, scale=1.0):
    return scale * mx.random.normal(shape, key=mx.random.key(seed))


def silu(x):
    return x / (1 + np.exp(-x))


def loop(x, indices, weights, up, down, activation):
    x, up, down = (np.array(a.astype(mx.float32), dtype=np.float64) for a in (x, up, down))
    rows = [
        sum(w * down[e] @ activation(up[e] @ row) for e, w in zip(chosen, weight, strict=True))
        for row, chosen, weight in zip(x, indices.tolist(), np.array(weights, dtype=np.float64), strict=True)
    ]
    return np.stack(rows)


def gated(h):
    return silu(h[:F]) * h[F:]


def case(rows, dtype=mx.float32):
    x, weights = numbers(rows, D, seed=1).astype(dtype), mx.softmax(numbers(rows, K, seed=2), axis=-1)
    indices = mx.argsort(numbers(rows, E, seed=3), axis=-1)[:, :K]
    return x, indices, weights


def exactly(weight):
    """Unpacked without another rounding, which of 8 bits in bfloat16 is as large as what is looked for."""
    return unpack(as_float32(weight)) if weight.packed else weight.weight


def stack(*shape, seed, dtype=mx.float32, spec=None):
    matrix = numbers(*shape, seed=seed, scale=shape[-1] ** -0.5).astype(dtype)
    return pack(matrix, **spec) if spec else Weight(matrix)


SPECS = [None, {"group_size": 32, "bits": 4}, {"group_size": 32, "bits": 3}, {"group_size": 32, "bits": 8},
         {"group_size": 32, "bits": 4, "mode": "mxfp4"}, {"group_size": 32, "bits": 8, "mode": "mxfp8"},
         {"group_size": 16, "bits": 4, "mode": "nvfp4"}]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("dtype, tolerance", [(mx.float32, 1e-5), (mx.bfloat16, 1e-2), (mx.float16, 3e-3)])
def test_against_a_loop(rows, spec, dtype, tolerance):
    up, down = stack(E, 2 * F, D, seed=4, dtype=dtype, spec=spec), stack(E, D, F, seed=5, dtype=dtype, spec=spec)
    x, indices, weights = case(rows, dtype)
    assert (indices.size >= SORT) == (rows == 30)
    y = experts(x, Routed((indices, weights)), up, down, glu="silu")
    truth = loop(x, indices, weights, exactly(up), exactly(down), gated)
    assert y.dtype == dtype and np.abs(np.array(y.astype(mx.float32)) - truth).max() < tolerance * np.abs(truth).max()


@pytest.mark.parametrize("spec", SPECS[1:], ids=str)
def test_on_cuda_many_pairs_have_their_experts_unpacked(spec, monkeypatch):
    """As long as there is memory for it."""
    weight, pairs = stack(E, F, D, seed=4, spec=spec), UNPACK_PAIRS * E
    x, indices = numbers(pairs, 1, D, seed=1), mx.sort(mx.arange(pairs, dtype=mx.uint32) % E)
    packed, calls = product(x, weight, indices, True), []
    original = mx.gather_qmm
    monkeypatch.setattr(mx, "gather_qmm", lambda *given, **named: calls.append(given) or original(*given, **named))
    monkeypatch.setattr(launch, "machine", lambda: "cuda")
    size = E * F * D * weight.scaling.dtype.size
    for memory, ordered, count, found in ((16, True, pairs, 0), (15.9, True, pairs, 1), (16, False, pairs, 1), (16, True, pairs - 1, 1)):
        monkeypatch.setattr(mx, "device_info", lambda memory=memory: {"total_memory": memory * size})
        calls.clear()
        y = product(x[:count], weight, indices[:count], ordered)
        assert len(calls) == found and mx.allclose(y, packed[:count], atol=1e-4)


@pytest.mark.parametrize("rows", [2, 30])
def test_norm_residual_bias_and_other_activation(rows):
    x, indices, weights = case(rows)
    up, down = stack(E, F, D, seed=4), stack(E, D, F, seed=5)
    biased = Weight(up.weight, bias=numbers(E, F, seed=6)), Weight(down.weight, bias=numbers(E, D, seed=7))
    norm, residual = Norm(mx.full((D,), 2.0), 1e-6), numbers(rows, D, seed=8)
    routed = Routed((indices[None], weights[None]))
    y = experts(x[None], routed, *biased, act="relu2", norm=norm, residual=residual[None])
    z = 2 * np.array(x) / np.sqrt(np.square(np.array(x)).mean(axis=-1, keepdims=True) + 1e-6)
    truth = np.array(residual, dtype=np.float64)
    for i in range(rows):
        for e, w in zip(indices[i].tolist(), weights[i].tolist(), strict=True):
            h = np.maximum(np.array(up.weight)[e] @ z[i] + np.array(biased[0].bias)[e], 0) ** 2
            truth[i] += w * (np.array(down.weight)[e] @ h + np.array(biased[1].bias)[e])
    assert y.shape == (1, rows, D) and np.allclose(np.array(y[0]), truth, rtol=1e-4, atol=1e-4)


def test_gate_and_up_of_unequal_quantisation():
    gate, up = stack(E, F, D, seed=4, spec=SPECS[1]), stack(E, F, D, seed=5, spec=SPECS[3])
    down, (x, indices, weights) = stack(E, D, F, seed=6), case(4)
    both = joined([gate, up], axis=1)
    assert isinstance(both, tuple)
    truth = loop(x, indices, weights, mx.concatenate([exactly(gate), exactly(up)], axis=1), down.weight, gated)
    assert np.allclose(np.array(experts(x, Routed((indices, weights)), both, down, glu="silu")), truth, atol=1e-4)


GATE, UP, DOWN = numbers(E, F, D, seed=1), numbers(E, F, D, seed=2), numbers(E, D, F, seed=3)
LAYOUTS = {
    "Hugging Face 5": {"m.experts.gate_up_proj": mx.concatenate([GATE, UP], axis=1), "m.experts.down_proj": DOWN},
    "Hugging Face 4": {f"m.experts.{e}.{n}_proj.weight": a[e] for n, a in (("gate", GATE), ("up", UP), ("down", DOWN))
                       for e in range(E)},
    "Mixtral": {f"m.experts.{e}.{n}.weight": a[e] for n, a in (("w1", GATE), ("w3", UP), ("w2", DOWN))
                for e in range(E)},
    "MLX": {f"m.switch_mlp.{n}_proj.weight": a for n, a in (("gate", GATE), ("up", UP), ("down", DOWN))},
    "MLX Gemma 4": {f"m.experts.switch_glu.{n}_proj.weight": a for n, a in (("gate", GATE), ("up", UP), ("down", DOWN))},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    tensors = Tensors(LAYOUTS[layout], {})
    up, down = tensors.experts("m", "gate", "up", count=E), tensors.experts("m", "down", count=E)
    tensors.close()
    assert mx.array_equal(up.weight, mx.concatenate([GATE, UP], axis=1)) and mx.array_equal(down.weight, DOWN)


@pytest.mark.parametrize("separate", [False, True])
def test_packed_layouts(separate):
    spec = {"group_size": 32, "bits": 4}
    whole = {}
    for name, array in (("gate", GATE), ("up", UP), ("down", DOWN)):
        for part, value in zip(("weight", "scales", "biases"), mx.quantize(array, **spec), strict=True):
            names = [f"m.experts.{e}.{name}_proj.{part}" for e in range(E)]
            whole |= dict(zip(names, value)) if separate else {f"m.switch_mlp.{name}_proj.{part}": value}
    tensors = Tensors(whole, {"quantization": spec})
    up, down = tensors.experts("m", "gate", "up", count=E), tensors.experts("m", "down", count=E)
    tensors.close()
    assert (up.bits, up.group_size) == (4, 32) and up.weight.shape == (E, 2 * F, D // 8)
    assert mx.array_equal(unpack(down), mx.dequantize(*mx.quantize(DOWN, **spec), **spec))


def test_experts_packed_unequally_are_unpacked():
    names = {f"m.experts.{e}.down_proj.weight": DOWN[e] for e in range(E)}
    packed, scales, biases = mx.quantize(DOWN[3], group_size=32, bits=8)
    names |= {"m.experts.3.down_proj.weight": packed, "m.experts.3.down_proj.scales": scales,
              "m.experts.3.down_proj.biases": biases}  # fmt: skip
    down = Tensors(names, {"quantization": {"group_size": 32, "bits": 8}}).experts("m", "down", count=E)
    assert not down.packed and down.weight.shape == DOWN.shape
    assert mx.array_equal(down.weight[2], DOWN[2]) and mx.allclose(down.weight[3], DOWN[3], atol=0.05)


def test_missing_ones_are_told():
    tensors = Tensors({"m.experts.0.gate_proj.weight": GATE[0]}, {})
    tensors.experts("m", "gate", "up", count=2)
    with pytest.raises(CheckpointError) as error:
        tensors.close()
    assert "m.experts.1.gate_proj.weight" in str(error.value) and "m.experts.*.up_proj" in str(error.value)
