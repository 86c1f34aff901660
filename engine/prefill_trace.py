"""--prefill-trace: how long every part of a prompt's reading takes, to the log.

The parts of a prefill are queued together otherwise, and the device runs on while Python builds the next. To time one,
its result and the states it wrote are computed before the next is begun: a traced prefill is slower than others, by a
wait a part. Decode steps are not touched.

    the embedding | of every layer: each of its parts (mixer, mlp, ...), and what is left of it (norms, sums) | the head
    and the draw of the first token
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import mlx.core as mx

from .sequence import Sequence

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # whoever asks for the trace wants to read it, whatever --log-level says
SLOWER = "the prefill is traced: every part is waited for, which makes reading prompts slower"


class Timed:
    """A part of a block, that notes what its calls take. Else it is the part."""

    def __init__(self, part: Any, note: Callable[[float], None]):
        self.part, self.note = part, note

    def __call__(self, x, *args, **kwargs):
        mx.eval(x, [value for value in (*args, *kwargs.values()) if isinstance(value, mx.array)])
        begun = time.monotonic()
        made = self.part(x, *args, **kwargs)
        mx.eval(made, written_by(self))
        self.note(time.monotonic() - begun)
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)


def written_by(part: Any) -> list[mx.array]:
    """What a part wrote besides its result."""
    return [array for state in getattr(part, "states", ()) for array in state.arrays]


@dataclass
class Spent:
    """Seconds of one prompt's parts, over all its chunks; `layers` has each layer's whole and its parts."""

    layers: list[tuple[float, dict[str, float]]]
    tokens: int = 0
    chunks: int = 0
    others: dict[str, float] = field(default_factory=dict)  # embedding, head, draw


class PrefillTrace:
    """Stands for the model where a prompt is read, one at a time: `of` for each chunk, `note` for what follows the
    last one, `tell` at the end.
    """

    def __init__(self, model):
        self.model = model
        self.blocks = [self.watched(layer, block) for layer, block in enumerate(model.blocks)]
        self.reader = replace(model, blocks=self.blocks)
        self.spent = Spent([])
        self.mark = 0.0  # when the last part was there

    def watched(self, layer: int, block):
        parts = {f.name: getattr(block, f.name) for f in fields(block)}
        timed = {name: Timed(part, self.adder(layer, name)) for name, part in parts.items() if callable(part)}
        return replace(block, **timed)

    def adder(self, layer: int, name: str) -> Callable[[float], None]:
        return lambda seconds: add(self.spent.layers[layer][1], name, seconds)

    def of(self, sequence: Sequence) -> "PrefillTrace":
        """For the next chunk of this sequence's prompt."""
        if not sequence.prefilled:  # a new prompt; one that is read once more, too
            self.spent = Spent([(0.0, {}) for _ in self.blocks])
        return self

    def stages(self, tokens: mx.array, step, last: bool) -> Iterator[mx.array]:
        """What `Decoder.stages` gives, each stage computed before it is given."""
        self.spent.tokens += tokens.size
        self.spent.chunks += 1
        self.begin()
        embedded = self.model.embed(tokens)
        self.note("embedding", embedded)
        for layer, x in enumerate(self.reader.stages(tokens, step, last, embedded)):
            whole, parts = self.spent.layers[layer]
            self.spent.layers[layer] = whole + self.since([x, *written_by(self.blocks[layer])]), parts
            yield x
            self.begin()

    def begin(self) -> None:
        """What was queued for other rows is not the prompt's time."""
        mx.synchronize()
        self.mark = time.monotonic()

    def note(self, name: str, *arrays: mx.array) -> None:
        """These are a part's result: it took the time since the part before."""
        add(self.spent.others, name, self.since(arrays))

    def since(self, arrays) -> float:
        mx.eval(arrays)
        before, self.mark = self.mark, time.monotonic()
        return self.mark - before

    def tell(self) -> None:
        """Write what the prompt took to the log."""
        for line in told(self.spent):
            log.info("%s", line)


def add(seconds: dict[str, float], name: str, more: float) -> None:
    seconds[name] = seconds.get(name, 0.0) + more


def told(spent: Spent) -> Iterator[str]:
    layers = sum(whole for whole, _ in spent.layers)
    parts = {"embedding": spent.others["embedding"], "layers": layers} | spent.others
    yield f"prefill of {spent.tokens} tokens in {spent.chunks} chunks: {summed(sum(parts.values()), parts)}"
    for layer, (whole, parts) in enumerate(spent.layers):
        yield f"  layer {layer}: {summed(whole, parts | {'rest': whole - sum(parts.values())})}"


def summed(whole: float, parts: dict[str, float]) -> str:
    return f"{whole * 1e3:.2f} ms = " + " + ".join(f"{name} {part * 1e3:.2f}" for name, part in parts.items())
