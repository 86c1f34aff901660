"""`attention` for 1 to 8 tokens a row on a GPU, over the pages of a pool: one pass over the pages in parts of SPAN, and
where there are several parts, one that joins them.

Keys are split by position alone: a row's result does not depend on other rows, on the pool's size, on where its pages
lie, or on how many are in the table.

Knobs: span (pages of a part: 1 or 2), simds (simdgroups of a threadgroup, which share its keys), batch (keys that a lane loads
ahead), tile (rows of q a threadgroup at most), resident (threadgroups to fit on a core: only CUDA's compiler is told).
"""

from dataclasses import dataclass

import mlx.core as mx

from . import launch, pages_kernel
from .linear_kernel import FLOATS, float_bits

MAX_TOKENS = 8
INPUTS = ("q", "keys", "values", "table", "bounds", "size", "after")
PARTIAL = launch.Kernel("attention", INPUTS, ("partial", "stats"))
MERGE = launch.Kernel("attention_merge", ("partial", "stats", "bounds"), ("o",))
DEFAULT = {"span": 2, "simds": 8, "batch": 2, "tile": 4, "resident": 2}
SHARED = 16 << 10  # bytes of threadgroup memory for the simdgroups' sums: twice that would not leave room for more


def case(q, keys_heads, window) -> tuple:
    heads, head_dim = q.shape[1], q.shape[3]
    seen = "all" if window is None else f"window {window}"
    return (str(q.dtype).split(".")[-1], f"{heads}/{keys_heads} heads of {head_dim}", seen)


def covers(q, pages) -> str | None:
    """Why there is no kernel for this call, or None."""
    if q.shape[2] > MAX_TOKENS:
        return f"more than {MAX_TOKENS} tokens a row"
    if q.dtype not in FLOATS or pages.dtype != q.dtype:
        return f"q is {q.dtype}, the pool {pages.dtype}"
    if q.shape[3] % 32 or q.shape[3] > 512:
        return f"heads of {q.shape[3]}; a multiple of 32 up to 512 is covered"
    return None


def fused(q, pages, addresses, *, scale, cap) -> mx.array:
    """q [B, H, T, d] over pools that hold the keys and values of its own positions already -> [B, T, H d]."""
    plan = Plan(q.shape[0], q.shape[1], q.shape[2], pages, addresses, scale, cap, q.dtype)
    partial, stats = PARTIAL(
        [q, *pages.held, addresses.table, addresses.bounds, addresses.size, pages_kernel.waited_for(pages, q)],
        plan.outputs, template=plan.template, groups=plan.groups, threads=plan.threads,
    )  # fmt: skip
    return plan.joined(partial, stats)


@dataclass
class Plan:
    """How a call is launched: in `parts` along the keys, which are joined unless there is one."""

    batch: int
    heads: int
    new: int
    pages: object
    addresses: object
    scale: float
    cap: float | None
    dtype: mx.Dtype

    def __post_init__(self):
        from .pages import PAGE

        pages, head_dim = self.pages, self.pages.head_dim
        self.rows = self.heads // pages.kv_heads * self.new
        knobs = chosen_knobs(head_dim, self.rows)
        self.parts = self.addresses.table.shape[1] // knobs["span"]
        self.shape = {"T": self.dtype, "GROUP": self.heads // pages.kv_heads, "NEW": self.new, "KV": pages.kv_heads,
                      "D": head_dim, "PAGE": PAGE, "SPAN": knobs["span"], "WINDOW": pages.window or 0}  # fmt: skip
        self.template = {
            **self.shape, "P": self.dtype if self.whole else mx.float32, "WHOLE": self.whole,
            "SCALE": float_bits(self.scale), "CAPPED": self.cap is not None, "CAP": float_bits(self.cap or 1.0),
            "TILE": knobs["tile"], "SIMDS": knobs["simds"], "BATCH": knobs["batch"], "LANES": lanes_of(head_dim),
            "RESIDENT": knobs["resident"],
        }  # fmt: skip
        self.groups = (self.parts, pages.kv_heads * -(-self.rows // knobs["tile"]), self.batch)
        self.threads = 32 * knobs["simds"]

    @property
    def whole(self) -> bool:
        return self.parts == 1

    @property
    def result(self) -> tuple:
        return ((self.batch, self.new, self.heads * self.pages.head_dim), self.dtype)

    @property
    def outputs(self) -> list:
        if self.whole:
            return [self.result, ((1,), mx.float32)]
        split = (self.batch, self.pages.kv_heads, self.parts, self.rows)
        return [((*split, self.pages.head_dim), mx.float32), ((*split, 2), mx.float32)]

    def joined(self, partial: mx.array, stats: mx.array) -> mx.array:
        if self.whole:
            return partial
        (o,) = MERGE(
            [partial, stats, self.addresses.bounds],
            [self.result],
            template={**self.shape, "PARTS": self.parts},
            groups=(self.rows, self.pages.kv_heads, self.batch),
            threads=-(-self.pages.head_dim // 32) * 32,
        )
        return o


def lanes_of(head_dim: int) -> int:
    """Lanes that share one key: as many as leave each 8 elements or a few more."""
    return min(32, 1 << (head_dim // 8).bit_length() - 1)


def chosen_knobs(head_dim: int, rows: int) -> dict:
    """From the tables where they know this head size on this chip. How the keys are split does not depend on `rows`:
    a token's bits are the same in steps of one and of several."""
    from .pages import PAGE as page

    knobs = launch.knobs("attention", f"{head_dim}", DEFAULT)
    together = 32 // lanes_of(head_dim)
    simds = knobs["simds"]
    while simds > 1 and (4 * simds * knobs["tile"] * head_dim > SHARED or knobs["span"] * page // simds < together):
        simds //= 2
    batch = knobs["batch"]
    while batch > 1 and (page % (together * batch) or knobs["span"] * page // simds % (together * batch)):
        batch //= 2
    return {"span": knobs["span"], "simds": simds, "batch": batch, "tile": min(rows, knobs["tile"]), "resident": knobs["resident"]}
