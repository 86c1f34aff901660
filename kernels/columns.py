"""Some columns of a wider array, named instead of cut out: a kernel reads them where they lie.

Cutting costs nothing while there is one row; of more rows MLX copies the columns before it hands them to a kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Columns:
    """Columns first .. first + width of whole [..., W]."""

    whole: mx.array
    first: int
    width: int

    @property
    def array(self) -> mx.array:
        return self.whole[..., self.first : self.first + self.width]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.whole.shape[:-1], self.width)

    @property
    def size(self) -> int:
        return self.whole.size // self.whole.shape[-1] * self.width

    @property
    def dtype(self) -> mx.Dtype:
        return self.whole.dtype

    def astype(self, dtype: mx.Dtype) -> mx.array:
        return self.array.astype(dtype)


Wide = mx.array | Columns


def split(whole: mx.array, widths: Sequence[int]) -> list[Columns]:
    """Neighbouring columns, of these widths; together they are the whole."""
    assert sum(widths) == whole.shape[-1], f"{widths} columns of {whole.shape[-1]}"
    return [Columns(whole, sum(widths[:i]), width) for i, width in enumerate(widths)]


def named(x: Wide) -> Columns:
    return x if isinstance(x, Columns) else Columns(x, 0, x.shape[-1])


def array(x: Wide) -> mx.array:
    return x.array if isinstance(x, Columns) else x


def tail(x: Wide, last: bool) -> Wide:
    """With `last` only the last of the tokens of [B, T, ...]."""
    if not last:
        return x
    return Columns(x.whole[:, -1:], x.first, x.width) if isinstance(x, Columns) else x[:, -1:]
