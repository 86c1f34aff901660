"""linear without a kernel: what a matrix is made of, and packed ones on a CPU, which are unpacked a block of rows at a time."""

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smelt.bench.dispatches import dispatches
from smelt.kernels import launch
from smelt.kernels.linear import (
    CPU_UNPACK_ELEMENTS,
    Weight,
    as_float32,
    cpu_unpack,
    joined,
    linear,
    pack,
    rows_of,
    stacked,
    unpack,
    with_gain,
    without_gain,
)
from smelt.kernels.norm import Norm

PACKINGS = [(bits, size, "affine") for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
PACKINGS += [(4, 32, "mxfp4"), (8, 32, "mxfp8"), (4, 16, "nvfp4")]
EVERY_PACKING = pytest.mark.parametrize("bits, group_size, mode", PACKINGS)
on_cpu = pytest.mark.skipif(launch.machine() != "cpu", reason="a GPU multiplies packed matrices as they are")


def same(weight, arrays) -> bool:
    """Whether it is made of the arrays that mx.quantize gives."""
    found = [a for a in (weight.weight, weight.scales, weight.biases) if a is not None]
    return len(found) == len(arrays) and all(a.dtype == b.dtype and mx.array_equal(a, b) for a, b in zip(found, arrays))


def each(combine, *quantized) -> list[mx.array]:
    return [combine(arrays) for arrays in zip(*quantized, strict=True)]


@EVERY_PACKING
def test_scales_and_biases_are_those_of_the_parts(bits, group_size, mode):
    matrices = [mx.random.normal((rows, 256)) for rows in (7, 5, 7)]
    a, b, c = (mx.quantize(matrix, group_size=group_size, bits=bits, mode=mode) for matrix in matrices)
    first, second, third = (pack(matrix, group_size, bits, mode) for matrix in matrices)
    assert same(first, a) and same(joined([first, second]), each(mx.concatenate, a, b))
    stack, arrays = stacked([first, third]), each(mx.stack, a, c)
    assert same(stack, arrays)
    assert same(joined([stack, stack], axis=1), each(lambda pair: mx.concatenate(pair, 1), arrays, arrays))
    some = mx.array([1, 0, 1])
    assert same(rows_of(stack, some), each(lambda one: one[0][some], arrays))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from(PACKINGS))
def test_the_rows_of_a_joined_matrix_are_its_parts(sizes, packing):
    bits, group_size, mode = packing
    parts = [pack(mx.random.normal((rows, 128)), group_size, bits, mode) for rows in sizes]
    whole, start = joined(parts), 0
    for part in parts:
        found = rows_of(whole, slice(start, start + part.rows))
        assert same(found, [a for a in (part.weight, part.scales, part.biases) if a is not None])
        assert (found.group_size, found.bits, found.mode) == (part.group_size, part.bits, part.mode)
        start += part.rows
    assert whole.rows == start


def test_float32_scales_come_with_float32_biases():
    weight = pack(mx.random.normal((5, 64)).astype(mx.bfloat16))
    wide = as_float32(weight)
    assert wide.scales.dtype == wide.biases.dtype == mx.float32
    assert mx.array_equal(wide.scales, weight.scales) and mx.array_equal(wide.biases, weight.biases)
    other = pack(mx.random.normal((5, 64)), 32, 4, "mxfp4")
    assert as_float32(other).scales.dtype == mx.uint8


def test_scales_and_biases_are_views():
    weight = pack(mx.random.normal((64, 1024)))
    mx.eval(weight.arrays)
    views = [weight.scales, weight.biases]
    assert dispatches(views).total() == 0 and all(view.shape == (64, 16) for view in views)


