"""`qk_norm_rope` for 1 to 8 tokens a row on a GPU where pages hold packed heads (coding.py): keys and values are packed on
their way to the pages. What it covers is what qk_norm_rope_kernel.py covers.
"""

import mlx.core as mx

from . import launch, pages_kernel, qk_norm_rope_kernel, rotation_kernel
from .packed_pages_kernel import HOME, template
from .qk_norm_rope_kernel import gains_of, turning

KERNEL = launch.Kernel(
    "packed_qk_norm_rope", ("qkv", "where", "turns", "gains", *HOME, "after"), ("q",), written=HOME,
    optional=("turns", "gains", "after"),
)  # fmt: skip

covers = qk_norm_rope_kernel.covers
case = qk_norm_rope_kernel.case


def fused(qkv, position, rope, pages, rows, *, heads, kv_heads, head_dim, q_norm, k_norm, v_norm) -> mx.array:
    """-> q [B, heads, T, head_dim]; keys and values are in `pages`."""
    batch, new, width = qkv.shape
    norms = (q_norm, k_norm, v_norm)
    simds = launch.knobs("packed_qk_norm_rope", "*", {"simds": 4})["simds"]
    pages.prepare(rows)
    where = rows.addresses(new, pages.keys.shape[1]).where
    (q,) = KERNEL(
        [qkv, where, where if rope is None else rotation_kernel.turns(rope, rows, position, new), gains_of(norms, qkv),
         *pages.held, pages_kernel.waited_for(pages, where)],
        [((batch, heads, new, head_dim), qkv.dtype)],
        template={
            "T": qkv.dtype, "B": batch, "NEW": new, "HEADS": heads, "KV_HEADS": kv_heads, **template(pages),
            "SAME": width == (heads + kv_heads) * head_dim, **turning(rope, norms), "SIMDS": simds,
        },
        groups=(-(-batch * new * (heads + 2 * kv_heads) // simds), 1, 1),
        threads=32 * simds,
    )  # fmt: skip
    pages.written = q
    return q
