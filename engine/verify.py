"""Every kernel that a model runs, on this chip: is it right, and is it faster than the plain ops that it stands for?

Both are timed through MLX, on CUDA too, where it can take longer than a kernel: plain ops have no other way.
"""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..kernels import launch
from ..kernels.search import GAIN, Progress
from ..kernels.timing import Chain, Timer, faster, net
from ..kernels.tuning import Call, Space, exact, fault
from ..kernels.tuning_spaces import SPACES
from .tune import recorded

GOOD, SLOWER, WRONG = "good", "slower", "wrong"


@dataclass(frozen=True)
class Verdict:
    """Of one call: microseconds of the kernel and of the plain ops, 0 where it is wrong and was not timed."""

    op: str
    case: str
    kernel_us: float
    reference_us: float
    verdict: str
    why: str = ""

    @property
    def ratio(self) -> float:
        """How many times as long the plain ops take."""
        return self.reference_us / self.kernel_us if self.kernel_us else 0.0


def verify(model, timer: Timer | None = None, progress: Progress | None = None) -> list[Verdict]:
    """Of every call in decode steps. Kernels that are switched off, in the chip's table or in this process, are looked at
    again.
    """
    timer = timer or Timer()
    launch.use_table(None)
    launch.turn_on_again()
    verdicts: list[Verdict] = []
    for i, space in enumerate(SPACES):
        if progress:
            progress("kernels", i, len(SPACES))
        verdicts += of_op(model, space, timer)
    if progress:
        progress("kernels", len(SPACES), len(SPACES))
    return verdicts


def of_op(model, space: Space, timer: Timer) -> Iterator[Verdict]:
    if launch.unavailable(space.op):
        return
    try:
        calls = recorded(model, (space.op,)).get(space.op, [])
    except Exception as error:
        model.forget()
        yield Verdict(space.op, "in a decode step", 0.0, 0.0, WRONG, f"it raised {type(error).__name__}: {error}")
        return
    for call in calls:
        yield of_call(space, call, timer)


def of_call(space: Space, call: Call, timer: Timer) -> Verdict:
    why = fault(space, call, exact(space, call))
    if why:
        return Verdict(space.op, space.title(call), 0.0, 0.0, WRONG, why)
    rotation = timer.rotation([call], space)
    link = timer.link_us(rotation)
    runs = [timer.chained(Chain(way), rotation) for way in (space.fused, space.plain)]
    kernel, plain = ([net(t, link) for t in times] for times in timer.rounds_of(runs))
    verdict = SLOWER if faster(plain, kernel, GAIN) else GOOD
    return Verdict(space.op, space.title(call), statistics.median(kernel), statistics.median(plain), verdict)


def switched_off(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """op -> why, of kernels that are wrong in any call, or slower than plain ops over all their calls together."""
    off: dict[str, str] = {}
    by_op: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_op.setdefault(verdict.op, []).append(verdict)
    for op, found in by_op.items():
        wrong = next((v for v in found if v.verdict == WRONG), None)
        ours, plain = sum(v.kernel_us for v in found), sum(v.reference_us for v in found)
        if wrong:
            off[op] = f"wrong on this chip, {wrong.case}: {wrong.why}"
        elif plain < (1 - GAIN) * ours:
            off[op] = f"slower on this chip than plain ops: {ours:.1f} us, {plain:.1f} by these"
    return off
