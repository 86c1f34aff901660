"""`sample` on a GPU: one pass over the logits that every core takes part in, one over its results that draws.

msl/sample.metal looks at chunks of a row, msl/sample_merge.metal joins them, finds the thresholds and draws; it reads
again only chunks that may hold what it looks for. Sums have a fixed order, and no row sees another: its bits are the
same alone and in a batch.

Knobs: simds (simdgroups in a threadgroup of the first pass, a chunk each), merge_simds (of the second, which has one
threadgroup a row).
"""

import mlx.core as mx

from . import launch
from .linear_kernel import FLOATS
from .resident import constant

MOST_TOKENS = 1 << 19  # of a vocabulary: sums of their weights fit into 32 bits
MOST_CHUNKS = 1024  # a row, so that what is known of them fits into a threadgroup's memory
ROW = ("logits", "temperature", "repetition", "presence", "frequency", "table", "ring", "bias", "mask")
CHUNKS = launch.Kernel("sample", ROW, ("stats",), optional=ROW[2:])
MERGE = launch.Kernel(
    "sample_merge",
    ("stats", *ROW, "top_k", "top_p", "min_p", "position", "seed", "window"),
    ("made",),
    written=("table",), optional=(*ROW[2:], "top_k", "top_p", "min_p", "window"),
)


def case(logits, plan) -> tuple:
    asked = {
        "draw": plan.draw, "truncated": truncates(plan), "penalties": plan.penalties, "bias": plan.bias,
        "mask": plan.mask, "logprobs": plan.logprobs is not None,
    }  # fmt: skip
    return (
        str(logits.dtype).split(".")[-1],
        f"{logits.shape[-1]} tokens",
        *(name for name, is_so in asked.items() if is_so),
    )


def covers(logits, plan) -> str | None:
    """Why there is no kernel for this call, or None."""
    if logits.dtype not in FLOATS:
        return f"logits are {logits.dtype}"
    if not 8 <= logits.shape[-1] <= MOST_TOKENS:
        return f"{logits.shape[-1]} tokens; 8 to {MOST_TOKENS} are covered"
    if (plan.logprobs or 0) > logits.shape[-1]:
        return "more logprobs than tokens"
    return None


def truncates(plan) -> bool:
    return plan.draw and (plan.top_k > 0 or plan.nucleus or plan.min_p)


def fused(logits, parameters, position, plan, history, mask) -> list[mx.array]:
    """What `sample.sampled` draws. The history's table gets the tokens in place: whoever reads it next does so for
    logits that come from them (pages_kernel.py says when that is sound), and nothing else may hold it."""
    rows, vocab = logits.shape
    p, best = parameters, plan.logprobs or 0
    values = max(8, -(-vocab // (32 * MOST_CHUNKS)) + 7 & ~7)
    chunks = -(-vocab // (32 * values))
    words = 3 if plan.logprobs is None else 6  # of what is known of a chunk
    knobs = launch.knobs("sample", f"{vocab}", default_knobs())
    no_number, no_word = p.temperature, p.top_k  # stand for what this plan does without
    penalties = (p.repetition, p.presence, p.frequency) if plan.penalties else 3 * (no_number,)
    known = (history.table, ring_of(history, vocab), history.window) if plan.penalties else (logits, no_word, no_word)
    thresholds = (p.top_p, p.min_p) if truncates(plan) else 2 * (no_number,)
    row = [
        logits, p.temperature, *penalties, *known[:2], p.bias if plan.bias else no_number, mask if plan.mask else no_word
    ]  # fmt: skip
    template = {
        "V": vocab, "VALUES": values, "DRAW": plan.draw, "PENALTIES": plan.penalties, "BIAS": plan.bias,
        "MASK": plan.mask, "SCORES": plan.logprobs is not None,
    }  # fmt: skip
    (stats,) = CHUNKS(
        row,
        [((rows * chunks * words,), mx.float32)],
        template={**template, "SIMDS": knobs["simds"]},
        groups=(-(-chunks // knobs["simds"]), rows, 1),
        threads=32 * knobs["simds"],
    )
    (made,) = MERGE(
        [stats, *row, p.top_k, *thresholds, position, p.seed, known[2]],
        [((rows * (1 if plan.logprobs is None else 2 + 2 * best),), mx.uint32)],
        template={**template, "TRUNCATE": truncates(plan), "BEST": best, "SIMDS": knobs["merge_simds"]},
        groups=(rows, 1, 1),
        threads=32 * knobs["merge_simds"],
    )
    return [made] if plan.logprobs is None else parts_of(made, rows, best)


def parts_of(made: mx.array, rows: int, best: int) -> list[mx.array]:
    """The tokens [B], their logprobs [B], the best tokens [B, best] and their logprobs, out of one array: each costs MLX the
    allocation of its memory."""
    tokens, chosen, best_tokens, logprobs = mx.split(made, [rows, 2 * rows, (2 + best) * rows])
    shape = (rows, best)
    return [tokens, chosen.view(mx.float32), best_tokens.reshape(shape), logprobs.view(mx.float32).reshape(shape)]


def ring_of(history, vocab: int) -> mx.array:
    """[1]: W of the table. An array, because a kernel must not be compiled again for another one."""
    return constant((history.table.size // len(history.window) - 2 * vocab,), mx.int32)


def default_knobs() -> dict:
    return {"simds": 8, "merge_simds": 32 if launch.machine() == "cuda" else launch.METAL_SIMDS}
