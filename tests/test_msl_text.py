"""Every kernel's text: what MLX makes of it for Metal, what clang says of its address spaces, what planted errors get."""

import re

import mlx.core as mx
import pytest
from msl.contract import generated, parameters
from msl.emulator import ATTRIBUTES, RUNS_HERE, CompileError, compiled, unit
from msl.lint import SMALL, lint
from msl.samples import launches
from smelt.kernels import cuda, launch

pytestmark = pytest.mark.skipif(not RUNS_HERE, reason="the emulator needs Linux and g++")

KERNELS = sorted(file.stem for file in launch.MSL.glob("*.metal") if launch.BODY in file.read_text())


class Text(launch.Kernel):
    def __init__(self, body, helpers="", inputs=("a", "w"), outputs=("o",)):
        super().__init__("planted", inputs, outputs)
        self.text = helpers, body


def test_every_kernel_has_a_sample():
    assert KERNELS == sorted(launches()), "tests/msl/samples.py needs a call that launches every kernel"


@pytest.fixture(params=KERNELS)
def sample(request):
    """A launch: (kernel, inputs, outputs, template, groups, threads)."""
    if request.param not in launches():
        pytest.skip("no sample: test_every_kernel_has_a_sample fails for it")
    return launches()[request.param]


def mlx_name(dtype: mx.Dtype) -> str:
    return {mx.float16: "float16_t", mx.bfloat16: "bfloat16_t"}.get(dtype, cuda.TYPES[dtype])


def test_mlx_generates_the_metal_that_the_emulator_assumes(sample):
    kernel, inputs, outputs, *_ = sample
    text = generated(*sample)
    helpers, body = kernel.text
    assert helpers in text and body in text
    expected = [
        (f"const {'constant' if x.size < SMALL else 'device'} {mlx_name(x.dtype)}*", name)
        for x, name in zip(inputs, kernel.inputs, strict=True)
    ]
    expected += [(f"device {mlx_name(dtype)}*", name) for name, (_, dtype) in zip(kernel.outputs, outputs, strict=True)]
    expected += sorted((kind, name) for name, (kind, _) in ATTRIBUTES.items() if name in body)
    found = [(kind, name) for kind, name, _ in parameters(text)]
    count = len(kernel.inputs) + len(kernel.outputs)
    assert found[:count] + sorted(found[count:]) == expected


def test_it_compiles_as_a_template_as_metal_has_it(sample):
    kernel, inputs, outputs, template, *_ = sample
    compiled(unit(kernel, [x.dtype for x in inputs], [t for _, t in outputs], template, as_template=True))


def test_its_address_spaces_are_right(sample):
    pytest.importorskip("clang.cindex")
    assert lint(*sample[:4]) == []


def test_its_address_spaces_are_right_for_many_rows(sample):
    """What is `constant` for a few rows is `device` for more."""
    pytest.importorskip("clang.cindex")
    kernel, inputs, outputs, template, *_ = sample
    many = [x if x.size >= SMALL else mx.zeros((SMALL,), x.dtype) for x in inputs]
    assert lint(kernel, many, outputs, template) == []


def test_cuda_gets_the_same_body_without_address_spaces(sample):
    kernel, inputs, outputs, template, _, threads = sample
    text = cuda.unit(kernel, [x.dtype for x in inputs], [t for _, t in outputs], template, threads)
    body = text.split(f"smelt_{kernel.name}(")[1]
    assert "__shared__" in body or not re.search(r"\bthreadgroup\b", kernel.text[1])
    assert not cuda.SPACE.search(body)
    assert len(body.splitlines()) >= len(kernel.text[1].splitlines())


INDEX = "uint i = thread_position_in_grid.x;\n"
WRONG = {
    "an input of few elements is constant": (INDEX + "const device float* p = w;\no[i] = p[0];", "", 4),
    "device pointer for a thread parameter": (INDEX + "o[i] = f(a);", "METAL_FUNC float f(const thread float* p) { return p[0]; }", 64),
    "pointer without an address space": (INDEX + "o[i] = f(a);", "METAL_FUNC float f(const float* p) { return p[0]; }", 64),
    "threadgroup array as device": (INDEX + "threadgroup float b[4];\no[i] = f(b);", "METAL_FUNC float f(const device float* p) { return p[0]; }", 64),
    "threadgroup storage in a helper": (INDEX + "o[i] = f(1.0f);", "METAL_FUNC float f(float x) { threadgroup float b[4]; b[0] = x; return b[0]; }", 64),
    "a cast that drops the address space": (INDEX + "o[i] = ((const float4*)(a + 4))->x;", "", 64),
    "writing to an input": (INDEX + "a[i] = 1.0f;", "", 64),
    "an element that a vector lacks": (INDEX + "float2 v = float2(1.0f, 2.0f);\no[i] = v.z;", "", 64),
    "min of two types": (INDEX + "o[i] = float(metal::min(i, 3));", "", 64),
    "variable-length array": (INDEX + "float b[int(a[0])];\no[i] = b[0];", "", 64),
    "a literal without f": (INDEX + "o[i] = 1.0 * a[i];", "", 64),
    "a literal with an exponent, without f": (INDEX + "o[i] = 1e-6 + a[i];", "", 64),
}  # fmt: skip
RIGHT = {
    "auto takes either space": (INDEX + "auto p = w;\no[i] = p[0];", "", 4),
    "threadgroup to threadgroup": (INDEX + "threadgroup float b[4];\nb[i & 3] = a[i];\no[i] = f(b);", "METAL_FUNC float f(const threadgroup float* p) { return p[0]; }", 64),
    "a vector load": (INDEX + "float4 v = *(const device float4*)(a + 4 * (i & 3));\no[i] = v.x + float2(1.0f, 2.0f).y; // 1.0", "", 64),
}  # fmt: skip


def linted(body, helpers, size):
    return lint(Text(body, helpers), [mx.zeros(64), mx.zeros(size)], [((64,), mx.float32)], {})


@pytest.mark.parametrize("body, helpers, size", WRONG.values(), ids=WRONG)
def test_lint_rejects(body, helpers, size):
    pytest.importorskip("clang.cindex")
    assert linted(body, helpers, size)


@pytest.mark.parametrize("body, helpers, size", RIGHT.values(), ids=RIGHT)
def test_lint_accepts(body, helpers, size):
    pytest.importorskip("clang.cindex")
    assert linted(body, helpers, size) == []


def test_an_error_in_the_template_form_alone_is_found():
    body = INDEX + "T v = T(a[i]);\no[i] = float(v.template_only());"
    with pytest.raises(CompileError):
        compiled(unit(Text(body, inputs=("a",)), [mx.float32], [mx.float32], {"T": mx.float32}, as_template=True))


def test_the_generated_text_of_few_elements_is_constant():
    kernel = Text(INDEX + "o[i] = a[0] + w[i];")
    text = generated(kernel, [mx.zeros(7), mx.zeros(8)], [((64,), mx.float32)], {}, (1, 1, 1), 64)
    assert [p[:2] for p in parameters(text)][:2] == [("const constant float*", "a"), ("const device float*", "w")]
