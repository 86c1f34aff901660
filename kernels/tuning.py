"""What can be tuned and verified of a kernel, whatever the op: its calls, its candidates, its reference.

An op registers a Space (tuning_spaces.py). The calls come from a model: `recording` notes what its layers hand to each
op's kernel, and a call can then be made again, with other knobs, on copies of its weights, or by the reference.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import mlx.core as mx

LARGE = 1 << 16  # bytes from which on an array is something that a decode step reads from memory

# Of the largest element of the exact result; one op, its sums taken in float32, rounded once or twice to its type.
TOLERANCE = {mx.float32: 2e-4, mx.float16: 4e-3, mx.bfloat16: 3e-2}


@dataclass(frozen=True)
class Call:
    """One call of an op's kernel. Its first argument is, or holds, the array that the layer before has made."""

    args: tuple
    kwargs: dict

    @property
    def first(self) -> mx.array:
        return Call(self.args[:1], {}).arrays[0]

    def linked(self, link: Callable[[mx.array], mx.array]) -> "Call":
        """The same call with another first argument."""
        return Call((mapped(self.args[0], link), *self.args[1:]), self.kwargs)

    def each(self, change: Callable[[mx.array], mx.array]) -> "Call":
        """The same call with all arrays changed; nothing of it is shared but what `change` leaves as it is."""
        return Call(*mapped((self.args, self.kwargs), change))

    @property
    def arrays(self) -> list[mx.array]:
        found: list[mx.array] = []
        mapped((self.args, self.kwargs), lambda a: found.append(a) or a)
        return found

    @property
    def bytes(self) -> int:
        """Of the arrays that the call has to read from memory: its weights, and keys and values."""
        return sum(a.nbytes for a in {id(a): a for a in self.arrays}.values() if a.nbytes >= LARGE)

    @property
    def signature(self) -> str:
        """Equal for calls that run the same variant."""
        return signature((self.args, self.kwargs))


def mapped(value: Any, change: Callable[[mx.array], Any]) -> Any:
    """A copy of nested tuples, dicts, dataclasses and objects of our own, with each array changed."""
    if isinstance(value, mx.array):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)([mapped(item, change) for item in value])
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if not ours(value):
        return value
    made = copy.copy(value)
    for name, item in vars(value).items():
        object.__setattr__(made, name, mapped(item, change))
    return made


def ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == __package__.partition(".")[0]


def signature(value: Any) -> str:
    """Shapes and types of all arrays, and everything else as it is but for what a dataclass does not compare."""
    if isinstance(value, mx.array):
        return f"{value.dtype}{value.shape}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(signature, value))})"
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.compare}
    elif ours(value):
        value = vars(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {signature(item)}' for key, item in value.items())}}}"
    return repr(value)


Knobs = dict[str, Any]


def shape_of(x: mx.array) -> str:
    return f"{'x'.join(map(str, x.shape))} {str(x.dtype).rpartition('.')[2]}"


def unchanged(call: Call) -> Call:
    return call.each(lambda a: a)


@dataclass(frozen=True)
class Space:
    """How an op's kernel is tried.

    module      has `fused`, which launches the kernel
    reference   takes what `fused` takes: the same by plain ops
    candidates  (what launch.knobs is asked for, its default, a call) -> knobs that this call can run with
    needs       other ops whose kernels it works with
    fresh       a copy of a call, in which nothing is left of an earlier one that it could be taken for
    outcome     (what `fused` returned, the call) -> the arrays that the reference returns, wherever they are
    settled     (these arrays, the call) -> arrays that are equal whatever an op may leave open, as an order
    title       a call in words: types, sizes, rows
    reads       bytes of a call that come from memory: weights, keys and values
    turned      (a call, i) -> the same that reads another part of its weights; None where each call reads all of them
    """

    op: str
    module: ModuleType
    reference: Callable[..., Any]
    title: Callable[[Call], str] = lambda call: shape_of(call.first)
    candidates: Callable[[str, Knobs, Call], Iterable[Knobs]] = lambda op, default, call: ()
    needs: tuple[str, ...] = ()
    fresh: Callable[[Call], Call] = unchanged
    outcome: Callable[[Any, Call], Any] = lambda result, call: result
    settled: Callable[[list[mx.array], Call], list[mx.array]] = lambda arrays, call: arrays
    reads: Callable[[Call], int] = lambda call: call.bytes
    turned: Callable[[Call, int], Call] | None = None

    def fused(self, call: Call) -> list[mx.array]:
        return as_list(self.module.fused(*call.args, **call.kwargs))

    def checked(self, call: Call) -> list[mx.array]:
        """What the kernel makes of the call, all of it, computed."""
        call = self.fresh(call)
        made = self.settled(as_list(self.outcome(self.module.fused(*call.args, **call.kwargs), call)), call)
        mx.eval(made)
        return made

    def plain(self, call: Call) -> list[mx.array]:
        return as_list(self.reference(*call.args, **call.kwargs))


def as_list(result: Any) -> list[mx.array]:
    """The arrays of a result, in order."""
    found: list[mx.array] = []
    mapped(result, lambda a: found.append(a) or a)
    return found


@contextmanager
def recording(spaces: Sequence[Space], found: dict[str, list[Call]]) -> Iterator[None]:
    """Inside, adds for each op one call of every variant that runs."""
    seen = {(op, call.signature) for op, calls in found.items() for call in calls}
    real = {space.op: space.module.fused for space in spaces}

    def spy(op: str):
        def fused(*args, **kwargs):
            call = Call(args, kwargs).each(lambda a: a)
            key = (op, call.signature)
            if key not in seen:
                seen.add(key)
                found.setdefault(op, []).append(call)
            return real[op](*args, **kwargs)

        return fused

    for space in spaces:
        space.module.fused = spy(space.op)
    try:
        yield
    finally:
        for space in spaces:
            space.module.fused = real[space.op]


# ---- right or wrong


def exact(space: Space, call: Call) -> list[mx.array]:
    """What the reference makes of the call in float32."""
    call = call.each(lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a)
    made = space.settled(space.plain(call), call)
    mx.eval(made)
    return made


def fault(space: Space, call: Call, truth: list[mx.array]) -> str | None:
    """Why what the kernel makes of the call, with the knobs in force, is wrong; or None."""
    try:
        made = space.checked(call)
    except Exception as error:
        return f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for found, true in zip(made, truth, strict=True):
        if found.shape != true.shape:
            return f"its result is {found.shape}, not {true.shape}"
        away, bound = distance(found, true), TOLERANCE.get(found.dtype, 0.0)
        if not away <= bound:  # so that NaN is wrong, too
            return f"its result is {away:.2g} of the largest element away, {bound:g} is allowed"
    return None


def distance(found: mx.array, true: mx.array) -> float:
    """The largest difference, as a share of the largest element; of whole numbers, 1 where any differs."""
    if not mx.issubdtype(found.dtype, mx.floating):
        return float(mx.any(found != true))
    largest = mx.maximum(mx.max(mx.abs(true)), 1e-30)
    return float(mx.max(mx.abs(found.astype(mx.float32) - true)) / largest)
