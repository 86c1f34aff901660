"""One launch of every kernel, for the checks of its text. A new .metal with a body needs a call here."""

from functools import cache

import mlx.core as mx
from smelt.kernels import launch, linear_kernel, sample
from smelt.kernels.attention import attention
from smelt.kernels.coding import coding
from smelt.kernels.embed import embed
from smelt.kernels.experts import experts
from smelt.kernels.gated_delta import gated_delta
from smelt.kernels.gated_group_norm import gated_group_norm
from smelt.kernels.linear import linear, pack, with_gain
from smelt.kernels.mamba2 import mamba2
from smelt.kernels.norm import Norm, add_norm
from smelt.kernels.pages import PAGE, Pages, Rows
from smelt.kernels.qk_norm_rope import Rope, qk_norm_rope
from smelt.kernels.resident import pieces_of
from smelt.kernels.router import Routed, Routing, route
from smelt.kernels.self_attention import self_attention
from smelt.kernels.short_conv import short_conv

from msl.emulator import Emulator
from msl.spans import span_of

F16 = mx.float16


def linear_by(knobs: dict) -> mx.array:
    """linear with everything on, by the kernel and knobs given."""
    chosen, norm = linear_kernel.chosen_knobs, Norm(mx.ones((256,), F16), 1e-6)
    linear_kernel.chosen_knobs = lambda *_: knobs
    try:
        return linear(
            mx.ones((2, 256), F16), with_gain(pack(mx.ones((16, 256), F16)), norm), norm=norm, residual=mx.ones((2, 8), F16),
            glu="silu",
        )  # fmt: skip
    finally:
        linear_kernel.chosen_knobs = chosen


def linear_lanes():
    return linear_by({"kernel": "lanes", "simds": 2, "split": 1, "rows": 4, "values": 8})


def linear_tiles():
    return linear_by({"kernel": "tiles", "simds": 2, "slice": 1, "outs": 8, "depth": 1, "resident": 1})


def linear_bytes():
    return linear_by({"kernel": "bytes", "simds": 2, "slice": 1, "outs": 8, "depth": 1, "resident": 1, "together": 2, "turn": 1})


def handed_to_the_host():
    return pieces_of(mx.zeros((5,), mx.uint32))


