"""What one call of a kernel costs inside a decode step: a chain of many, each waiting for the one before.

A chain goes round copies of the call's weights that together are larger than any cache, in one evaluation. Between two
calls stands one tiny op that makes the next input depend on the last result; what a chain of these ops alone costs is
taken off. Chains that are compared take turns. On CUDA the tuner times launches without MLX between them: device_timing.py.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import mlx.core as mx

from . import launch, workspace
from .tuning import LARGE, Call, Space

ROTATED = 256 << 20  # bytes; the last-level caches of Apple's chips have up to 96 MB, an H200's 50
CALLS = 64  # in a chain, or fewer where these would read more than CHAIN bytes
CHAIN, LEAST_CALLS = 2 << 30, 8
ROUNDS = 7


@dataclass
class Chain:
    """`run` makes arrays of a call, inside `within`: knobs that are forced, say."""

    run: Callable[[Call], list[mx.array]]
    within: Callable[[], AbstractContextManager] = nullcontext


def link(call: Call) -> list[mx.array]:
    """Stands for a kernel in a chain that has none."""
    return [call.first]


class Timer:
    """rotated: bytes to go round; calls, rounds: see above; clock: seconds, as time.perf_counter gives them."""

    least = 1  # rounds of a rotation

    def __init__(self, rotated: int = ROTATED, calls: int = CALLS, rounds: int = ROUNDS, clock=time.perf_counter):
        self.rotated, self.calls, self.rounds, self.clock = rotated, calls, rounds, clock

    def rotation(self, calls: Sequence[Call], space: Space | None = None) -> list[Call]:
        """The calls in turn, each time with other large arrays, or with other parts of them."""
        reads, turned = (space.reads, space.turned) if space else (lambda call: call.bytes, None)
        rounds = max(self.least, min(self.calls, -(-self.rotated // max(1, sum(map(reads, calls))))))
        made = [turned(call, i) if turned else self.copied(call, i) for i in range(rounds) for call in calls]
        mx.eval([call.arrays for call in made])
        return made

    def copied(self, call: Call, i: int) -> Call:
        """With large arrays of its own, but for the first one."""
        return call.each(lambda a: a if i == 0 or a.nbytes < LARGE else a + mx.zeros((), a.dtype))

    def chained(self, chain: Chain, rotation: Sequence[Call]) -> Callable[[], float]:
        """A function that runs the chain once and says the microseconds of a call; built and warm."""
        count = self.length(rotation)

        def through(carry):
            space = workspace.Workspace(carry)
            for i in range(count):
                call = rotation[i % len(rotation)].each(lambda a: a)  # it may leave arrays of a trace in its objects
                nothing = carry * 0
                with workspace.within(space):
                    first, *rest = chain.run(call.linked(lambda x, add=nothing: x + add.astype(x.dtype)))
                carry = mx.depends([first.reshape(-1)[:1]], rest)[0] if rest else first.reshape(-1)[:1]
            return carry

        # A kernel's call costs Python microseconds, a traced one none. A stand-in computes at once: it has no trace.
        function = through if launch.machine() == "cpu" else mx.compile(through)
        start = mx.zeros((1,))

        def once() -> float:
            with chain.within():
                begin = self.clock()
                mx.eval(function(start))
                return (self.clock() - begin) * 1e6 / count

        once()
        return once

    def length(self, rotation: Sequence[Call]) -> int:
        """Calls of a chain: whole rounds of the rotation, so that every call has the same share."""
        each = max(1, sum(call.bytes for call in rotation) // len(rotation))
        wanted = min(self.calls, max(LEAST_CALLS, CHAIN // each))
        return -(-wanted // len(rotation)) * len(rotation)

    def link_us(self, rotation: Sequence[Call]) -> float:
        once = self.chained(Chain(link), rotation)
        return min(once() for _ in range(self.rounds))

    def rounds_of(
        self, runs: Sequence[Callable[[], float]], left: Callable[[], bool] = lambda: True
    ) -> list[list[float]]:
        """For each run its times, in interleaved rounds, as long as there is time `left`; three rounds at least."""
        times: list[list[float]] = [[] for _ in runs]
        for done in range(self.rounds):
            if done >= 3 and not left():
                break
            for run, found in zip(runs, times, strict=True):
                found.append(run())
        return times


def net(us: float, link_us: float) -> float:
    """What is left of a call's time without the link; never nothing, however noisy the two are."""
    return max(us - link_us, us / 20)


def faster(times: Sequence[float], than: Sequence[float], share: float) -> bool:
    """By more than `share` in the median, and beyond both spreads: three quarters of one beat three of the other."""
    if statistics.median(times) >= statistics.median(than) * (1 - share):
        return False
    return quarter(times, 3) < quarter(than, 1)


def quarter(times: Sequence[float], which: int) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[which - 1]
