"""What one call of a kernel costs on a CUDA device itself, without MLX around it.

On the host of an NVIDIA H200 a call through MLX takes 6 to 15 us, most kernels 4 to 12: a chain through MLX has the same
time whatever the knobs. So what a call launches is caught, and a graph of these launches, over device memory of its own,
is replayed by the driver (cuda_driver.py): one after another, as in a decode step. Plain MLX work before and between a
call's launches is done once, when they are caught, and is not in its time.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from . import launch, workspace
from .cuda import alike
from .cuda_driver import Graph, Launcher, Memory, raw
from .timing import ROUNDS, Chain, Timer
from .tuning import LARGE, Call, Space

IDLE = 0.1  # seconds, after which the device may have lowered its clock: an NVIDIA H200's to a fifth
WARM_UP = 300e3  # microseconds of replays that bring it up again


def tuning_timer(rounds: int = ROUNDS, clock=time.perf_counter) -> Timer:
    """The device's own times on CUDA; elsewhere a chain through MLX."""
    kind = DeviceTimer if launch.machine() == "cuda" else Timer
    return kind(rounds=rounds, clock=clock)


@dataclass
class Launch:
    """`outputs` stand for what it makes: a later launch that takes one of them takes its memory."""

    kernel: launch.Kernel
    inputs: list[mx.array]
    outputs: list[mx.array]
    template: launch.Template
    groups: tuple[int, int, int]
    threads: int

    @property
    def variant(self) -> tuple:
        """What a Launcher takes."""
        types = [x.dtype for x in self.inputs], [x.dtype for x in self.outputs]
        return self.kernel, *types, self.template, self.groups, self.threads, alike(self.kernel, self.inputs)

    @property
    def handed_over(self) -> list[mx.array]:
        same = alike(self.kernel, self.inputs)
        return [*(x for i, x in enumerate(self.inputs) if same[i] == i), *self.outputs]


def launches_of(chain: Chain, call: Call) -> list[Launch]:
    """In order; none of them is launched. As in a model's pass, where most find a workspace, they make none."""
    found: list[Launch] = []

    def note(kernel, inputs, outputs, template, groups, threads):
        made = [mx.zeros(shape, dtype) for shape, dtype in outputs]
        found.append(Launch(kernel, list(inputs), made, template, groups, threads))
        return made

    with chain.within(), workspace.within(workspace.lasting()), launch.through(note):
        chain.run(call.each(lambda a: a))  # it may leave arrays in its objects
    return found


class Memories:
    """Device memory of arrays, whose bytes come there once: of a large one, a copy on the device for each `turn`."""

    def __init__(self, arrays: Iterable[mx.array] = ()):
        self.held = {id(x): (x, {}) for x in arrays}  # with the array, so that no other one has its id

    def of(self, x: mx.array, turn: int) -> Memory:
        _, copies = self.held.setdefault(id(x), (x, {}))
        turn = turn if x.nbytes >= LARGE else 0
        if turn not in copies:
            copies[turn] = next(iter(copies.values())).copy() if copies else Memory.of(raw(x))
        return copies[turn]


class DeviceTimer(Timer):
    """Timer for what calls launch on a CUDA device. A rotation has the same calls again and again, each time over other
    memory; or calls that turn, over the same memory.
    """

    least = 2  # so that a call that does not turn is there twice, by which `chained` knows it

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.kept, self.ended = Memories(), float("-inf")

    def rotation(self, calls: Sequence[Call], space: Space | None = None) -> list[Call]:
        made = super().rotation(calls, space)
        self.kept = Memories(x for call in made for x in call.arrays)
        return made

    def copied(self, call: Call, i: int) -> Call:
        """The call itself: what there is of it for each i is the device memory of its arrays."""
        return call

    def link_us(self, rotation: Sequence[Call]) -> float:
        """Nothing stands between two launches."""
        return 0.0

    def chained(self, chain: Chain, rotation: Sequence[Call]) -> Callable[[], float]:
        steps, count = self.steps(chain, rotation), self.length(rotation)

        def record(stream) -> None:
            for launcher, memories in steps * (count // len(rotation)):
                launcher.launch(stream, memories)

        graph = Graph(record)

        def once() -> float:
            self.warm_up(graph)
            us = graph.replay_us() / count
            self.ended = self.clock()
            return us

        return once

    def steps(self, chain: Chain, rotation: Sequence[Call]) -> list[tuple[Launcher, list[Memory]]]:
        """What one round launches, over which memories; those of arrays that are no call's own go with the chain."""
        calls = {id(call): call for call in rotation}
        caught = {key: launches_of(chain, call) for key, call in calls.items()}
        own, again = Memories(), len(calls) < len(rotation)
        variants = {repr(each.variant): each.variant for launches in caught.values() for each in launches}
        launchers = {key: Launcher(*variant) for key, variant in variants.items()}

        def memory(x: mx.array, turn: int) -> Memory:
            return (self.kept if id(x) in self.kept.held else own).of(x, turn if again else 0)

        return [
            (launchers[repr(each.variant)], [memory(x, turn) for x in each.handed_over])
            for turn, call in enumerate(rotation)
            for each in caught[id(call)]
        ]

    def warm_up(self, graph: Graph) -> None:
        us = 0.0 if self.clock() - self.ended > IDLE else WARM_UP
        while us < WARM_UP:
            us += graph.replay()
