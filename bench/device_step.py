"""What the device needs for a decode step, however long the host takes to submit it.

Where the host is slower than the device, a step by the clock is the host's. So the device is first given a blocker, a
few operations that keep it busy for longer than it takes to submit several steps; these queue up behind it, each from
the draw of the one before, none of which is read. The moment at which the blocker ends cannot be seen; so there are two
queues, of one step and of several, each behind a blocker, and

    seconds of a step = (seconds of the queue of n steps - of the queue of one) / (n - 1)

This holds where the last step was submitted before the blocker can have ended, which the host's clock tells: else the
two are measured again behind a blocker twice as long. MLX waits inside async_eval while more than ten graphs (CUDA) or
command buffers (Metal) are under way that were ended because they were full: see MLX_MAX_OPS_PER_BUFFER and
MLX_MAX_MB_PER_BUFFER. No blocker is long enough then, and fewer steps queue up; where not even two can, nothing is
known. On a CPU host and device are the same cores, and what is found there means nothing.

kernels/device_timing.py, which replays launches without MLX, needs CUDA, and memory of its own for all that they read,
and leaves plain operations between them out: it is for calls, not for a model's step.
"""

import statistics
import time
from collections.abc import Callable
from typing import Protocol

import mlx.core as mx

STEPS = (4, 3, 2)  # of the longer queue: the first that MLX does not hold back
PAIRS = 5  # of queues, whose median counts
ATTEMPTS = 3  # pairs that may be in vain, each before a longer blocker
LONGER = 3.0  # the blocker, than it takes to submit the longer queue
SURE = 0.8  # of its time alone, within which a blocker has not ended


class Device(Protocol):
    """What `DeviceStep` measures."""

    def resize(self, length: int) -> None:
        """The blocker is as long from now on; one twice as long takes about twice the time."""

    def block(self) -> None:
        """Submit the blocker."""

    def step(self) -> None:
        """Submit a step; the first one after a blocker waits for it."""

    def wait(self) -> None:
        """Until all is done that was submitted."""


class DeviceStep:
    """clock  seconds, as time.perf_counter gives them"""

    def __init__(self, device: Device, clock: Callable[[], float] = time.perf_counter):
        self.device, self.clock, self.length = device, clock, 1

    def seconds(self) -> float | None:
        """Of a step; None where steps cannot be queued behind a blocker."""
        for steps in STEPS:
            if found := self.differences(steps):
                return statistics.median(found) / (steps - 1)
        return None

    def differences(self, steps: int) -> list[float]:
        """Seconds that so many steps take longer than one, PAIRS times; none where too many pairs were in vain."""
        wanted, found, vain = LONGER * self.submission(steps), [], 0
        blocked = self.blocked(wanted)
        while len(found) < PAIRS:
            queues = [self.queue(n) for n in (1, steps)]
            if all(submitted < SURE * blocked for submitted, _ in queues):
                found.append(queues[1][1] - queues[0][1])
                continue
            vain, wanted = vain + 1, 2 * wanted
            if vain == ATTEMPTS:
                return []
            blocked = self.blocked(wanted)
        return found

    def submission(self, steps: int) -> float:
        """Seconds that it takes to submit so many steps, once they are compiled and there is memory for them."""
        found = []
        for _ in range(3):
            begin = self.clock()
            for _ in range(steps):
                self.device.step()
            found.append(self.clock() - begin)
            self.device.wait()
        return min(found)

    def blocked(self, wanted: float) -> float:
        """Seconds that the blocker takes at least, once it was resized to take those wanted, and not much more."""
        while (found := self.alone()) > 2 * wanted and self.length > 1:
            self.resize(self.length // 2)
        while found < wanted:
            self.resize(2 * self.length)
            found = self.alone()
        return found

    def resize(self, length: int) -> None:
        self.length = length
        self.device.resize(length)

    def alone(self) -> float:
        return min(self.queue(0)[1] for _ in range(3))

    def queue(self, steps: int) -> tuple[float, float]:
        """Seconds until so many steps behind a blocker were submitted, and until all was done."""
        self.device.wait()
        begin = self.clock()
        self.device.block()
        for _ in range(steps):
            self.device.step()
        submitted = self.clock() - begin
        self.device.wait()
        return submitted, self.clock() - begin


class Decoding:
    """The steps of whatever a scheduler decodes, as it submits them. They are read when it ticks again.

    The blocker is sums along one row, one after another. A GPU has one threadgroup for a row, which waits for memory
    most of the time: that takes little power, which large products would take from the steps behind them. The first
    step depends on the blocker, since Metal may begin what does not depend on what is running.
    """

    SUMS, UNIT = 4, 1 << 14

    def __init__(self, scheduler):
        self.scheduler, self.ahead = scheduler, None
        self.resize(1)

    def resize(self, length: int) -> None:
        self.row = mx.zeros((length * self.UNIT,), mx.uint32)
        mx.eval(self.row)

    def block(self) -> None:
        row = self.row
        for _ in range(self.SUMS):
            row = mx.cumsum(row)
        mx.async_eval(row)
        self.ahead = row

    def step(self) -> None:
        if self.ahead is not None:
            self.scheduler.tokens = mx.depends([self.scheduler.tokens], [self.ahead])[0]
            self.ahead = None
        before = self.scheduler.steps
        self.scheduler.decode()
        assert self.scheduler.steps == before + 1, "there is nothing left to decode"

    def wait(self) -> None:
        mx.synchronize()
