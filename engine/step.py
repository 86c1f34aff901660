"""One decode step as one traced graph: built once for each shape, then submitted without Python's part of it.

A call of a custom kernel costs 5 to 14 us of Python, an MLX operation 1 us; a step has hundreds. Traced by mx.compile
they cost nothing. Whatever changes from step to step enters as an array: positions, page tables, parameters; states go
in and come out, and MLX writes them in place where nothing else holds them; pages that kernels write only go in.
"""

from collections import OrderedDict
from collections.abc import Callable

import mlx.core as mx

from ..kernels import launch
from ..kernels import sample as kernel
from ..kernels.pages import Addresses, Rows
from ..kernels.resident import handed_over
from ..models.state import Pools, Step, parted
from .sampler import Sampler

KEPT = 256  # traces, those needed last: requests may ask for any number of plans, and rows come to any slots


class TracedStep:
    """Decodes one token for a batch of rows, or verifies their drafts: the model, and the draw."""

    off: str | None = None  # why steps are not traced in this process, should the check at the start have found so

    def __init__(self, model, memory):
        self.model, self.memory = model, memory
        self.asked = True
        self.hidden: mx.array | None = None  # [B, T, D] of the last step, where a drafter needs it
        self.functions: OrderedDict[tuple, Callable] = OrderedDict()

    @property
    def worthwhile(self) -> bool:
        """On the CPU the reference reads pages where they lie, which a trace cannot; a model may need the host's eye."""
        return self.asked and self.off is None and launch.machine() != "cpu" and self.model.traceable

    def __call__(self, sampler: Sampler, tokens: mx.array, step: Step) -> tuple[list[mx.array], list[list[mx.array]]]:
        """tokens [B, T] -> what `Sampler` returns for the next ones, and the same as the host reads it (`handed_over`);
        extends the memory and the sampler's history.
        """
        drawn, pieces, history = self.run(tokens, self.drawing(sampler), step, sampler.plan)
        if history is not None:
            sampler.history = kernel.History(**history)
        return drawn, pieces

    def logits(self, tokens: mx.array, step: Step) -> mx.array:
        """tokens [B, T] -> logits [B, T, V] of the next ones, where the draw has to wait for a mask."""
        return self.run(tokens, {}, step, None)[0][0]

    def run(self, tokens: mx.array, drawing: dict, step: Step, plan: kernel.Plan | None) -> tuple[list, list, dict | None]:
        self.memory.forget_kept()
        pools = self.memory.prepared(step.rows)
        function, given = self.function(plan, step), self.arrays(tokens, step, pools) | drawing
        for state in pools.anew:
            state.release()
        made, pieces, states, history, self.hidden = function(given)
        del given
        after = made[0].view(mx.uint8)  # is there when all writes are; of the type that pages_kernel.append waits for
        for pages in pools.fixed:
            pages.written = after
        for state, arrays in zip(pools.anew, states, strict=True):
            state.hold(arrays)
        for state in self.memory.recurrent:
            state.trail_slots = step.slots if step.keep else ()
        return made, pieces, history

    @staticmethod
    def arrays(tokens: mx.array, step: Step, pools: Pools) -> dict:
        addresses = [rows.addresses(step.new, pools.capacity[window]) for window, rows in step.rows.items()]
        return {
            "tokens": tokens,
            "position": [] if addresses else [step.position],
            "addresses": [a.where for a in addresses],
            "pools": pools.arrays,
            "states": [state.held for state in pools.anew],
        }

    @staticmethod
    def drawing(sampler: Sampler) -> dict:
        return {
            "draw": sampler.position(),
            "parameters": sampler.given,
            "history": {} if sampler.history is None else vars(sampler.history),
        }

    def function(self, plan: kernel.Plan | None, step: Step):
        """Traced again by MLX for every new shape; the slots of recurrent states are part of the trace.

        plan  of the draw; None leaves it out and gives the logits
        """
        slots, fresh, new = step.slots, step.fresh, step.new
        key = (plan, new, slots, fresh) if self.memory.recurrent else (plan, new, len(slots))
        if key not in self.functions:
            model, memory, traced = self.model, self.memory, self.traced  # not self: a trace must not wait for the
            self.functions[key] = mx.compile(lambda given: traced(model, memory, given, plan, slots, fresh, new))  # collector
        self.functions.move_to_end(key)
        while len(self.functions) > KEPT:
            self.functions.popitem(last=False)
        return self.functions[key]

    def forget(self) -> None:
        """Drop the traces. On the thread that made them: MLX keeps them by thread, and aborts where they outlive it."""
        self.functions.clear()

    @staticmethod
    def traced(model, memory, given: dict, plan: kernel.Plan | None, slots: tuple, fresh: tuple, new: int):
        fixed, anew = parted(memory.states)
        states = [*fixed, *anew]
        known = [state.held for state in states]
        for state, arrays in zip(states, [*given["pools"], *given["states"]], strict=True):
            state.hold(arrays)
        addresses = [Addresses(where, len(slots), new) for where in given["addresses"]]
        rows = {window: Rows((), 0, addressed=a) for window, a in zip(memory.paging, addresses, strict=True)}
        (position,) = given["position"] or [addresses[0].position]
        step = Step(position, new, rows, slots, fresh, keep=new > 1)
        hidden = model(given["tokens"], step)
        logits = model.logits(hidden)
        made, history = ([logits], None) if plan is None else draw(logits, given, plan)
        made_anew = [state.held for state in anew]
        for state, arrays in zip(states, known, strict=True):
            state.hold(arrays) if arrays else state.release()
        pieces = [] if plan is None else [handed_over(array) for array in made]
        return made, pieces, made_anew, history, hidden if model.drafter else None


def draw(logits: mx.array, given: dict, plan: kernel.Plan) -> tuple[list[mx.array], dict | None]:
    history = kernel.History(**given["history"]) if plan.penalties else None
    parameters = kernel.Parameters(**given["parameters"])
    drawn, history = kernel.sampled_along(logits, parameters, given["draw"], plan, history)
    return drawn, None if history is None else vars(history)