@pytest.mark.parametrize("rows", [8, 9])
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
@pytest.mark.parametrize("shape", [(), (3,)], ids=["matrix", "stack"])
def test_a_gain_stands_behind_scales_and_biases_at_a_multiple_of_8(rows, dtype, shape):
    weight, norm = pack(mx.random.normal((*shape, rows, 192)).astype(dtype)), Norm(mx.random.normal((192,)).astype(dtype), 1e-6)
    found, start = with_gain(weight, norm), -(-weight.scaling.size // 8) * 8
    assert found.scaling.shape == (start + 192,) and mx.array_equal(found.scaling[start:], norm.weight)
    assert found.ends_in(norm) and not found.ends_in(None) and not found.ends_in(Norm(norm.weight + 0, 1e-6))
    assert not weight.ends_in(norm) and not weight.ends_in(Norm(None, 1e-6))
    arrays = [weight.weight, weight.scales, weight.biases]
    assert same(found, arrays) and same(without_gain(found), arrays) and same(as_float32(found), [
        arrays[0], *(a.astype(mx.float32) for a in arrays[1:])
    ])  # fmt: skip
    some = mx.array([1, 0, 1])
    assert same(rows_of(found, some), [a[some] for a in arrays])
    assert same(joined([found, weight], axis=len(shape)), [mx.concatenate([a, a], axis=len(shape)) for a in arrays])
    assert mx.array_equal(unpack(found), unpack(weight)) and found.arrays[1] is found.scaling


def test_with_a_gain_scales_and_biases_are_views_and_there_is_no_second_copy():
    mx.eval(norm := mx.ones((1024,)))
    before = mx.get_active_memory()
    weight = with_gain(pack(mx.random.normal((1024, 1024))), Norm(norm, 1e-6))
    mx.eval(weight.arrays, weight.scales, weight.biases, without_gain(weight).scaling)
    assert dispatches([weight.scales, weight.biases, without_gain(weight).scaling]).total() == 0
    assert mx.get_active_memory() - before < sum(a.nbytes for a in weight.arrays) + (1 << 14)


@pytest.mark.parametrize(
    "weight, gain",
    [
        (Weight(mx.ones((8, 64))), mx.ones((64,))),
        (pack(mx.ones((8, 64)), 32, 4, "mxfp4"), mx.ones((64,))),
        (pack(mx.ones((8, 64))), mx.ones((64,), mx.bfloat16)),
        (pack(mx.ones((8, 64))), None),
        ((pack(mx.ones((8, 64))), pack(mx.ones((8, 64)), bits=8)), mx.ones((64,))),
    ],
    ids=["plain", "no biases", "other type", "no gain", "parts"],
)
def test_a_gain_stays_where_it_is_where_no_kernel_would_find_it(weight, gain):
    assert with_gain(weight, Norm(gain, 1e-6)) is weight


@pytest.mark.parametrize("rows", [2, 64], ids=["few rows", "many rows"])
def test_a_product_has_the_same_bits_with_the_gain_behind_the_scales(rows):
    x, norm = mx.random.normal((rows, 256)).astype(mx.bfloat16), Norm(mx.random.normal((256,)).astype(mx.bfloat16), 1e-6)
    weight = pack(mx.random.normal((24, 256)).astype(mx.bfloat16))
    assert mx.array_equal(linear(x, with_gain(weight, norm), norm=norm), linear(x, weight, norm=norm))


def test_a_plain_matrix_has_neither():
    weight = Weight(mx.ones((5, 64)))
    assert not weight.packed and weight.scales is None and weight.biases is None and len(weight.arrays) == 1


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
@EVERY_PACKING
def test_unpacking_on_the_cpu_equals_dequantize(bits, group_size, mode, dtype):
    weight = pack(mx.random.normal((7, 256)).astype(dtype), group_size, bits, mode)
    assert mx.array_equal(cpu_unpack(weight), unpack(weight))


@on_cpu
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_many_rows_of_a_matrix_of_several_blocks(dtype):
    x, weight = mx.random.normal((2, 9, 256)).astype(dtype), pack(mx.random.normal((1000, 256)).astype(dtype))
    assert weight.rows * 256 > 2 * CPU_UNPACK_ELEMENTS
    truth = x.astype(mx.float32) @ mx.dequantize(
        weight.weight, weight.scales.astype(mx.float32), weight.biases.astype(mx.float32), group_size=64, bits=4
    ).T  # fmt: skip
    away = mx.abs(linear(x, weight).astype(mx.float32) - truth).max() / mx.abs(truth).max()
    assert away < mx.finfo(dtype).eps * 2


@on_cpu
def test_memory_does_not_grow_with_the_matrix():
    def peak(rows):
        x, weight = mx.ones((16, 1024), mx.bfloat16), pack(mx.ones((rows, 1024), mx.bfloat16))
        mx.eval(x, weight.arrays)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        y = linear(x, weight)
        mx.eval(y)
        return mx.get_peak_memory() - before - 2 * y.nbytes  # its parts, and they joined

    assert peak(8192) < 7 * 2 * CPU_UNPACK_ELEMENTS  # mx.dequantize takes 9
