"""One kernel body, launched where it can run; which way every op went, and why.

A body is MSL text in msl/<name>.metal: helper functions, the line `// ---- body`, then the statements of the kernel.
Metal gets it untouched (mx.fast.metal_kernel), CUDA through `cuda.translate`. An op asks `uses_kernel`, which says no
where there is no GPU, where the kernel is switched off, and where the op's own predicate names a reason.

    SMELT_KERNELS=reference        no kernel at all
    SMELT_KERNELS=-linear,-router  all but these
"""

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from . import table

log = logging.getLogger(__name__)

MSL = Path(__file__).parent / "msl"
BODY = "// ---- body\n"
METAL_SIMDS = 12  # simdgroups that fit in a threadgroup on every Apple GPU, however many registers a kernel takes
INCLUDE = re.compile(r'^#include "(\w+\.metal)"\n', re.M)

Output = tuple[tuple[int, ...], mx.Dtype]  # shape, type
Template = dict[str, bool | int | mx.Dtype]


class Kernel:
    """msl/<name>.metal as a function of arrays.

    inputs, outputs   the names the body uses; every input has at least one dimension, scalars are template values
    written           inputs that the body writes to, in place: see pages_kernel.py for when that is sound
    optional          inputs that may be an earlier one again: it stands where there is nothing, or both are columns of it
    scratch           outputs of which the body need not write all: nobody reads what it leaves out
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        written: Sequence[str] = (),
        optional: Sequence[str] = (),
        scratch: Sequence[str] = (),
    ):
        self.name, self.inputs, self.outputs = name, tuple(inputs), tuple(outputs)
        self.written, self.optional, self.scratch = tuple(written), tuple(optional), tuple(scratch)

    @functools.cached_property
    def text(self) -> tuple[str, str]:
        """Helpers and body."""
        text = expanded((MSL / f"{self.name}.metal").read_text(), set())
        if text.count(BODY) != 1:
            raise ValueError(f"msl/{self.name}.metal needs the line {BODY.strip()!r} once, it has {text.count(BODY)}")
        helpers, body = text.split(BODY)
        return helpers, body

    def __call__(
        self,
        inputs: Sequence[mx.array],
        outputs: Sequence[Output],
        *,
        template: Template,
        groups: tuple[int, int, int],
        threads: int,
    ) -> list[mx.array]:
        """Launch groups[0] * groups[1] * groups[2] threadgroups of `threads` threads, a multiple of 32."""
        assert threads % 32 == 0 and 0 < threads <= 1024, f"{self.name}: {threads} threads in a threadgroup"
        assert len(inputs) == len(self.inputs), f"{self.name} takes {self.inputs}, not {len(inputs)} arrays"
        run = _stand_in or RUN[machine()]
        return run(self, inputs, outputs, template, groups, threads)

    @functools.cached_property
    def metal(self) -> Callable:
        helpers, body = self.text
        return mx.fast.metal_kernel(
            name=f"smelt_{self.name}", input_names=self.inputs, output_names=self.outputs, source=body, header=helpers
        )


def expanded(text: str, seen: set[str]) -> str:
    """`#include "other.metal"` replaced by that file, each file once."""

    def insert(match):
        name = match.group(1)
        if name in seen:
            return ""
        seen.add(name)
        return expanded((MSL / name).read_text(), seen)

    return INCLUDE.sub(insert, text)


def run_metal(kernel, inputs, outputs, template, groups, threads):
    return kernel.metal(
        inputs=list(inputs),
        template=list(template.items()),
        grid=(groups[0] * threads, groups[1], groups[2]),
        threadgroup=(threads, 1, 1),
        output_shapes=[shape for shape, _ in outputs],
        output_dtypes=[dtype for _, dtype in outputs],
    )


def run_cuda(kernel, inputs, outputs, template, groups, threads):
    from . import cuda  # ctypes and NVRTC: only where there is a CUDA GPU

    return cuda.run(kernel, inputs, outputs, template, groups, threads)


RUN = {"metal": run_metal, "cuda": run_cuda}
_stand_in: Callable | None = None


@contextmanager
def through(run: Callable) -> Iterator[None]:
    """Every launch goes to run(kernel, inputs, outputs, template, groups, threads): how tests emulate a GPU."""
    global _stand_in
    before, _stand_in = _stand_in, run
    try:
        yield
    finally:
        _stand_in = before


def machine() -> str:
    """ "metal" or "cuda", else "cpu": where MLX computes now."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


# ---- which way an op runs

ON_CPU = "MLX computes on the CPU"


@dataclass
class Way:
    """How an op ran for one case: by "kernel" or by "reference", and then why."""

    op: str
    case: str
    way: str
    why: str
    calls: int = 0


_ways: dict[tuple, Way] = {}


def uses_kernel(op: str, case: tuple, refusal: str | None) -> bool:
    """Whether `op` launches its kernel. `refusal` is why its predicate says no; `case` tells calls apart in `report`."""
    why = unavailable(op) or refusal
    if _only is not None:  # a check, not work to be reported
        _checked.add(op)
        return why is None and op in _only
    key = (op, case, why)
    if key not in _ways:
        _ways[key] = Way(op, " ".join(map(str, case)), "reference" if why else "kernel", why or "")
    _ways[key].calls += 1
    return why is None


def on_cpu(op: str) -> bool:
    """Whether no kernel can run at all: asked first, it saves finding out what else would speak against one."""
    if _stand_in is not None or machine() != "cpu":
        return False
    if op not in _idle:
        _idle[op] = Way(op, "any shape", "reference", ON_CPU)
    _idle[op].calls += 1
    return True


