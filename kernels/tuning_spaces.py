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
    columns,
    embed,
    experts,
    experts_kernel,
    gated_delta,
    gated_delta_kernel,
    gated_group_norm,
    gated_group_norm_kernel,
    launch,
    linear,
    linear_kernel,
    mamba2,
    mamba2_kernel,
    norm,
    packed_attention_kernel,
    pages,
    qk_norm_rope,
    qk_norm_rope_kernel,
    router,
    router_kernel,
    sample,
    sample_kernel,
    self_attention,
    short_conv,
    short_conv_kernel,
)
from .tuning import Call, Knobs, Space

LINEAR = {
    "bytes": {"simds": (8, 10, 16, 19, 20), "slice": (2, 4), "outs": (16, 32, 48, 80), "depth": (1, 2, 3), "resident": (1, 2),
              "together": (1, 2, 4)},
    "tiles": {"simds": (4, 5, 8, 10, 16, 20), "slice": (1, 2, 4, 5, 8), "outs": (8, 16, 32), "depth": (1, 2, 3),
              "resident": (1, 2, 3)},
    "lanes": {"simds": (1, 2, 4, 8), "split": (1, 2, 4, 8), "rows": (2, 4, 8), "values": (8, 16, 32)},
}  # fmt: skip
MOST_OUTS = 80
REGISTERS = 60000  # of a core of NVIDIA's; what needs more would spill
SPANS = tuple(span for span in (1, 2, 4, 8) if span <= pages.LEAST_TABLE)  # a part must fit in every table
ATTENTION = {
    "tiles": {"span": SPANS, "simds": (2, 4, 8), "tile": (4, 8), "resident": (1, 2, 3)},
    "lanes": {"span": SPANS, "simds": (2, 4, 8, 16), "batch": (1, 2, 4), "tile": (1, 2, 4, 8)},
}
PACKED_ATTENTION = {"span": SPANS, "simds": (2, 4, 8, 16), "batch": (1, 2, 4), "tile": (1, 2, 4, 8), "chunk": (8, 16)}
EXPERTS = {
    "experts": {"simds": (1, 2, 4, 8), "rows": (2, 4, 8), "values": (8, 16, 32), "resident": (4, 6, 8)},
    "experts_down": {"simds": (2, 4, 8, 16), "split": (1, 2, 4, 8), "rows": (2, 4), "values": (8, 16, 32),
                     "resident": (2, 4, 6)},
}  # fmt: skip
WALK = {"rows": (1, 2, 4, 8, 16), "simds": (2, 4, 8, 16)}  # of a recurrent state
SIMDS = {"simds": (1, 2, 4, 8, 16)}
ADD_NORM = {"simds": (1, 2, 4, 8, 16, 32)}
SAMPLE = {"simds": (1, 2, 4, 8, 16), "merge_simds": (8, 16, 32)}


def combinations(choices: dict[str, tuple]) -> Iterator[Knobs]:
    """On Metal only threadgroups for any number of registers: what is tuned with few rows must also run with many."""
    most = launch.METAL_SIMDS if launch.machine() == "metal" else 32
    for values in itertools.product(*choices.values()):
        knobs = dict(zip(choices, values, strict=True))
        if max(knobs.get("simds", 1), knobs.get("merge_simds", 1)) <= most:
            yield knobs


