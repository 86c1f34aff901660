"""The kernels of recurrent mixers against the same in mx ops: decode, a verified draft, and a prompt.

    python -m smelt.bench.bench_recurrent
    python -m smelt.bench.bench_recurrent --only prompt --tokens 512 2048

Bytes of a step are those of the states, read and written; of a prompt those of its inputs and outputs. A prompt's plain
form goes in chunks, as matrix products; the kernel walks token by token: which is faster says the knob `longest`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from ..kernels.gated_delta import gated_delta
from ..kernels.gated_group_norm import gated_group_norm
from ..kernels.mamba2 import mamba2
from ..kernels.norm import Norm
from ..kernels.short_conv import gated_short_conv, short_conv
from .chain import Result, compared, needs_a_gpu, options, report

DTYPE = mx.bfloat16
ROTATED = 200 << 20  # bytes of states that calls take in turn: more than a cache holds


@dataclass(frozen=True)
class Delta:
    """Qwen 3 Next's layer: heads of keys and of values, their widths, taps."""

    name: str = "qwen3-next delta net"
    k_heads: int = 16
    v_heads: int = 32
    k_dim: int = 128
    v_dim: int = 128
    taps: int = 4


@dataclass(frozen=True)
class Mamba:
    """Nemotron-H 8B's layer."""

    name: str = "nemotron-h mamba"
    heads: int = 128
    width: int = 64
    groups: int = 8
    size: int = 128
    taps: int = 4


def drawn(*shape: int, dtype=DTYPE) -> mx.array:
    x = mx.random.normal(shape, dtype)
    mx.eval(x)
    return x


def states(*shape: int) -> list[mx.array]:
    """As many as calls take in turn."""
    one = drawn(*shape, dtype=mx.float32)
    count = max(2, min(48, ROTATED // one.nbytes))
    made = [one + i for i in range(count)]
    mx.eval(made)
    return made


def convolution(name: str, batch: int, new: int, channels: int, taps: int, gated: bool) -> Result:
    x, tail = drawn(batch, new, channels * (3 if gated else 1)), drawn(batch, taps - 1, channels)
    weight, keep = drawn(channels, taps), new > 1

    def call(x, i):
        if gated:
            return gated_short_conv(x, tail, weight, keep=keep)[0]
        return short_conv(x, tail, weight, None, "silu", keep)[0]

    return compared(f"{name}, {batch}x{new}: short_conv", call, x, x.nbytes + tail.nbytes * (2 if new == 1 else new))


def delta(s: Delta, batch: int, new: int, prompt: bool) -> Result:
    width = s.v_heads * s.v_dim
    qkv, gate = drawn(batch, new, 2 * s.k_heads * s.k_dim + width), drawn(batch, new, width)
    a, rate = drawn(batch, new, s.v_heads), mx.abs(drawn(s.v_heads, dtype=mx.float32))
    norm, kept = Norm(drawn(s.v_dim), 1e-6), states(batch, s.v_heads, s.v_dim, s.k_dim)

    def call(x, i):
        y, after, trail = gated_delta(
            x, a, a, kept[i % len(kept)], rate=rate, dt_bias=rate, keep=not prompt and new > 1, gate=gate, norm=norm
        )  # fmt: skip
        return joined(y, after, trail)

    return compared(f"{s.name}, {batch}x{new}: gated_delta", call, qkv, moved(kept[0], qkv, new, prompt), count_of(prompt))


def mamba(s: Mamba, batch: int, new: int, prompt: bool) -> Result:
    xbc = drawn(batch, new, s.heads * s.width + 2 * s.groups * s.size)
    dt, d = drawn(batch, new, s.heads), mx.abs(drawn(s.heads, dtype=mx.float32))
    kept = states(batch, s.heads, s.width, s.size)

    def call(x, i):
        y, after, trail = mamba2(x, dt, kept[i % len(kept)], a=-d, d=d, dt_bias=d, keep=not prompt and new > 1)
        return joined(y, after, trail)

    return compared(f"{s.name}, {batch}x{new}: mamba2", call, xbc, moved(kept[0], xbc, new, prompt), count_of(prompt))


def joined(y, after, trail) -> mx.array:
    """y, that waits for the states."""
    return mx.depends([y], [after] if trail is None else [after, trail])[0]


def moved(state: mx.array, inputs: mx.array, new: int, prompt: bool) -> int:
    return 2 * inputs.nbytes if prompt else state.nbytes * (2 if new == 1 else 2 + new)


def count_of(prompt: bool) -> int:
    return 4 if prompt else 48


def group_norm(s: Mamba, batch: int, new: int) -> Result:
    y, norm = drawn(batch, new, s.heads * s.width), Norm(drawn(s.heads * s.width), 1e-5)
    gate = drawn(*y.shape)
    return compared(
        f"{s.name}, {batch}x{new}: gated_group_norm", lambda x, i: gated_group_norm(x, gate, norm, s.groups), y, 3 * y.nbytes
    )  # fmt: skip


def cases(prompts: list[int]) -> Iterator[tuple[str, Callable[[], Result]]]:
    d, m = Delta(), Mamba()
    d_conv, m_conv = 2 * d.k_heads * d.k_dim + d.v_heads * d.v_dim, m.heads * m.width + 2 * m.groups * m.size
    for batch, new in ((1, 1), (1, 4), (8, 1)):
        yield "delta conv", lambda b=batch, n=new: convolution(d.name, b, n, d_conv, d.taps, False)
        yield "delta step", lambda b=batch, n=new: delta(d, b, n, False)
        yield "mamba conv", lambda b=batch, n=new: convolution(m.name, b, n, m_conv, m.taps, False)
        yield "mamba step", lambda b=batch, n=new: mamba(m, b, n, False)
        yield "mamba norm", lambda b=batch, n=new: group_norm(m, b, n)
        yield "lfm2 conv", lambda b=batch, n=new: convolution("lfm2 1.2b conv", b, n, 2048, 3, True)
    for tokens in prompts:
        yield "delta prompt", lambda t=tokens: delta(d, 1, t, True)
        yield "mamba prompt", lambda t=tokens: mamba(m, 1, t, True)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 512, 2048], help="lengths of prompts")
    args = parser.parse_args()
    needs_a_gpu()
    report([run() for name, run in cases(args.tokens) if args.only in name], args.out)


if __name__ == "__main__":
    main()