_idle: dict[str, Way] = {}


def report() -> list[Way]:
    """Every way that every op has gone in this process. Inside mx.compile a call counts once, when it is traced."""
    return sorted([*_ways.values(), *_idle.values()], key=lambda way: (way.op, way.case))


def unavailable(op: str) -> str | None:
    """Why this op has no kernel here whatever its arguments, or None."""
    if _stand_in is None and machine() == "cpu":
        return ON_CPU
    if switched_off(op, os.environ.get("SMELT_KERNELS", "")):
        return f"switched off by SMELT_KERNELS={os.environ['SMELT_KERNELS']}"
    return _off.get(op) or chip_table().get("off", {}).get(op)


_off: dict[str, str] = {}
_only: frozenset[str] | None = None
_checked: set[str] = set()


def turn_off(op: str, why: str) -> None:
    """From now on this process takes the op's reference; `report` says why."""
    _off[op] = why


def turned_off() -> dict[str, str]:
    """What `turn_off` has switched off: op -> why."""
    return dict(_off)


def turn_on_again() -> None:
    _off.clear()


@contextmanager
def only(*ops: str) -> Iterator[set[str]]:
    """Inside, kernels run for these ops at most: how one kernel is compared with its reference. Gives the ops asked for."""
    global _only, _checked
    before, _only, _checked = (_only, _checked), frozenset(ops), set()
    try:
        yield _checked
    finally:
        _only, _checked = before


@functools.cache
def switched_off(op: str, setting: str) -> bool:
    words = [word.strip() for word in setting.split(",") if word.strip()]
    for word in words:
        if word != "reference" and not word.startswith("-"):
            raise ValueError(f"SMELT_KERNELS={setting}: {word!r} is neither 'reference' nor a name with '-' before it")
    return "reference" in words or f"-{op}" in words


# ---- knobs: what was found best on a chip

PINS = ("", "off", "shipped")


def knobs(op: str, key: str, default: dict) -> dict:
    """`default`, with what the tables know about `op` on this chip: for all shapes ("*"), then for the shape `key`.

    SMELT_TUNE=off leaves the default, SMELT_TUNE=shipped leaves out the user's own table.
    """
    if _asked_knobs is not None:
        _asked_knobs.append((op, key, default))
    if _forced is not None and _forced[0] == op:
        return default | _forced[1]
    if pinned() == "off":
        return default
    found = chip_table(own=pinned() != "shipped").get(op, {})
    return default | found.get("*", {}).get("knobs", {}) | found.get(key, {}).get("knobs", {})


def pinned() -> str:
    setting = os.environ.get("SMELT_TUNE", "")
    if setting not in PINS:
        raise ValueError(f"SMELT_TUNE={setting} is neither 'off' (default knobs) nor 'shipped' (no table of your own)")
    return setting


_forced: tuple[str, dict] | None = None
_asked_knobs: list[tuple[str, str, dict]] | None = None


@contextmanager
def forced(op: str, knobs: dict) -> Iterator[None]:
    """Inside, `op` runs with these knobs, whatever the tables say."""
    global _forced
    before, _forced = _forced, (op, knobs)
    try:
        yield
    finally:
        _forced = before


@contextmanager
def asking() -> Iterator[list[tuple[str, str, dict]]]:
    """Notes which knobs are asked for inside: (op, key, default)."""
    global _asked_knobs
    before, _asked_knobs = _asked_knobs, []
    try:
        yield _asked_knobs
    finally:
        _asked_knobs = before


def chip() -> tuple[str, str]:
    """Class and name of the GPU: ("applegpu_g16s", "Apple M4 Max"), ("sm_90", "NVIDIA H200")."""
    return _chip(machine())


def on_nvidia() -> bool:
    """Whether the chip is NVIDIA's, by its class: what decides on default knobs."""
    return chip()[0].startswith("sm_")


@functools.cache
def _chip(machine: str) -> tuple[str, str]:
    if machine == "cpu":
        return "cpu", "cpu"
    info = mx.device_info()
    return str(info.get("architecture", "unknown")), str(info.get("device_name", "unknown"))


@functools.cache
def cores() -> int:
    """Of the GPU: how many threadgroups compute at the same time at least. Apple's are not told: a middling number."""
    if machine() != "cuda":
        return 20
    from . import cuda

    return cuda.cores()


@functools.cache
def core_memory() -> int:
    """KiB of threadgroup memory that a core of the GPU has for all its threadgroups, where a kernel may have that much."""
    if machine() != "cuda":
        return 228
    from . import cuda

    return cuda.core_memory()


def chip_table(own: bool = True) -> dict:
    """What the shipped table says about this chip, and then the user's."""
    return _chip_table(chip(), own)


@functools.cache
def _chip_table(names: tuple[str, str], own: bool) -> dict:
    found = table.shipped(names)
    if own:
        table.merge(found, _own.ops)
    return found


_own = table.Own()


def use_table(path: Path | None) -> table.Own:
    """Let the user's own table (`smelt tune`), if there is one that holds here, override the shipped one."""
    global _own
    _own = table.Own() if path is None else table.read(path, chip())
    if _own.ignored:
        log.warning("%s is ignored: %s", _own.path, _own.ignored)
    _chip_table.cache_clear()
    return _own


def own_table() -> table.Own:
    return _own