def of_default(choices: dict[str, tuple]):
    """Candidates of an op that asks for the knobs that its default names; those without choices stay as they are."""

    def candidates(op: str, default: Knobs, call: Call) -> Iterator[Knobs]:
        for knobs in combinations({name: choices[name] for name in default if name in choices}):
            yield default | knobs

    return candidates


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
    """For knobs with `outs`: also what gives each core, or those that share k, the same number of outputs, in so many rounds."""
    if "outs" not in choices:
        return {}
    if "together" in choices:
        shares = {-(-outputs // (launch.cores() // together)) for together in choices["together"]}
        shares = {-(-share // 16) * 16 for share in shares}
    else:
        shares = {-(-outputs // (launch.cores() * rounds)) for rounds in choices["resident"]}
        shares = {share for share in shares if share <= MOST_OUTS}
    return {"outs": tuple(sorted({*choices["outs"], *shares}))}


def worth(knobs: Knobs, outputs: int, bits: int, group: int, width: int) -> bool:
    """No split of k but by a whole threadgroup; threadgroups for all cores, simdgroups with work, registers for those
    that share a core. Only CUDA is told how many shall.
    """
    if knobs["kernel"] == "lanes":
        return knobs["split"] in (1, knobs["simds"])
    together = knobs.get("together", 1)
    units, slots = width // linear_kernel.unit_of(bits, group), together * knobs["simds"] * knobs["slice"]
    told = launch.machine() == "cuda" or knobs["resident"] == 1
    shared = together * outputs / knobs["outs"] >= (0.5 if knobs["kernel"] == "bytes" else 1) * launch.cores()
    return (
        told
        and (knobs["outs"] == min(LINEAR[knobs["kernel"]]["outs"]) or shared)
        and units / (-(-units // slots) * slots) > 0.9
        and 32 * knobs["simds"] * knobs["resident"] * linear_kernel.registers(knobs) < REGISTERS
    )


def linear_reference(x, weight, norm, residual, glu, act):
    return linear.reference(x, weight, norm=norm, residual=residual, glu=glu, act=act)


def embedded(call: Call) -> int:
    """Bytes of the rows that are looked up."""
    tokens, weight, _ = call.args
    return sum(array.nbytes for array in weight.arrays) * tokens.size // weight.rows


def attention_candidates(op: str, default: Knobs, call: Call) -> Iterator[Knobs]:
    (home,) = (part for part in call.args if isinstance(part, pages.Pages))
    for walk, choices in ATTENTION.items():
        if not attention_kernel.refuses_walk(walk, home.head_dim, home.dtype):
            for knobs in combinations(joined(choices)):
                yield attention_kernel.DEFAULT[walk] | knobs


def packed_attention_candidates(op: str, default: Knobs, call: Call) -> Iterator[Knobs]:
    return of_default(joined(PACKED_ATTENTION))(op, default, call)


def joined(choices: dict[str, tuple]) -> dict[str, tuple]:
    """Also every way to join parts that there is on this chip."""
    return {**choices, "join": attention_kernel.joins()}


def attention_title(call: Call) -> str:
    q, home, addresses = call.args
    case = attention_kernel.case(q, home.kv_heads, home.window)
    return f"{titled(case, q.shape[0])} of {int(mx.max(addresses.bounds[:, 1])) + q.shape[2]}"


def attention_reference(q, home, addresses, *, scale, cap):
    return attention.paged_reference(q, *home.held, addresses, scale=scale, window=home.window, cap=cap)


def packed_attention_title(call: Call) -> str:
    q, home, _ = call.args
    return f"{attention_title(call)} {home.coding.title}"


def packed_attention_reference(q, home, addresses, *, scale, cap):
    return attention.unpacked_reference(q, home, pages.Rows((), 0, addressed=addresses), scale=scale, cap=cap)


def attended(call: Call) -> int:
    """Bytes of the keys and values that the rows see."""
    q, home, addresses = call.args
    begin, end = addresses.bounds[:, 0], addresses.bounds[:, 1] + q.shape[2]
    return int(mx.sum(end - begin)) * home.slot_bytes


def home_of(call: Call) -> tuple[pages.Pages | None, pages.Rows | None]:
    """Pages that the call writes to, and where."""
    return tuple(next((part for part in call.args if isinstance(part, kind)), None) for kind in (pages.Pages, pages.Rows))


def qk_norm_rope_title(call: Call) -> str:
    qkv, _, rope, *_ = call.args
    heads = {name: call.kwargs[name] for name in ("heads", "kv_heads", "head_dim")}
    return titled(qk_norm_rope_kernel.case(qkv, rope, **heads), qkv.shape[0] * qkv.shape[1])


def qk_norm_rope_reference(qkv, position, rope, home, where, **more):
    return qk_norm_rope.reference(qkv, position, rope, **more)


def emptied(call: Call) -> Call:
    """With pools of its own, in which the new tokens are not written yet."""
    call = call.each(lambda a: a)
    home, where = home_of(call)
    if home is not None:
        slots = where.addresses(call.first.shape[1], home.keys.shape[1]).slots
        home.hold([mx.put_along_axis(pool, slots[None, :, None], mx.array(0, pool.dtype), axis=1) for pool in home.held])
        mx.eval(home.held)
    return call


def written(result: mx.array, call: Call) -> list[mx.array]:
    """The result, and from the pages the keys and values [B, kv_heads, T, head_dim]."""
    qkv, (home, where) = call.first, home_of(call)
    if home is None:
        return [result]
    mx.eval(result)
    slots = where.addresses(qkv.shape[1], home.keys.shape[1]).slots
    shape = (home.kv_heads, *qkv.shape[:2], home.head_dim)
    return [result, *(pool[:, slots].reshape(shape).swapaxes(0, 1) for pool in home.held)]


def self_attention_reference(qkv, rope, home, where, heads, scale, cap, norms):
    shape = {"heads": heads, "kv_heads": home.kv_heads, "head_dim": home.head_dim}
    named = dict(zip(("q_norm", "k_norm", "v_norm"), norms, strict=True))
    q, k, v = qk_norm_rope.reference(qkv, where.position(qkv.shape[1]), rope, **shape, **named)
    addresses = where.addresses(qkv.shape[1], home.keys.shape[1])
    pools = (pages.put(pool, new, addresses.slots) for pool, new in zip(home.held, (k, v), strict=True))
    return attention.paged_reference(q, *pools, addresses, scale=scale, window=home.window, cap=cap), k, v


def self_attention_title(call: Call) -> str:
    qkv, rope, home, where, heads, *_ = call.args
    end = max(span.end for span in where.spans)
    return f"{titled(self_attention.case(qkv, rope, heads, home), qkv.shape[0])} of {end}"


def self_attention_reads(call: Call) -> int:
    home, where = home_of(call)
    return sum(span.end - span.first for span in where.spans) * home.slot_bytes


def router_title(call: Call) -> str:
    logits, routing, *_ = call.args
    return titled(router_kernel.case(logits, routing), logits.size // logits.shape[-1])


def router_settled(arrays: list[mx.array], call: Call) -> list[mx.array]:
    """By weight, the weights and the logits that they are of: experts of equal logits are as good as each other."""
    indices, weights = arrays
    logits = mx.take_along_axis(call.args[0].astype(mx.float32), indices, axis=-1)
    order = mx.argsort(weights, axis=-1)
    return [mx.take_along_axis(x, order, axis=-1) for x in (weights, logits)]


def experts_title(call: Call) -> str:
    x, routed, up, down = call.args
    case = experts_kernel.case(x, routed, up, down, call.kwargs["glu"], call.kwargs["act"])
    return titled(case, x.size // x.shape[-1])


def experts_reads(call: Call) -> int:
    """Bytes of the experts that are asked for, each once."""
    _, (indices, _), up, down = call.args
    asked = len(set(indices.flatten().tolist()))
    return sum(array.nbytes for array in (*up.arrays, *down.arrays)) * asked // len(up.weight)


def experts_turned(call: Call, i: int) -> Call:
    """With the next experts, as many as each token has; joined, so that no timed call has to do it."""
    x, (indices, weights), up, down = call.args
    moved = (indices + mx.array(i * indices.shape[-1], indices.dtype)) % len(up.weight)
    return Call((x, router.Routed((moved.astype(indices.dtype), weights)).joined(), up, down), call.kwargs)


def experts_candidates(op: str, default: Knobs, call: Call) -> Iterator[Knobs]:
    *_, up, down = call.args
    weight = up if op == "experts" else down
    bits = weight.bits if weight.packed else 8 * weight.weight.dtype.size
    width = experts_kernel.inner(weight)
    for knobs in combinations(EXPERTS[op]):
        if not experts_kernel.impossible(knobs, bits, width):
            yield knobs


def conv_reference(x, tail, weight, bias, activation, keep, gated):
    if gated:
        return short_conv.gated_reference(columns.array(x), tail, weight, bias, keep)
    return short_conv.reference(columns.array(x), tail, weight, bias, activation, keep)


def delta_reference(qkv, a, b, state, rate, dt_bias, keep, gate, norm):
    return gated_delta.reference(qkv, a, b, state, rate=rate, dt_bias=dt_bias, keep=keep, gate=gate, norm=norm)


def mamba2_reference(xbc, dt, state, a, d, dt_bias, limit, keep):
    return mamba2.reference(xbc, dt, state, a=a, d=d, dt_bias=dt_bias, limit=limit, keep=keep)


def group_norm_reference(y, gate, norm, groups):
    return gated_group_norm.reference(y, columns.array(gate), norm, groups)


def state_reads(call: Call) -> int:
    """Bytes of the recurrent state, which is read and written."""
    return 2 * max(array.nbytes for array in call.arrays if array.dtype == mx.float32)


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
    Space("embed", embed, embed.reference, title=embed_title, reads=embedded),
    Space(
        "linear", linear_kernel, linear_reference, candidates=linear_candidates, title=linear_title, reads=linear_reads
    ),
    Space(
        "self_attention", self_attention, self_attention_reference, candidates=attention_candidates, needs=("pages",),
        fresh=emptied, outcome=written, title=self_attention_title, reads=self_attention_reads,
    ),
    Space(
        "attention", attention_kernel, attention_reference, candidates=attention_candidates, title=attention_title,
        reads=attended,
    ),
    Space(
        "packed_attention", packed_attention_kernel, packed_attention_reference, candidates=packed_attention_candidates,
        title=packed_attention_title, reads=attended,
    ),
    Space(
        "qk_norm_rope", qk_norm_rope_kernel, qk_norm_rope_reference, candidates=of_default(SIMDS), needs=("pages",),
        fresh=emptied, outcome=written, title=qk_norm_rope_title, reads=lambda call: call.first.nbytes,
    ),
    Space(
        "router", router_kernel, router.reference, outcome=lambda words, call: [*router.Routed((words,))],
        settled=router_settled, title=router_title, reads=lambda call: call.first.nbytes,
    ),
    Space(
        "experts", experts_kernel, experts.reference, candidates=experts_candidates, title=experts_title,
        reads=experts_reads, turned=experts_turned,
    ),
    Space("short_conv", short_conv_kernel, conv_reference, candidates=of_default(SIMDS)),
    Space("gated_delta", gated_delta_kernel, delta_reference, candidates=of_default(WALK), reads=state_reads),
    Space("mamba2", mamba2_kernel, mamba2_reference, candidates=of_default(WALK), reads=state_reads),
    Space("gated_group_norm", gated_group_norm_kernel, group_norm_reference, candidates=of_default(SIMDS)),
    Space("add_norm", add_norm_kernel, norm.reference, candidates=of_default(ADD_NORM), title=add_norm_title),
    Space("sample", sample_kernel, sample_reference, candidates=of_default(SAMPLE), title=sample_title),
)  # fmt: skip