def attention_over_pages(length):
    q, k = mx.ones((1, 2, 1, 64), F16), mx.ones((1, 1, 1, 64), F16)
    pages = -(-length // PAGE)
    return attention(q, k, k, Pages(1, 64, F16), Rows((span_of(0, ((0, length),)),), pages * PAGE), scale=0.125)


def attention_over_a_page():
    return attention_over_pages(1)


def attention_in_parts():
    return attention_over_pages(8 * PAGE)


def on_tiles(call):
    """The same call, by the matrix units, its parts joined by the last threadgroup."""

    def made():
        with launch.forced("attention", {"walk": "tiles", "join": "last"}):
            return call()

    return made


def packed(mode):
    pages = Pages(1, 64, F16)
    pages.pack(coding(mode, 64))
    return pages


def attention_over_packed_heads():
    q, k = mx.ones((1, 2, 1, 64), F16), mx.ones((1, 1, 1, 64), F16)
    return attention(q, k, k, packed("turbo4"), Rows((span_of(0, ((0, 1),)),), PAGE), scale=0.125)


def keys_packed_from_a_row_of_qkv():
    return qk_norm_rope(
        mx.ones((1, 1, 256), F16), mx.array([3], mx.int32), Rope(64), heads=2, kv_heads=1, head_dim=64, pages=packed("turbo2"),
        rows=Rows((span_of(0, ((0, 4),)),), PAGE),
    )[0]  # fmt: skip


def keys_read_from_pages():
    pages, rows = Pages(1, 64, F16), Rows((span_of(0, ((0, 2),)),), PAGE)
    pages.write(mx.ones((1, 1, 2, 64), F16), mx.ones((1, 1, 2, 64), F16), rows)
    return pages.read(rows.spans[0])


def rows_of_a_matrix():
    return embed(mx.array([3, 1] * 4), pack(mx.ones((8, 64), F16)), 2.0)


def attention_from_a_row_of_qkv():
    norm, pages = Norm(mx.ones((64,), F16), 1e-6), Pages(1, 64, F16)
    return self_attention(
        mx.ones((1, 1, 256), F16), Rope(64), pages, Rows((span_of(0, ((0, 4),)),), PAGE), heads=2,
        scale=0.125, q_norm=norm, k_norm=norm,
    )  # fmt: skip


def qk_norm_and_rope():
    norm = Norm(mx.ones((64,), F16), 1e-6)
    return qk_norm_rope(
        mx.ones((1, 1, 256), F16), mx.array([3], mx.int32), Rope(64), heads=2, kv_heads=1, head_dim=64, q_norm=norm, k_norm=norm,
        pages=Pages(1, 64, F16), rows=Rows((span_of(0, ((0, 4),)),), PAGE),
    )[0]  # fmt: skip


def sampled_with_everything():
    ones = mx.ones((1,))
    parameters = sample.Parameters(
        ones, mx.array([3], mx.int32), 0.9 * ones, 0.1 * ones, ones, ones, ones, mx.array([[1, 2]], mx.uint32), mx.ones((1, 64))
    )  # fmt: skip
    plan = sample.Plan(True, 3, True, True, True, True, True, True, logprobs=2)
    history = sample.History(mx.zeros((2 * 64 + 4,), mx.int32), mx.array([3], mx.int32))
    mask = mx.full((1, 2), 0xFFFFFFFF, mx.uint32)
    return sample.sampled(mx.ones((1, 64), F16), parameters, mx.array([5], mx.uint32), plan, history, mask)[0]


def add_norm_and_scale():
    return add_norm(mx.ones((2, 64), F16), mx.ones((2, 64), F16), Norm(mx.ones((64,), F16), 1e-6), mx.ones((1,), F16))


def routed():
    return route(mx.ones((1, 40), F16), Routing(3, groups=(4, 2)), mx.ones((40,)), mx.ones((40,), F16))


def experts_with_everything():
    x, norm = mx.ones((1, 64), F16), Norm(mx.ones((64,), F16), 1e-6)
    up, down = pack(mx.ones((4, 64, 64), F16)), pack(mx.ones((4, 64, 32), F16), 32)
    chosen = Routed((mx.array([[0, 3]], mx.uint32), mx.ones((1, 2))))
    return experts(
        x, chosen, with_gain(up, norm), down, glu="silu", norm=norm, residual=x, beside=(x, mx.ones((1, 1), F16))
    )  # fmt: skip


def convolved():
    return short_conv(mx.ones((1, 2, 64), F16), mx.ones((1, 3, 64), F16), mx.ones((64, 4), F16), None, "silu", keep=True)


def delta_normed():
    qkv, heads, norm = mx.ones((1, 2, 256), F16), mx.ones((1, 2, 2), F16), Norm(mx.ones((64,), F16), 1e-6)
    return gated_delta(
        qkv, heads, heads, mx.ones((1, 2, 64, 64)), rate=mx.ones((2,)), dt_bias=mx.ones((2,)), keep=True,
        gate=mx.ones((1, 2, 128), F16), norm=norm,
    )  # fmt: skip


def mamba2_step():
    heads = mx.ones((2,))
    return mamba2(
        mx.ones((1, 2, 256), F16), mx.ones((1, 2, 2), F16), mx.ones((1, 2, 64, 64)), a=-heads, d=heads, dt_bias=heads,
        keep=True,
    )  # fmt: skip


def norm_of_groups():
    return gated_group_norm(mx.ones((1, 128), F16), mx.ones((1, 128), F16), Norm(mx.ones((128,), F16), 1e-6), 2)


CALLS = [linear_lanes, linear_tiles, linear_bytes, handed_to_the_host, attention_over_packed_heads, keys_packed_from_a_row_of_qkv, attention_over_a_page, attention_in_parts, keys_read_from_pages, qk_norm_and_rope, attention_from_a_row_of_qkv,
         on_tiles(attention_in_parts), on_tiles(attention_from_a_row_of_qkv), rows_of_a_matrix, routed, experts_with_everything, convolved, delta_normed, mamba2_step,
         norm_of_groups, sampled_with_everything, add_norm_and_scale]  # fmt: skip


@cache
def launches() -> dict[str, tuple]:
    """Of every kernel that the calls launch: (kernel, inputs, outputs, template, groups, threads)."""
    emulator = Emulator()
    with launch.through(emulator):
        for call in CALLS:
            call()
    return {each[0].name: each for each in emulator.launches}
