"""The ops whose kernels `smelt tune` tunes and `smelt doctor` verifies. A new op adds its Space to SPACES.

Knobs are template values: names and meanings are those of <op>_kernel.py, and a candidate is what that file finds
possible. A name that it no longer asks for is no candidate.
"""

import itertools
from collections.abc import Iterator

from . import attention, attention_kernel, linear, linear_kernel, qk_norm_rope, qk_norm_rope_kernel
from .tuning import Call, Knobs, Space

LINEAR = {
    "tiles": {"simds": (4, 5, 8, 10, 16, 20), "slice": (1, 2, 4, 5, 8), "pairs": (1, 2, 3, 5, 8), "ahead": (0, 1, 2),
              "resident": (1, 2)},
    "lanes": {"simds": (1, 2, 4, 8), "split": (1, 2, 4, 8), "rows": (2, 4, 8), "values": (8, 16, 32)},
}  # fmt: skip
ATTENTION = {"simds": (1, 2, 4, 8), "batch": (4, 8, 16)}
QK_NORM_ROPE = {"simds": (1, 2, 4, 8, 16)}


def combinations(choices: dict[str, tuple]) -> Iterator[Knobs]:
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def of_default(choices: dict[str, tuple]):
    """Candidates of an op that asks for exactly the knobs that its default names."""
    return lambda op, default, call: combinations({name: choices[name] for name in default if name in choices})


def linear_candidates(op: str, default: Knobs, call: Call) -> Iterator[Knobs]:
    x, weight, _, _, glu, _ = call.args
    bits = weight.bits if weight.packed else 8 * x.dtype.size
    group = weight.group_size if weight.packed else x.shape[-1]
    for kernel, choices in LINEAR.items():
        for knobs in combinations(choices):
            knobs = {"kernel": kernel, **knobs}
            if not linear_kernel.impossible(knobs, bits, group, x.shape[-1], x.dtype) and worth(knobs, weight.rows, glu):
                yield knobs


def worth(knobs: Knobs, rows: int, glu: str | None) -> bool:
    """Threadgroups enough to fill a GPU, and splits of k by whole threadgroups or not at all."""
    if knobs["kernel"] == "lanes":
        return knobs["split"] in (1, knobs["simds"])
    outputs = rows // 2 if glu else rows
    return knobs["pairs"] == 1 or outputs / linear_kernel.outputs_of_group(knobs, glu is not None) >= 64


def linear_reference(x, weight, norm, residual, glu, act):
    return linear.reference(x, weight, norm=norm, residual=residual, glu=glu, act=act)


def attention_reference(q, keys, values, addresses, *, page, scale, window, cap):
    return attention.paged_reference(q, keys, values, addresses, scale=scale, window=window, cap=cap)


SPACES = (
    Space("linear", linear_kernel, linear_reference, linear_candidates),
    Space("attention", attention_kernel, attention_reference, of_default(ATTENTION)),
    Space("qk_norm_rope", qk_norm_rope_kernel, qk_norm_rope.reference, of_default(QK_NORM_ROPE)),
)
