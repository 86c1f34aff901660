"""The ops whose kernels `smelt tune` tunes and `smelt doctor` verifies. A new op adds its Space to SPACES.

Knobs are template values: names and meanings are those of <op>_kernel.py, and a candidate is what that file finds
possible. A name that it no longer asks for is no candidate.
"""

import itertools
from collections.abc import Iterator

import mlx.core as mx

from . import (
    add_norm_kernel,
    attention,
    attention_kernel,
    embed,
    launch,
    linear,
    linear_kernel,
    norm,
    qk_norm_rope,
    qk_norm_rope_kernel,
    sample,
    sample_kernel,
)
from .tuning import Call, Knobs, Space

LINEAR = {
    "tiles": {"simds": (4, 5, 8, 10, 16, 20), "slice": (1, 2, 4, 5, 8), "outs": (8, 16, 32), "depth": (1, 2, 3, 4),
              "resident": (1, 2, 3)},
    "lanes": {"simds": (1, 2, 4, 8), "split": (1, 2, 4, 8), "rows": (2, 4, 8), "values": (8, 16, 32)},
}  # fmt: skip
MOST_OUTS = 40
REGISTERS = 60000  # of a core of NVIDIA's; what needs more would spill
ATTENTION = {"span": (1, 2), "simds": (2, 4, 8, 16), "batch": (1, 2, 4), "tile": (1, 2, 4, 8)}
QK_NORM_ROPE = {"simds": (1, 2, 4, 8, 16)}
ADD_NORM = {"simds": (1, 2, 4, 8, 16, 32)}
SAMPLE = {"simds": (1, 2, 4, 8, 16), "merge_simds": (8, 16, 32)}


def combinations(choices: dict[str, tuple]) -> Iterator[Knobs]:
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def of_default(choices: dict[str, tuple]):
    """Candidates of an op that asks for exactly the knobs that its default names."""
    return lambda op, default, call: combinations({name: choices[name] for name in default if name in choices})


def rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def titled(case: tuple, count: int) -> str:
    return f"{' '.join(case)}, {rows(count)}"


def embed_title(call: Call) -> str:
    tokens, weight, _ = call.args
    return f"{weight.bits}-bit {weight.rows}, {rows(tokens.size)}"


