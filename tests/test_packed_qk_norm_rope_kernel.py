"""packed_qk_norm_rope's kernel: the queries of qk_norm_rope's, and the words that packed_pages makes of its keys and values."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from msl.accuracy import kernels_run
from msl.inputs import handed_over
from msl.spans import span_of
from smelt.kernels import launch
from smelt.kernels.attention import attention
from smelt.kernels.coding import MODES, coding
from smelt.kernels.norm import Norm
from smelt.kernels.pages import PAGE, Pages, Rows
from smelt.kernels.qk_norm_rope import Rope, qk_norm_rope

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
CASES = {
    "one token": (4, 2, 64, 1, Rope(64, 1e6), "qk", False),
    "several tokens, every norm": (2, 2, 128, 5, Rope(64), "qkv", False),
    "keys are values": (4, 1, 64, 2, Rope(64), "qkv", True),
    "neighbours turn, and half of a head": (4, 2, 96, 2, Rope(48, interleaved=True), "", False),
    "nothing turns": (2, 1, 256, 1, None, "k", False),
    "stretched": (3, 1, 32, 8, replace(Rope(32), scale=0.125, magnitude=1.2), "", False),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_the_two_kernels(case, dtype, mode):
    heads, kv_heads, head_dim, new, rope, norms, same = CASES[case]
    rng, lengths = np.random.default_rng(), (0, 61, 130)

    def draw(*shape):
        return mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)

    qkv, position = draw(len(lengths), new, (heads + (1 if same else 2) * kv_heads) * head_dim), mx.array(lengths, mx.int32)
    rest = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    rest |= {f"{n}_norm": Norm(draw(head_dim) + 1, 1e-6) if n in norms else None for n in "qkv"}
    spans = tuple(span_of(n, ((i * 3 * PAGE + n, new),)) for i, n in enumerate(lengths))
    rows = Rows(spans, 3 * len(lengths) * PAGE)
    plain, ours, theirs = (Pages(kv_heads, head_dim, dtype) for _ in range(3))
    for pages in (ours, theirs):
        pages.pack(coding(mode, head_dim))
    with kernels_run("random"):
        q, *_ = qk_norm_rope(qkv, position, rope, **rest, pages=plain, rows=rows)
        packed_q, k, v = qk_norm_rope(qkv, position, rope, **rest, pages=ours, rows=rows)
        assert k is None and v is None
        k, v = (mx.stack(x) for x in zip(*map(plain.read, spans), strict=True))
        theirs.write(k, v, rows)
        held = [[part for span in spans for part in pages.raw(span.runs)] for pages in (ours, theirs)]
        mx.eval(held)
    assert mx.array_equal(q, packed_q)
    assert all(mx.array_equal(a, b) for a, b in zip(*held, strict=True))


def test_only_what_there_is_is_handed_over():
    """Attention waits for the queries, after which keys and values are in their pages."""
    pages, rows = Pages(1, 64, BF16), Rows((span_of(0, ((0, 1),)),), PAGE)
    pages.pack(coding("4", 64))
    with handed_over() as launched:
        qkv, shape = mx.ones((1, 1, 256), BF16), {"heads": 2, "kv_heads": 1, "head_dim": 64}
        q, *_ = qk_norm_rope(qkv, mx.array([0], mx.int32), None, **shape, pages=pages, rows=rows)
        attention(q, None, None, pages, rows, scale=0.125)
    held = {"where", "keys", "values", "key_grids", "value_grids"}
    assert [(kernel.name, set(found)) for kernel, found in launched] == [
        ("packed_qk_norm_rope", {"qkv"} | held), ("packed_attention", {"q"} | held)
    ]  # fmt: skip
    assert all(found["where"] is rows.addresses(1, PAGE).where for _, found in launched)


def test_it_can_be_switched_off_by_name(monkeypatch):
    monkeypatch.setenv("SMELT_KERNELS", "-packed_qk_norm_rope")
    pages = Pages(1, 64, F32)
    pages.pack(coding("4", 64))
    with kernels_run():
        shape = {"heads": 1, "kv_heads": 1, "head_dim": 64}
        rows = Rows((span_of(0, ((0, 1),)),), PAGE)
        _, k, v = qk_norm_rope(mx.ones((1, 1, 192)), mx.array([0], mx.int32), None, **shape, pages=pages, rows=rows)
    assert k.shape == v.shape == (1, 1, 1, 64)
    assert any(way.op == "packed_qk_norm_rope" and "switched off" in way.why for way in launch.report())
