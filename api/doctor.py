"""`smelt doctor`: what this machine has, where models are looked for, one answer, and the way each kernel ran.

On a GPU every kernel is compared with the plain ops that it stands for, and timed beside them; one that is wrong or
slower there is switched off in the chip's table. Each check is a function that returns lines, or raises; the exit
status is 1 when one raised.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..engine.options import KV_MODES, Options
from ..engine.request import Request
from .cli import Parser
from .kernel_card import KernelCard
from .run import Answer, loaded, statistics
from .terminal import size, table
from .version import VERSION

PACKAGES = ("mlx", "falcon", "waitress", "tokenizers", "jinja2", "numpy", "sentencepiece", "huggingface-hub")
SMOKE_TOKENS = 16
Line = tuple[str, ...]


class Broken(Exception):
    """A check that failed, in words for the user."""


def main(words: list[str], make: Callable) -> int:
    parser = Parser(
        prog="smelt doctor", allow_abbrev=False, description="What this machine has, and whether all of it works."
    )
    parser.add_argument("model", nargs="?", help="the model to try (default: the built-in one)")
    parser.add_argument("--model-dir", action="append", default=[], metavar="DIR", help="a further folder to look in")
    parser.add_argument("--kv-quant", choices=KV_MODES, default="off", help="try it with the KV cache that `serve` has so")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(words)
    options = Options(
        model=given.model, model_dirs=tuple(given.model_dir), max_concurrent=1, warmup=False, kv_quant=given.kv_quant
    )
    card, results = KernelCard(options), []
    for title, check in checks(given.model_dir, Trial(options, make), card):
        results.append(outcome(title, check))
        if not given.json:
            print(results[-1], flush=True)
    broken = [result.title for result in results if result.error]
    if given.json:
        print(json.dumps({"checks": [vars(r) for r in results], "verdicts": card.rows, "broken": broken}, indent=2))
    else:
        print(f"\nBroken: {', '.join(broken)}" if broken else "\nAll of it works.")
    return 1 if broken else 0


def checks(model_dirs, trial: "Trial", card: KernelCard) -> Iterator[tuple[str, Callable[[], Iterable[Line]]]]:
    yield "Versions", versions
    yield "Machine", machine
    yield "MLX", mlx
    yield "Models", lambda: folders(model_dirs)
    yield "Trial", trial.answer
    yield "Kernels", trial.kernels
    if card.possible():
        yield "Kernels beside plain ops", card.lines


@dataclass
class Outcome:
    """What a check said, and why it failed."""

    title: str
    lines: list[Line]
    error: str = ""

    def __str__(self) -> str:
        said = ["  " + line for line in table(self.lines).splitlines()] if self.lines else []
        failed = [f"  FAILED  {self.error}"] if self.error else []
        return "\n".join([self.title, *(said + failed or ["  -"])])


def outcome(title: str, check: Callable[[], Iterable[Line]]) -> Outcome:
    result = Outcome(title, [])
    try:
        for line in check():
            result.lines.append(line)
    except Exception as error:
        result.error = " ".join(str(error).split()) or type(error).__name__
    return result


def versions() -> Iterator[Line]:
    yield "smelt", VERSION
    yield "python", f"{platform.python_version()} ({sys.executable})"
    for name in PACKAGES:
        yield name, version_of(name)


def version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise Broken(
            f"{name} is not installed: pip install smelt brings it (on Linux: smelt[cpu] or smelt[cuda])"
        ) from None


def machine() -> Iterator[Line]:
    yield "system", f"{platform.system()} {platform.mac_ver()[0] or platform.release()} {platform.machine()}"
    yield "chip", chip()
    yield "cores", str(os.cpu_count())
    yield "memory", size(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def chip() -> str:
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or "?",
    )


def mlx() -> Iterator[Line]:
    import mlx.core as mx

    metal = mx.metal.is_available()
    gpu = mx.default_device().type == mx.DeviceType.gpu
    backend = "metal" if metal and gpu else "cuda" if gpu else "cpu"
    yield "backend", backend
    if backend == "cpu" and platform.system() == "Darwin":
        raise Broken("MLX computes on the CPU although this is a Mac: is this an Intel or a Rosetta Python?")
    if backend != "cpu":
        info = mx.device_info()
        yield "device", str(info.get("device_name", info.get("architecture", "?")))
        if working_set := info.get("max_recommended_working_set_size"):
            yield "for models", size(working_set)
    if mx.sum(mx.arange(8)).item() != 28:
        raise Broken("MLX adds 0 to 7 up to something other than 28")


def folders(model_dirs: Iterable[str]) -> Iterator[Line]:
    from ..models.source import installed, roots

    found = installed(model_dirs)
    for source, root in roots(model_dirs):
        inside = [model for model in found if model.source == source and model.path.is_relative_to(root)]
        ready = sum(model.supported for model in inside)
        yield str(root), f"{len(inside)} models, {ready} supported" if root.is_dir() else "no such folder"


class Trial:
    """One short answer, and which way each kernel ran for it."""

    def __init__(self, options: Options, make: Callable):
        self.options, self.make = options, make
        self.ways: list = []

    def answer(self) -> Iterator[Line]:
        began = time.monotonic()
        service = loaded(self.options, self.make)
        try:
            yield "model", service.name
            yield "loaded in", f"{time.monotonic() - began:.2f} s"
            request = Request(
                messages=[{"role": "user", "content": "Hello"}], max_tokens=SMOKE_TOKENS, sampling={"temperature": 0.0}
            )
            with open(os.devnull, "w") as nowhere:
                answer = Answer(out=nowhere)
                last = answer.show(service.submit(request))
            yield "answer", repr(answer.text)
            yield "speed", statistics(last, service.memory())
            self.ways = list(service.kernels()) if hasattr(service, "kernels") else []
        finally:
            service.close()

    def kernels(self) -> Iterator[Line]:
        if setting := os.environ.get("SMELT_KERNELS"):
            yield "SMELT_KERNELS", setting
        yield from tuned()
        for way in self.ways:
            yield f"{way.op} {way.case}".strip(), f"{way.way}{': ' + way.why if way.why else ''} ({way.calls} calls)"


def tuned() -> Iterator[Line]:
    """The user's own tuning table."""
    from ..engine.tune import in_force

    tuning = in_force()
    if tuning["pinned"]:
        yield "SMELT_TUNE", tuning["pinned"]
    if tuning["ignored"]:
        yield "tuning table", f"ignored: {tuning['ignored']}"
    elif tuning["table"]:
        yield "tuning table", tuning["table"]
