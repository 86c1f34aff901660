"""How keys and values are packed in their pages: a few bits an element, in groups of neighbours of a head.

    x = scale code + bias,    bias = min x,  scale = (max x - min x) / (2^bits - 1)    over each group
                              bias = mean x - 1.5 scale,  scale = 0.9957 deviation x   with 2 bits

The step of 2 bits has the least squared error where x is normal (Max 1960), as turned heads nearly are. The two numbers have the type of the model and stand side by side, the group's grid; a code is rounded by them as they are
kept. Words hold codes as `mx.quantize` packs them.

A turned coding (turbo2, turbo4) packs R x, with R = H S / sqrt(P) on every P neighbours: S changes signs that look
random, H is Hadamard's matrix, P the largest power of two that divides the head (128: itself, 96: 32). That spreads an outlier
over P elements, whose groups then span less. R is orthogonal: attention turns queries, whose products with keys stay
what they were, and turns the weighted sum of values back, once a head.

Rotation before rounding: Ashkboos et al. 2024 (QuaRot), Tseng et al. 2024 (QuIP#: random signs), Zandieh et al. 2025
(TurboQuant: keys and values).
"""

from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from .activations import compiled

MODES = {"4": (4, False), "8": (8, False), "turbo2": (2, True), "turbo4": (4, True)}  # bits, turned
GROUPS = (64, 32)
STEP = 0.9957  # deviations between two of four codes


@dataclass(frozen=True)
class Coding:
    """Of one layer's heads. `reading`: a kernel reads them as they lie ("auto" where there is one, "fused"), or "dense": it
    does not.
    """

    bits: int
    group: int
    turned: bool
    head_dim: int
    reading: str = "auto"

    @property
    def title(self) -> str:
        return f"{self.bits}-bit{' turned' if self.turned else ''}"

    @property
    def widths(self) -> tuple[int, int]:
        """Words of a head, and numbers of its grids."""
        return self.head_dim * self.bits // 32, 2 * self.head_dim // self.group

    def encode(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x [..., head_dim] -> words [..., head_dim bits / 32] uint32, grids [..., 2 groups] of x's type."""
        grouped = self.turn(x).astype(mx.float32).reshape(*x.shape[:-1], -1, self.group)
        low, high = (_around if self.bits == 2 else _extremes)(grouped)
        codes, scale, bias = _rounded(grouped, low, high, mx.array(float(2**self.bits - 1)), mx.zeros((), x.dtype))
        codes = codes.reshape(*x.shape[:-1], -1, 32 // self.bits) << mx.arange(0, 32, self.bits, dtype=mx.uint32)
        return codes.sum(axis=-1), mx.concatenate([scale, bias], axis=-1).reshape(*x.shape[:-1], -1)

    def decode(self, words: mx.array, grids: mx.array) -> mx.array:
        """-> heads as they were packed, turned where they are, of the grids' type."""
        return mx.dequantize(words, grids[..., ::2], grids[..., 1::2], group_size=self.group, bits=self.bits)

    def turn(self, x: mx.array) -> mx.array:
        """R x for each head of x [..., head_dim], in float32; x itself where nothing is turned."""
        return self._blocks(x.astype(mx.float32) * signs(self.head_dim)) if self.turned else x

    def turn_back(self, x: mx.array) -> mx.array:
        """The inverse of `turn`: R^T x."""
        return self._blocks(x.astype(mx.float32)) * signs(self.head_dim) if self.turned else x

    def _blocks(self, x):
        return mx.hadamard_transform(x.reshape(*x.shape[:-1], -1, block(self.head_dim))).reshape(x.shape)


@compiled
def _extremes(x):
    return x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)


@compiled
def _around(x):
    mean = x.mean(axis=-1, keepdims=True)
    reach = 1.5 * STEP * mx.sqrt(mx.square(x - mean).mean(axis=-1, keepdims=True))
    return mean - reach, mean + reach


@compiled
def _rounded(x, low, high, most, like):
    """x [..., groups, group] -> codes uint32, scale and bias [..., groups, 1] of the type of `like`."""
    scale, bias = ((high - low) / most).astype(like.dtype), low.astype(like.dtype)
    step = scale.astype(mx.float32)
    codes = mx.round((x - bias.astype(mx.float32)) / mx.where(step > 0, step, 1.0))
    return mx.clip(codes, 0.0, most).astype(mx.uint32), scale, bias


def coding(mode: str, head_dim: int, reading: str = "auto") -> Coding:
    """The coding that `mode`, one of MODES, means for heads of this size. Raises ValueError where there is none."""
    bits, turned = MODES[mode]
    group = next((size for size in GROUPS if head_dim % size == 0), None)
    if group is None:
        raise ValueError(f"heads of {head_dim} elements are no whole groups of {' or '.join(map(str, GROUPS))}")
    return Coding(bits, group, turned, head_dim, reading)


def block(head_dim: int) -> int:
    """The largest power of two that divides it."""
    return head_dim & -head_dim


@cache
def signs(head_dim: int) -> mx.array:
    """[head_dim] of 1 and -1: signs that look random and are the same for ever."""
    return mx.array([-1.0 if mixed(i) & 1 else 1.0 for i in range(head_dim)])


def mixed(i: int) -> int:
    """A number in which every bit depends on all of i (the rounds of MurmurHash3, Appleby 2011)."""
    i = i * 0x9E3779B1 & 0xFFFFFFFF
    i = (i ^ i >> 15) * 0x85EBCA77 & 0xFFFFFFFF
    return i ^ i >> 13
