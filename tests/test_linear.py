"""linear without a kernel: packed matrices on a CPU, which are unpacked a block of rows at a time."""

import mlx.core as mx
import pytest
from smelt.kernels import launch
from smelt.kernels.linear import CPU_UNPACK_ELEMENTS, cpu_unpack, linear, pack, unpack

PACKINGS = [(bits, size, "affine") for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
PACKINGS += [(4, 32, "mxfp4"), (8, 32, "mxfp8"), (4, 16, "nvfp4")]
on_cpu = pytest.mark.skipif(launch.machine() != "cpu", reason="a GPU multiplies packed matrices as they are")


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
@pytest.mark.parametrize("bits, group_size, mode", PACKINGS)
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