def linear_title(call: Call) -> str:
    x, weight, _, _, glu, act = call.args
    return titled(linear_kernel.case(x, weight, glu, act), x.size // x.shape[-1])


def linear_reads(call: Call) -> int:
    return sum(array.nbytes for array in call.args[1].arrays)


def linear_candidates(op: str, default: Knobs, call: Call) -> Iterator[Knobs]:
    x, weight, _, _, glu, _ = call.args
    bits = weight.bits if weight.packed else 8 * x.dtype.size
    group = weight.group_size if weight.packed else x.shape[-1]
    shape = bits, group, x.shape[-1], glu is not None, x.dtype
    outputs = weight.rows // 2 if glu else weight.rows
    for kernel, choices in LINEAR.items():
        for knobs in combinations(choices | fair_shares(choices, outputs)):
            knobs = {"kernel": kernel, **knobs}
            if not linear_kernel.impossible(knobs, *shape) and worth(knobs, outputs, bits, group, x.shape[-1]):
                yield knobs


def fair_shares(choices: dict[str, tuple], outputs: int) -> dict[str, tuple]:
    """For knobs with `outs`: also what gives each core the same number of outputs, in so many rounds."""
    if "outs" not in choices:
        return {}
    shares = {-(-outputs // (launch.cores() * rounds)) for rounds in choices["resident"]}
    return {"outs": tuple(sorted({*choices["outs"], *(share for share in shares if share <= MOST_OUTS)}))}


def worth(knobs: Knobs, outputs: int, bits: int, group: int, width: int) -> bool:
    """No split of k but by a whole threadgroup; threadgroups for all cores, simdgroups with work, registers for those
    that share a core. Only CUDA is told how many shall.
    """
    if knobs["kernel"] == "lanes":
        return knobs["split"] in (1, knobs["simds"])
    units, slots = width // linear_kernel.unit_of(bits, group), knobs["simds"] * knobs["slice"]
    registers = linear_kernel.registers(knobs)
    told = launch.machine() == "cuda" or knobs["resident"] == 1
    return (
        told
        and (knobs["outs"] == min(LINEAR["tiles"]["outs"]) or outputs / knobs["outs"] >= launch.cores())
        and units / (-(-units // slots) * slots) > 0.9
        and 32 * knobs["simds"] * knobs["resident"] * registers < REGISTERS
    )


def linear_reference(x, weight, norm, residual, glu, act):
    return linear.reference(x, weight, norm=norm, residual=residual, glu=glu, act=act)


def embedded(call: Call) -> int:
    """Bytes of the rows that are looked up."""
    tokens, weight, _ = call.args
    return sum(array.nbytes for array in weight.arrays) * tokens.size // weight.rows


def attention_title(call: Call) -> str:
    q, pages, addresses = call.args
    case = attention_kernel.case(q, pages.kv_heads, pages.window)
    return f"{titled(case, q.shape[0])} of {int(mx.max(addresses.bounds[:, 1])) + q.shape[2]}"


def attention_reference(q, pages, addresses, *, scale, cap):
    return attention.paged_reference(q, *pages.held, addresses, scale=scale, window=pages.window, cap=cap)


def attended(call: Call) -> int:
    """Bytes of the keys and values that the rows see."""
    q, pages, addresses = call.args
    begin, end = addresses.bounds[:, 0], addresses.bounds[:, 1] + q.shape[2]
    return int(mx.sum(end - begin)) * pages.slot_bytes


def qk_norm_rope_title(call: Call) -> str:
    qkv, _, rope, *_ = call.args
    heads = {name: call.kwargs[name] for name in ("heads", "kv_heads", "head_dim")}
    return titled(qk_norm_rope_kernel.case(qkv, rope, **heads), qkv.shape[0] * qkv.shape[1])


def qk_norm_rope_reference(qkv, position, rope, pages, rows, **more):
    return qk_norm_rope.reference(qkv, position, rope, **more)


def emptied(call: Call) -> Call:
    """With pools of its own, in which nothing is written."""
    call = call.each(lambda a: a)
    if (pages := call.args[3]) is not None:
        pages.hold([pool * 0 for pool in pages.held])
        mx.eval(pages.held)
    return call


def written(q: mx.array, call: Call) -> list[mx.array]:
    """The queries, and from the pages the keys and values [B, kv_heads, T, head_dim]."""
    qkv, _, _, pages, rows = call.args
    if pages is None:
        return [q]
    mx.eval(q)
    slots = rows.addresses(qkv.shape[1], pages.keys.shape[1]).slots
    shape = (pages.kv_heads, *qkv.shape[:2], pages.head_dim)
    return [q, *(pool[:, slots].reshape(shape).swapaxes(0, 1) for pool in pages.held)]


def add_norm_title(call: Call) -> str:
    x, _, _, scale = call.args
    return titled(add_norm_kernel.case(x, scale), x.size // x.shape[-1])


def sample_title(call: Call) -> str:
    logits, _, _, plan, *_ = call.args
    return titled(sample_kernel.case(logits, plan), logits.shape[0])


def sample_reference(*args) -> list[mx.array]:
    drawn, _ = sample.reference(*args)
    return drawn


SPACES = (
    Space("embed", embed, embed.reference, embed_title, reads=embedded),
    Space("linear", linear_kernel, linear_reference, linear_title, linear_candidates, reads=linear_reads),
    Space(
        "attention", attention_kernel, attention_reference, attention_title, of_default(ATTENTION), reads=attended
    ),
    Space(
        "qk_norm_rope", qk_norm_rope_kernel, qk_norm_rope_reference, qk_norm_rope_title, of_default(QK_NORM_ROPE),
        needs=("pages",), fresh=emptied, outcome=written, reads=lambda call: call.args[0].nbytes,
    ),
    Space("add_norm", add_norm_kernel, norm.reference, add_norm_title, of_default(ADD_NORM)),
    Space("sample", sample_kernel, sample_reference, sample_title, of_default(SAMPLE)),
)  # fmt: skip
