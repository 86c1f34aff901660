"""The search for knobs: candidates that are right, by their time, against what is in force; within a time limit."""

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from . import launch
from .timing import Chain, Timer, faster, net
from .tuning import Call, Knobs, Space, exact, fault

GAIN = 0.03  # a smaller one is not worth an entry
FINALISTS = 4
SCREENING = 0.7  # of a case's time; the rest is for the finalists

Progress = Callable[[str, int, int], None]


@dataclass
class Case:
    """One question to launch.knobs, and the calls in which it is asked."""

    space: Space
    op: str
    key: str
    default: Knobs
    calls: list[Call] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.op} {self.key}"

    def candidates(self) -> list[Knobs]:
        """Those that every call can run with."""
        possible = [list(self.space.candidates(self.op, self.default, call)) for call in self.calls]
        return [knobs for knobs in possible[0] if all(knobs in others for others in possible[1:])]


@dataclass(frozen=True)
class Found:
    """us, before_us: microseconds of a call with `knobs` and with what was in force; without knobs nothing was better.

    wrong: candidates whose result was not the reference's, and how
    """

    op: str
    key: str
    knobs: Knobs | None
    us: float
    before_us: float
    tried: int
    candidates: int
    wrong: tuple[tuple[Knobs, str], ...] = ()

    @property
    def note(self) -> str:
        return f"{self.us:.2f} us a call, {self.before_us:.2f} before; {self.tried} of {self.candidates} candidates tried"


def cases_of(spaces: Iterable[Space], recorded: dict[str, list[Call]]) -> list[Case]:
    """Which knobs the recorded calls ask for; a kernel with no candidates is no case."""
    found: dict[tuple[str, str], Case] = {}
    for space in spaces:
        for call in recorded.get(space.op, ()):
            with launch.asking() as asked:
                space.checked(call)
            for op, key, default in asked:
                case = found.setdefault((op, key), Case(space, op, key, default))
                if not any(call is other for other in case.calls):
                    case.calls.append(call)
    return [case for case in found.values() if case.candidates()]


class Tuner:
    """seconds: of all cases together, each of which gets its share of what is left."""

    def __init__(self, timer: Timer, seconds: float, progress: Progress | None = None, seed: int = 1):
        self.timer, self.clock, self.progress = timer, timer.clock, progress
        self.until = self.clock() + seconds
        self.random = random.Random(seed)

    def tune(self, cases: Sequence[Case]) -> list[Found]:
        found = []
        for i, case in enumerate(cases):
            begin = self.clock()
            if begin >= self.until:
                break
            found.append(self.one(case, begin, (self.until - begin) / (len(cases) - i)))
        return found

    def one(self, case: Case, begin: float, seconds: float) -> Found:
        candidates = case.candidates()
        self.random.shuffle(candidates)
        truths = [exact(case.space, call) for call in case.calls]
        rotation = self.timer.rotation(case.calls, case.space)
        link = self.timer.link_us(rotation)
        before = self.timer.chained(Chain(case.space.fused), rotation)
        screened, wrong, tried = [], [], 0
        for knobs in candidates:
            if self.clock() > begin + SCREENING * seconds:
                break
            tried += 1
            self.say(case, max(tried / len(candidates), (self.clock() - begin) / seconds))
            why = self.fault(case, knobs, truths)
            if why:
                wrong.append((knobs, why))
            else:
                run = self.timer.chained(self.forced(case, knobs), rotation)
                screened.append((run(), tried, run, knobs))
        finals = sorted(screened)[:FINALISTS]
        left = lambda: self.clock() < begin + seconds  # noqa: E731
        times = self.timer.rounds_of([before, *(run for _, _, run, _ in finals)], left)
        times = [[net(t, link) for t in each] for each in times]
        self.say(case, 1.0)
        return self.choice(case, times, [knobs for *_, knobs in finals], tried, len(candidates), tuple(wrong))

    def choice(self, case, times, knobs, tried, count, wrong) -> Found:
        before, *others = times
        best = min(range(len(others)), key=lambda i: statistics.median(others[i]), default=None)
        took = statistics.median(before)
        if best is None or not faster(others[best], before, GAIN):
            return Found(case.op, case.key, None, took, took, tried, count, wrong)
        return Found(case.op, case.key, knobs[best], statistics.median(others[best]), took, tried, count, wrong)

    def forced(self, case: Case, knobs: Knobs) -> Chain:
        return Chain(case.space.fused, lambda: launch.forced(case.op, knobs))

    def fault(self, case: Case, knobs: Knobs, truths: list) -> str | None:
        with launch.forced(case.op, knobs):
            found = (fault(case.space, call, truth) for call, truth in zip(case.calls, truths, strict=True))
            return next((why for why in found if why), None)

    def say(self, case: Case, share: float) -> None:
        if self.progress:
            self.progress(case.name, round(100 * share) if share == 1 else min(99, round(100 * share)), 100)


def entries(found: Iterable[Found]) -> dict:
    """What a tuning table says of them."""
    ops: dict = {}
    for result in found:
        if result.knobs is not None:
            ops.setdefault(result.op, {})[result.key] = {"knobs": result.knobs, "note": result.note}
    return ops
