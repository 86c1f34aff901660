"""The Metal text that MLX makes of a kernel, on a machine without Metal.

MLX records a metal_kernel call while it exports a function, Metal or not, and with verbose=True prints the source.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import mlx.core as mx


def generated(kernel, inputs, outputs, template, groups, threads) -> str:
    """The whole text that MLX would hand to the Metal compiler."""

    def call(*arrays):
        return kernel.metal(
            inputs=list(arrays), template=list(template.items()), verbose=True,
            grid=(groups[0] * threads, groups[1], groups[2]), threadgroup=(threads, 1, 1),
            output_shapes=[shape for shape, _ in outputs], output_dtypes=[dtype for _, dtype in outputs],
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        return printed(lambda: mx.export_function(str(Path(folder) / "kernel.mlxfn"), call, *inputs)).split("```\n")[1]


def printed(action) -> str:
    """What `action` writes to the process's standard output, from C++ too."""
    with tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(log.fileno(), 1)
        try:
            action()
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        log.seek(0)
        return log.read().decode()


def parameters(text: str) -> list[tuple[str, str, str]]:
    """(type, name, attribute) of the generated kernel function."""
    inside = re.search(r"\[\[kernel\]\] void \w+\(\n(.*?)\) \{\n", text, re.S).group(1)
    found = [re.fullmatch(r"\s*(.*?[*&]?)\s*(\w+) \[\[(.*)\]\]", line) for line in inside.split(",\n")]
    return [match.groups() for match in found]
