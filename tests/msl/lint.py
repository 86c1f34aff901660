"""What neither g++ nor CUDA's compiler can say about a kernel: Metal's address spaces, by clang's C++ for OpenCL.

Its four address spaces are Metal's, with the generic one switched off: a device pointer for a thread parameter, a
pointer without an address space, `const device T* p = x` for an input that Metal makes `constant`, threadgroup storage
in a helper. And two rules of the house that no compiler has: floating literals end in f, and nothing is typed half-way.
"""

import re
from pathlib import Path

import mlx.core as mx
from smelt.kernels import cuda

from msl.emulator import ATTRIBUTES

HERE = Path(__file__).resolve().parent
SMALL = 8  # elements: MLX puts smaller inputs into `constant`
LITERAL = re.compile(r"(?<![\w.])(?:\d+\.\d*|\.\d+|\d+[eE][+-]?\d+)(?:[eE][+-]?\d+)?(?![\w.])")
VECTOR = re.compile(
    r"\b(vec<\w+, \w+>|(?:float|half|uchar|ushort|int|uint|ulong)[234])\("
)  # OpenCL spells them as casts
COMMENT = re.compile(r"//[^\n]*")
ARGUMENTS = [
    "-x", "clcpp", "-cl-std=clc++2021", "-target", "spir64-unknown-unknown", "-cl-no-stdinc",
    "-Xclang", "-cl-ext=-all,+cl_khr_fp16", "-Wno-undefined-inline", "-Wno-undefined-internal", "-Werror=vla",
    "-I", str(HERE),
]  # fmt: skip


def lint(kernel, inputs, outputs, template) -> list[str]:
    """Messages, none for a clean kernel. Arguments as a launch has them."""
    import clang.cindex

    text = unit(kernel, inputs, outputs, template)
    parsed = clang.cindex.Index.create().parse("kernel.clcpp", args=ARGUMENTS, unsaved_files=[("kernel.clcpp", text)])
    found = [d for d in parsed.diagnostics if d.severity >= clang.cindex.Diagnostic.Error]
    return [d.format() for d in found] + bare_literals(kernel)


def bare_literals(kernel) -> list[str]:
    """Metal has no double, so 1.0 is a float there; elsewhere it is not."""
    return [
        f"{kernel.name}.metal ({part}):{number}: {literal.group()} without f"
        for part, text in zip(("helpers", "body"), kernel.text, strict=True)
        for number, line in enumerate(text.splitlines(), 1)
        for literal in LITERAL.finditer(COMMENT.sub("", line))
    ]


def unit(kernel, inputs, outputs, template) -> str:
    """The kernel as MLX declares it, but with template values as constants: OpenCL has no template kernels."""
    helpers, body = (VECTOR.sub(r"(\1)(", part) for part in kernel.text)
    parameters = [
        f"const {'constant' if x.size < SMALL else 'device'} {named(x.dtype)}* {name}"
        for name, x in zip(kernel.inputs, inputs, strict=True)
    ]
    parameters += [f"device {named(dtype)}* {name}" for name, (_, dtype) in zip(kernel.outputs, outputs, strict=True)]
    parameters += [f"{kind} {name}" for name, (kind, _) in ATTRIBUTES.items() if name in body]
    values = {name: mx.float16 if value == mx.bfloat16 else value for name, value in template.items()}
    return (
        f'#include "lint.h"\n#line 1 "{kernel.name}.metal (helpers)"\n{helpers}\n'
        f"__kernel void {kernel.name}({', '.join(parameters)}) {{\n{cuda.constants(values)}\n"
        f'#line 1 "{kernel.name}.metal (body)"\n{body}\n}}\n'
    )


def named(dtype: mx.Dtype) -> str:
    return cuda.TYPES[mx.float16 if dtype == mx.bfloat16 else dtype]
