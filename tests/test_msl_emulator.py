"""The emulator finds what it says it finds: a planted bug of each kind, and the same kernel without it."""

import signal
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest
from msl.emulator import RUNS_HERE, CompileError, Emulator, KernelError
from smelt.kernels import launch

pytestmark = pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")

INDEX = "uint i = thread_position_in_grid.x;\n"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
SHARED = INDEX + "threadgroup float b[64];\nb[i] = a[i];\n"


class Text(launch.Kernel):
    """A kernel given as text: input a [n] float32, output o [n]."""

    def __init__(self, body, helpers=""):
        super().__init__("planted", ("a",), ("o",))
        self.text = helpers, body


def run(body, helpers="", n=64, threads=64, template=None, **how):
    a = mx.arange(n, dtype=mx.float32)
    emulator = Emulator(**how)
    with launch.through(emulator):
        (o,) = Text(body, helpers)(
            [a], [((n,), mx.float32)], template=template or {}, groups=(n // threads, 1, 1), threads=threads
        )  # fmt: skip
    return np.array(o)


def fault(body, *, kind, says=(), **how):
    with pytest.raises(KernelError) as raised:
        run(body, **how)
    assert raised.value.kind == kind, raised.value
    for words in (says,) if isinstance(says, str) else says:
        assert words in str(raised.value), raised.value


def test_a_right_kernel_runs():
    assert np.array_equal(run(SHARED + BARRIER + "o[i] = b[63 - i];"), np.arange(64)[::-1])


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_a_right_kernel_runs_in_any_order(order):
    body = (
        SHARED + BARRIER + "float s = simd_sum(b[63 - i]);\n" + BARRIER + "b[i] = s;\n" + BARRIER + "o[i] = b[i ^ 32];"
    )
    assert np.array_equal(run(body, order=order), np.repeat([sum(range(32)), sum(range(32, 64))], 32))


BOUNDS = {
    "load past the end": ("o[i] = a[i + 1];", ["'a'", "element 64", "64 elements", "line 2"]),
    "load before the start": ("o[i] = a[int(i) - 1];", ["'a'", "element -1"]),
    "index of 32 bits too far": ("o[i] = a[0x3fffffff];", ["'a'", "element 1073741823"]),
    "store past the end": ("o[i + 1] = a[i];", ["'o'", "element 64"]),
    "threadgroup array by index": (
        "threadgroup float b[64];\nb[i + 1] = a[i];\n" + BARRIER + "o[i] = b[i];",
        ["line 3"],
    ),
    "threadgroup array by pointer": (
        "threadgroup float b[64];\nthreadgroup float* p = b + 1;\np[i] = a[i];\n" + BARRIER + "o[i] = b[i];",
        ["'b'", "element 64"],
    ),
    "private array": ("float b[4];\nfor (int j = 0; j <= 4; j++) b[j] = a[j];\no[i] = b[i & 3];", ["index 4"]),
    "vector over the end": (
        "float4 v = *(const device float4*)(a + (i & 60) + 4);\no[i] = v.x;",
        ["'a'", "element 64"],
    ),
}


@pytest.mark.parametrize("body, says", BOUNDS.values(), ids=BOUNDS)
def test_out_of_bounds(body, says):
    fault(INDEX + body, kind="out_of_bounds", says=says)


def test_misaligned_vector():
    fault(INDEX + "float4 v = *(const device float4*)(a + 1);\no[i] = v.x;", kind="misaligned", says="'a'")


def test_store_into_an_input():
    fault(INDEX + "((device float*)a)[i] = 1.0f;\no[i] = a[i];", kind="const_store", says="'a'")


def test_unwritten_output():
    fault(INDEX + "if (i % 2) o[i] = a[i];", kind="unwritten", says=["32 of 64", "'o'", "first is 0"])


def test_half_written_element():
    fault(INDEX + "((device ushort*)o)[i] = 1;", kind="unwritten", says="32 of 64")


def test_reading_an_output_first():
    fault(INDEX + "o[i] += a[i];", kind="uninitialised", says="'o'")


def test_reading_threadgroup_memory_that_nobody_wrote():
    fault(INDEX + "threadgroup float b[64];\nif (i < 63) b[i] = a[i];\n" + BARRIER + "o[i] = b[i];",
          kind="uninitialised", says=["'b'", "element 63"])  # fmt: skip


def test_threadgroup_memory_does_not_outlive_its_group():
    body = INDEX + "threadgroup float b[32];\nuint t = i % 32;\nif (i < 32) b[t] = 1.0f;\n" + BARRIER + "o[i] = b[t];"
    fault(body, kind="uninitialised", says="'b'", threads=32)


def test_missing_barrier():
    fault(SHARED + "o[i] = b[i ^ 1];", kind="uninitialised", says="'b'")
    again = SHARED + BARRIER + "float t = b[63 - i];\n%s b[i] = t;\n" + BARRIER + "o[i] = b[i];"
    fault(again % "", kind="race", says="'b'")
    assert np.array_equal(run(again % BARRIER), np.arange(64)[::-1])


def test_barrier_for_the_wrong_memory():
    fault(
        SHARED + "threadgroup_barrier(mem_flags::mem_device);\no[i] = b[63 - i];",
        kind="race",
        says=["'b'", "mem_flags"],
    )


def test_lanes_in_step_still_need_a_simdgroup_barrier():
    body = SHARED + "%s o[i] = b[i ^ 1];"
    fault(body % "simd_sum(1.0f);", kind="race", says="'b'")
    run(body % "simdgroup_barrier(mem_flags::mem_threadgroup);")
    fault(body.replace("i ^ 1", "i ^ 32") % "simdgroup_barrier(mem_flags::mem_threadgroup);",
          kind="uninitialised", says="'b'")  # fmt: skip


def test_two_threads_write_one_element():
    fault(INDEX + "threadgroup float b[1];\nb[0] = a[i];\n" + BARRIER + "o[i] = b[0];", kind="race", says="'b'")


def test_two_threadgroups_write_one_element():
    fault(INDEX + "o[i] = a[i];\nif (i % 32 == 0) o[5] = a[5];", kind="race", says=["'o'", "element 5"], threads=32)


def test_barrier_that_some_threads_miss():
    fault(INDEX + "if (i < 32) " + BARRIER + "o[i] = a[i];", kind="barrier_divergence", says="32-63 returned")
    fault(INDEX + "if (i < 32) {\n" + BARRIER + "} else {\n" + BARRIER + "}\no[i] = a[i];",
          kind="barrier_divergence", says=["line 3", "line 5"])  # fmt: skip


def test_early_return_before_a_barrier():
    fault(INDEX + "if (i >= 32) { o[i] = 0.0f; return; }\n" + BARRIER + "o[i] = a[i];", kind="barrier_divergence")


def test_simd_operation_without_all_lanes():
    fault(INDEX + "float s = 0.0f;\nif (i % 32 < 16) s = simd_sum(a[i]);\no[i] = s;", kind="simd_divergence",
          says=["0-15 at simd_sum, line 3", "16-31 returned"])  # fmt: skip


def test_shuffle_by_different_distances():
    fault(INDEX + "o[i] = simd_shuffle_xor(a[i], ushort(i & 1));", kind="simd_divergence", says="simd_shuffle_xor")


def test_a_lane_that_is_not_there_gives_a_pattern():
    o = run(INDEX + "o[i] = simd_shuffle_down(a[i], ushort(1));")
    assert o[30] == 31 and abs(o[31]) > 1e30


def test_arithmetic():
    fault(INDEX + "o[i] = float(int(i) / int(a[0]));", kind="arithmetic", says="division")
    fault(INDEX + "o[i] = float(1u << (i + 1));", kind="arithmetic", says="shift")
    fault(INDEX + "o[i] = float(int(a[i] * 1e20f));", kind="arithmetic", says="range")


def test_limits():
    fault(INDEX + "threadgroup float b[8193];\nb[i] = a[i];\no[i] = b[i];", kind="limit", says="32768")
    fault(INDEX + "volatile float b[100000];\nb[i] = a[i];\no[i] = b[i];", kind="stack")
    fault(LOOP, kind="timeout", time_limit_s=0.3)


def test_a_frame_too_large_is_a_fault_before_anything_is_written_below_its_stack():
    """Below one thread's stack is another's, and below the first one the heap of the process."""
    body = "if (a[0] > 1e9f) { volatile float b[50000]; b[i] = a[i]; o[i] = b[i]; } else o[i] = a[i];"
    fault(INDEX + body, kind="stack", says="thread 63 ", order="reverse")


LOOP = INDEX + "while (a[0] < 1.0f) { if (a[1] < 0.0f) break; }\no[i] = 1.0f;"


def test_the_time_limit_of_a_kernel_that_another_thread_runs():
    """The alarm comes to the main thread, whose stack is not the kernel's."""
    with ThreadPoolExecutor(1) as other:
        other.submit(fault, LOOP, kind="timeout", time_limit_s=0.3).result()


def test_a_timer_that_ran_before_goes_on():
    signal.setitimer(signal.ITIMER_REAL, before := 100)
    try:
        run(INDEX + "o[i] = a[i];")
        left, _ = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert 0 < left <= before


def test_another_threads_memory():
    body = (
        INDEX
        + "threadgroup ulong p[1];\nfloat mine[2];\nmine[0] = a[i];\nmine[1] = a[0];\nif (i == 0) p[0] = (ulong)&mine[0];\n"
    )
    fault(body + BARRIER + "o[i] = ((thread float*)p[0])[i & 1] + mine[(i + 1) & 1];", kind="wild_access")


REFUSED = {
    "a half read without float()": ("o[i] = half(a[i]) + 1.0f;", ""),
    "bfloat narrowed silently": ("bfloat b = a[i];\no[i] = float(b);", ""),
    "double": ("double d = 1.0f;\no[i] = float(d);", ""),
    "min of two types": ("o[i] = float(metal::min(i, 3));", ""),
    "simd_sum of bfloat": ("o[i] = float(simd_sum(bfloat(1.0f)));", ""),
    "a function of half": ("o[i] = float(metal::exp(half(1.0f)));", ""),
    "an attribute in a helper": (
        "o[i] = float(where());",
        "METAL_FUNC uint where() { return thread_position_in_grid.x; }",
    ),
    "erf, which Metal lacks": ("o[i] = metal::erf(a[i]);", ""),
    "a dead branch that CUDA would compile": (
        "if constexpr (D == 2) { float t[D - 3]; o[i] = t[0]; } else { static_assert(D == 2); }",
        "",
    ),
}


@pytest.mark.parametrize("body, helpers", REFUSED.values(), ids=REFUSED)
def test_what_must_not_compile(body, helpers):
    with pytest.raises(CompileError):
        run(INDEX + body, helpers, template={"D": 4})


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
def test_types_round_as_mlx_rounds(dtype):
    with launch.through(Emulator()):
        (o,) = Text(INDEX + "o[i] = T(1.0f / (a[i] + 3.0f));")(
            [mx.arange(64, dtype=mx.float32)], [((64,), dtype)], template={"T": dtype}, groups=(1, 1, 1), threads=64
        )  # fmt: skip
    assert mx.array_equal(o, (1 / (mx.arange(64, dtype=mx.float32) + 3)).astype(dtype))


def test_simd_functions():
    o = run(INDEX + "uint lane = thread_index_in_simdgroup;\n"
            "float x = a[lane];\no[i] = i < 32 ? simd_max(x) + simd_min(x) + simd_sum(x) + simd_broadcast(x, ushort(3))\n"
            " : float(simd_prefix_exclusive_sum(lane)) + float(popcount(uint(ulong(simd_ballot(lane < 5)))));")  # fmt: skip
    assert (o[:32] == 31 + 0 + 496 + 3).all()
    assert np.array_equal(o[32:], np.concatenate([[0], np.cumsum(np.arange(31))]) + 5)


def test_atomics_on_threadgroup_memory():
    body = (INDEX + "threadgroup atomic_uint n[2];\nif (i < 2) atomic_store_explicit(&n[i], 0u, memory_order_relaxed);\n" + BARRIER
            + "atomic_fetch_add_explicit(&n[i & 1], 1u, memory_order_relaxed);\n" + BARRIER
            + "o[i] = float(atomic_load_explicit(&n[i & 1], memory_order_relaxed));")  # fmt: skip
    assert (run(body) == 32).all()


RELEASE = "threadgroup_barrier(mem_flags::mem_device);\n"
ACQUIRE = "threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);\n"
FENCE = "atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device);\n"
COUNT = "b[0] = atomic_fetch_add_explicit((device atomic_uint*)count, 1u, memory_order_relaxed);\n"
JOINED = (
    INDEX + "threadgroup uint b[1];\no[i] = a[i];\n" + RELEASE + "if (thread_index_in_threadgroup == 0) {\n" + FENCE + COUNT
    + FENCE + "}\n" + ACQUIRE + "if (b[0] == 3u) {\nsum[thread_index_in_threadgroup] = o[thread_index_in_threadgroup] + "
    "o[32 + thread_index_in_threadgroup] + o[64 + thread_index_in_threadgroup] + o[96 + thread_index_in_threadgroup];\n"
    "if (thread_index_in_threadgroup == 0) {\natomic_store_explicit((device atomic_uint*)count, 0u, memory_order_relaxed);\n}\n}"
)  # fmt: skip


def joined(body, order="forward"):
    """Four threadgroups of 32, of which the last adds up what all of them wrote."""
    kernel = launch.Kernel("planted", ("a", "count"), ("o", "sum"), written=("count",))
    kernel.text = "", body
    count = mx.zeros((8,), mx.uint32)
    with launch.through(Emulator(order)):
        outputs = [((128,), mx.float32), ((32,), mx.float32)]
        _, total = kernel([mx.arange(128, dtype=mx.float32), count], outputs, template={}, groups=(4, 1, 1), threads=32)
    assert not mx.any(count)
    return np.array(total)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_the_last_threadgroup_sees_what_the_others_wrote(order):
    assert np.array_equal(joined(JOINED, order), np.arange(128).reshape(4, 32).sum(0))


@pytest.mark.parametrize(
    "right, wrong",
    [
        (RELEASE, ""),  # the other threads' stores come before no fence
        (RELEASE, "threadgroup_barrier(mem_flags::mem_threadgroup);\n"),
        (FENCE + COUNT, COUNT),  # nothing is released
        (COUNT + FENCE, COUNT),  # nothing is acquired
        (FENCE + COUNT, FENCE + "o[i] = 2.0f;\n" + COUNT),  # a store after the fence
        (ACQUIRE, "threadgroup_barrier(mem_flags::mem_threadgroup);\n"),  # acquired by one thread alone
    ],
)
def test_what_is_missing_between_threadgroups_is_a_race(right, wrong):
    assert JOINED.count(right) == 1
    with pytest.raises(KernelError) as raised:
        joined(JOINED.replace(right, wrong))
    assert raised.value.kind == "race" and "between threadgroups" in str(raised.value)


def test_who_is_not_the_last_finds_nothing_written():
    with pytest.raises(KernelError) as raised:
        joined(JOINED.replace("== 3u", "== 2u"))
    assert raised.value.kind == "uninitialised"


ARRIVAL = """
  if (thread_index_in_threadgroup == 0) {
    o[threadgroup_position_in_grid.x] =
      float(atomic_fetch_add_explicit((device atomic_uint*)count, 1u, memory_order_relaxed));
  }"""


def arrived(template, order, seed, stands_in=False):
    """When each of 12 threadgroups ran."""
    kernel = launch.Kernel("planted", ("a", "count"), ("o",), written=("count",), optional=("count",))
    kernel.text = "", ARRIVAL
    a, count = mx.zeros((8,), mx.uint32), mx.zeros((8,), mx.uint32)
    with launch.through(Emulator(order, seed)):
        (o,) = kernel([a, a if stands_in else count], [((12,), mx.float32)], template=template, groups=(12, 1, 1), threads=32)
    return np.array(o).astype(int)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_threadgroups_that_are_together_stay_in_order_among_others(order):
    """A later one may wait for an earlier one."""
    found = [arrived({"TOGETHER": 3}, order, seed).reshape(4, 3) for seed in range(6)]
    assert all((np.diff(each, axis=1) == 1).all() for each in found)
    first = {tuple(each[:, 0]) for each in found}
    assert len(first) > 1 if order == "random" else first == {(0, 3, 6, 9) if order == "forward" else (9, 6, 3, 0)}
    assert (np.diff(arrived({}, "reverse", 1)) == -1).all(), "the others do not"


def test_what_stands_for_an_optional_input_is_not_written_to():
    with pytest.raises(KernelError) as raised:
        arrived({}, "forward", 1, stands_in=True)
    assert raised.value.kind == "wild_access"


def test_8x8_matrices():
    body = """uint lane = thread_index_in_simdgroup;
      simdgroup_matrix<float, 8, 8> m, t, p;
      simdgroup_load(m, a, 8);
      simdgroup_load(t, a, 8, ulong2(0, 0), true);
      p.thread_elements()[0] = 0.0f;
      p.thread_elements()[1] = lane == 0 ? 1.0f : 0.0f;
      simdgroup_multiply_accumulate(p, m, t, p);
      simdgroup_store(p, o, 8);"""
    m = np.arange(64.0).reshape(8, 8)
    expected = m @ m.T
    expected[0, 1] += 1  # lane 0 holds row 0, columns 0 and 1
    with launch.through(Emulator()):
        (o,) = Text(body)(
            [mx.arange(64, dtype=mx.float32)], [((8, 8), mx.float32)], template={}, groups=(1, 1, 1), threads=32
        )  # fmt: skip
    assert np.array_equal(np.array(o), expected)
