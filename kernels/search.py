"""The search for knobs: candidates that are right, by their time, against what is in force; within a time limit."""

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from . import ahead, launch
from .cuda_driver import DriverError
from .timing import Chain, Timer, faster, net
from .tuning import Call, Knobs, Space, exact, fault

GAIN = 0.03  # a smaller one is not worth an entry
FINALISTS = 4
AHEAD = 32  # candidates that are compiled together
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
        times = f"{self.us:.2f} us a call, {self.before_us:.2f} before"
        return f"{times}; {self.tried} of {self.candidates} candidates tried"


def cases_of(spaces: Iterable[Space], recorded: dict[str, list[Call]]) -> list[Case]:
    """Which knobs the recorded calls ask for; a kernel with no candidates is no case. Where kernels of two spaces ask the
    same, the first space's calls decide.
    """
    found: dict[tuple[str, str], Case] = {}
    for space in spaces:
        for call in recorded.get(space.op, ()):
            with launch.asking() as asked:
                space.checked(call)
            for op, key, default in asked:
                case = found.setdefault((op, key), Case(space, op, key, default))
                if case.space is space and not any(call is other for other in case.calls):
                    case.calls.append(call)
    return [case for case in found.values() if case.candidates()]


@dataclass
class Screened:
    """best: (microseconds, number, the chain to run, knobs), the fastest first; wrong: (knobs, why)."""

    candidates: int
    tried: int = 0
    best: list[tuple] = field(default_factory=list)
    wrong: list[tuple[Knobs, str]] = field(default_factory=list)


def build_ahead(case: Case, candidates: Sequence[Knobs]) -> None:
    """On CUDA, compile what these will launch, on all cores; elsewhere the first launch compiles."""
    if launch.machine() != "cuda":
        return
    variants = []
    for knobs in candidates:
        with ahead.noted() as found, launch.forced(case.op, knobs):
            for call in case.calls:
                case.space.fused(call.each(lambda a: a))
        variants += found
    ahead.compile_all(variants)


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
        rotation = self.timer.rotation(case.calls, case.space)
        link = self.timer.link_us(rotation)
        before = self.timer.chained(Chain(case.space.fused), rotation)
        screened = self.screen(case, rotation, begin, seconds)
        left = lambda: self.clock() < begin + seconds  # noqa: E731
        times = self.timer.rounds_of([before, *(run for _, _, run, _ in screened.best)], left)
        self.say(case, 1.0)
        return self.choice(case, screened, [[net(t, link) for t in each] for each in times])

    def screen(self, case: Case, rotation: list[Call], begin: float, seconds: float) -> "Screened":
        """Candidates in random order, each checked, then timed once, until most of the time is up."""
        truths = [exact(case.space, call) for call in case.calls]
        candidates = case.candidates()
        self.random.shuffle(candidates)
        result = Screened(len(candidates))
        for knobs in candidates:
            if self.clock() > begin + SCREENING * seconds:
                break
            if result.tried % AHEAD == 0:
                build_ahead(case, candidates[result.tried : result.tried + AHEAD])
            result.tried += 1
            self.say(case, max(result.tried / len(candidates), (self.clock() - begin) / seconds))
            if why := self.fault(case, knobs, truths):
                result.wrong.append((knobs, why))
                continue
            try:
                run = self.timer.chained(self.forced(case, knobs), rotation)
                result.best = sorted([*result.best, (run(), result.tried, run, knobs)])[:FINALISTS]
            except DriverError as error:
                result.wrong.append((knobs, f"it cannot be timed: {error}"))
        return result

    def choice(self, case: Case, screened: "Screened", times: list[list[float]]) -> Found:
        """times: in the last rounds, of what was in force and then of the best."""
        before, *others = times
        took, counts = statistics.median(before), (screened.tried, screened.candidates, tuple(screened.wrong))
        best = min(range(len(others)), key=lambda i: statistics.median(others[i]), default=None)
        if best is None or not faster(others[best], before, GAIN):
            return Found(case.op, case.key, None, took, took, *counts)
        return Found(case.op, case.key, screened.best[best][-1], statistics.median(others[best]), took, *counts)

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
