"""The card of `smelt doctor`: every kernel beside the plain ops that it stands for, on this chip."""

from collections.abc import Iterator

from ..engine.options import Options
from .terminal import Bar

HEAD = ("OP", "CASE", "KERNEL, us", "PLAIN OPS, us", "RATIO", "VERDICT")


class WrongKernel(Exception):
    """A kernel gives wrong results here; the message says which, and that it is off."""


class KernelCard:
    """rows: what was found, for programs."""

    def __init__(self, options: Options):
        self.options, self.rows = options, []

    def possible(self) -> bool:
        from ..engine import tune

        return tune.has_gpu()

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Raises WrongKernel after the last line, if one is wrong. What is wrong or slower is switched off."""
        from ..engine import tune, verify

        model = tune.loaded(self.options.model, self.options.model_dirs, kv_quant=self.options.kv_quant)
        verdicts = verify.verify(model, progress=Bar.on_terminal())
        self.rows = [vars(verdict) | {"ratio": verdict.ratio} for verdict in verdicts]
        if verdicts:
            yield HEAD
        yield from map(row, verdicts)
        off = verify.switched_off(verdicts)
        path = tune.keep_off(off)
        for op, why in off.items():
            yield op, "all of it", "-", "-", "-", f"switched off in {path}: {why}"
        if wrong := sorted({verdict.op for verdict in verdicts if verdict.verdict == verify.WRONG}):
            raise WrongKernel(f"{', '.join(wrong)} gave wrong results and will not be used on this chip")


def row(verdict) -> tuple[str, ...]:
    said = f"{verdict.verdict}: {verdict.why}" if verdict.why else verdict.verdict
    if not verdict.kernel_us:
        return verdict.op, verdict.case, "-", "-", "-", said
    times = (f"{verdict.kernel_us:.2f}", f"{verdict.reference_us:.2f}", f"{verdict.ratio:.2f}")
    return verdict.op, verdict.case, *times, said
