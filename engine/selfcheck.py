"""Before a GPU serves a model, its kernels are compared with their references, and its traced step with the built one.

A kernel that raises or is wrong on this chip is switched off by name for this process, with a warning; `smelt doctor`
and the report show it. Whole layers are compared, on the model's own weights and shapes; the sampler's draws, on random
logits as wide as its vocabulary. Where heads are packed, only the kernels of packed heads are compared so: with 2 bits a head, a
rounding anywhere gives other codes in all layers behind it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx

from ..kernels import ahead, launch, linear_kernel
from .lookup import Lookup
from .request import Sampling
from .sampler import Sampler
from .scheduler import Limits, Scheduler
from .sequence import Sequence, Token
from .speculation import Speculation
from .step import TracedStep

log = logging.getLogger(__name__)

# Each may need those before it to be there.
OPS = (
    "embed", "linear", "attention", "pages", "qk_norm_rope", "self_attention",
    "router", "experts", "short_conv", "gated_delta", "mamba2",
    "gated_group_norm", "add_norm", "sample", "packed_qk_norm_rope", "packed_attention",
)  # fmt: skip
OF_PACKED = ("pages", "packed_qk_norm_rope", "packed_attention")
NEEDED = {op: ("pages",) for op in ("qk_norm_rope", "self_attention", "packed_qk_norm_rope", "packed_attention")}  # they write to them
PROMPT = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)
STEPS = (8, 1, 12)  # tokens: for most kernels the most that they take, and one; for those that walk along prompts, more
VERIFIED = 6  # tokens of a row in a step that verifies drafts, by default
DRAWS = (
    {"temperature": 0.0, "top_logprobs": 3},
    {"temperature": 0.0, "presence_penalty": 1.0, "repetition_penalty": 1.5, "logit_bias": {2: 3.0}},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.05},
)
GREEDY = ({"temperature": 0.0},)
# Of the largest logit. Layers of 16-bit rounding add up to a few hundredths; a wrong index or a race is of order one.
TOLERANCE = {mx.float32: 1e-3, mx.float16: 0.05, mx.bfloat16: 0.2}
# More where heads are packed: a number near the middle between two codes may get the other one, in every layer.
PACKED = {mx.float32: 0.051, mx.float16: 0.25, mx.bfloat16: 0.6}


def check(model, between: Callable[[], None] = lambda: None) -> None:
    """Switch off what does not work here. Nothing to do where no kernel can run. `between` is called for a pause."""
    if all(launch.unavailable(op) for op in OPS):
        return
    with launch.only() as used:
        plain = logits(model)
    used.add("sample")  # every model is drawn from
    if packed(model):
        check_ops(model, [op for op in OF_PACKED if op in used], plain, PACKED[model.dtype], between)
        used -= {*OF_PACKED, "self_attention"}  # which takes no packed heads: it was asked, and will not run
        with unpacked(model), launch.only():
            plain = logits(model)
    with unpacked(model):
        check_ops(model, [op for op in OPS if op in used], plain, TOLERANCE[model.dtype], between)
    check_trace(model)
    model.forget()


def packed(model) -> bool:
    return any(pages.coding is not None for pages in model.pages())


@contextmanager
def unpacked(model) -> Iterator[None]:
    """Inside, no heads are packed."""
    before = [(pages, pages.coding) for pages in model.pages() if pages.coding is not None]
    for pages, _ in before:
        pages.pack(None)
    try:
        yield
    finally:
        for pages, coding in before:
            pages.pack(coding)


def check_ops(model, ops: list[str], plain: mx.array, allowed: float, between: Callable[[], None]) -> None:
    for op in ops:
        between()
        if launch.unavailable(op) is None and (why := fault(model, op, plain, allowed)):
            log.warning("the kernel of %s is switched off: %s", op, why)
            launch.turn_off(op, why)


def prepare(model) -> None:
    """What pays off before the first launch, checked or not."""
    if launch.machine() == "cuda":
        compile_ahead(model)
        model.forget()


def compile_ahead(model) -> None:
    """All kernels that the check and one stream launch, now; those of more streams, while these are served."""
    with ahead.noted() as variants:
        planned(model)
        for fields in (DRAWS, GREEDY):
            drawing(model, fields)
    ahead.compile_all(variants)
    with ahead.noted() as variants:
        for rows in range(2, linear_kernel.MAX_ROWS + 1):
            planned(model, (1, 1), rows)
            drawing(model, GREEDY * rows)
        for rows in range(1, linear_kernel.MAX_ROWS // 2 + 1):  # what verifies drafts
            planned(model, (1, min(VERIFIED, linear_kernel.MAX_ROWS // rows)), rows, keep=True)
    ahead.compile_behind(variants)


def logits(model) -> mx.array:
    """[3, V] float32: of a short prompt's last token, of one token after it, and of some more after these."""
    found = planned(model)
    mx.eval(found)
    return found


def planned(model, steps: tuple[int, ...] = STEPS, rows: int = 1, keep: bool = False) -> mx.array:
    """The same, of equal rows, to be computed."""
    model.forget()
    memory = model.memory()
    opened, found = [memory.open() for _ in range(rows)], []
    for count in steps:
        hidden = model(mx.array([PROMPT[:count]] * rows), memory.step(opened, count, keep), last=True)
        found.append(model.logits(hidden[:, -1]).astype(mx.float32))
    return mx.concatenate(found)


def fault(model, op: str, plain: mx.array, allowed: float) -> str | None:
    """allowed: how far from `plain`, of the largest logit."""
    try:
        if op == "sample":
            return fault_of_draws(model)
        with launch.only(op, *NEEDED.get(op, ())):
            ours = logits(model)
    except Exception as error:
        return f"it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    away = float(mx.max(mx.abs(ours - plain)) / mx.max(mx.abs(plain)))
    return None if away <= allowed else f"its result is {away:.2g} of the largest logit away, {allowed} is allowed"


def fault_of_draws(model) -> str | None:
    """Rows that together ask for everything, then the plain greedy one."""
    for fields in (DRAWS, GREEDY):
        with launch.only():
            plain = draws(model, fields)
        with launch.only("sample"):
            ours = draws(model, fields)
        if plain[0].tolist() != ours[0].tolist():
            return f"it draws the tokens {ours[0].tolist()}, {plain[0].tolist()} are right"
        if not all(mx.all(mx.abs(a - b) <= 0.01) for a, b in zip(plain[1::2], ours[1::2], strict=True)):
            return "its logprobs are more than 0.01 away"
    return None


def draws(model, fields: tuple[dict, ...]) -> list[mx.array]:
    """Tokens, and logprobs where a row has them, of logits that are the same every time."""
    found = drawing(model, fields)
    mx.eval(found)
    return found


def drawing(model, fields: tuple[dict, ...]) -> list[mx.array]:
    """The same, to be computed."""
    rows = [Sequence(list(PROMPT), Sampling(**f), i, 1, frozenset(), lambda item: None) for i, f in enumerate(fields)]
    given = 4 * mx.random.normal((len(rows), model.vocab), key=mx.random.key(1))
    return Sampler(rows, model.vocab)(given.astype(model.dtype)[:, None])


def check_trace(model) -> None:
    """The traced step must draw the tokens that the built one draws, and with drafts those that the built one does."""
    if not TracedStep(model, model.memory()).worthwhile:
        return
    try:
        built = drawn(model, traced=False)
        same = all(drawn(model, True, drafts) == drawn(model, False, drafts) for drafts in ((), built))
        why = None if same else "it draws other tokens"
    except Exception as error:
        why = f"it raised {type(error).__name__}: {error}"
    if why:
        log.warning("steps are not traced: %s", why)
        TracedStep.off = why


def drawn(model, traced: bool, drafts: tuple[int, ...] | list[int] = (), count: int = 4) -> list[int]:
    """Greedy tokens; `drafts` are what is guessed of them."""
    model.forget()
    scheduler, tokens = Scheduler(model, Limits(rows=1)), []
    scheduler.traced.asked = traced
    put = lambda item: isinstance(item, Token) and tokens.append(item.id)  # noqa: E731
    one = Sequence(list(PROMPT), Sampling(temperature=0.0), 0, count, frozenset(), put)
    one.speculation = Speculation(Lookup(PROMPT, 1, drafts), VERIFIED - 1)
    scheduler.add(one)
    while not scheduler.idle:
        scheduler.tick()
    return tokens
