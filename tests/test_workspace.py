"""Workspaces: who shares them, in which order, and what they hold before and after."""

import mlx.core as mx
import pytest
import test_attention_kernel
from msl.emulator import RUNS_HERE, Emulator, KernelError
from smelt.kernels import attention_kernel, launch, linear_kernel, workspace
from smelt.kernels.attention import attention
from smelt.kernels.linear import linear, pack
from smelt.kernels.norm import Norm
from smelt.models.parts import Decoder
from test_linear_kernel import Problem

pytestmark = pytest.mark.skipif(
    not RUNS_HERE or launch.machine() != "cpu", reason="launches are caught by the emulator, which needs Linux, g++ and arrays of the CPU"
)

BF16, WIDTH = mx.bfloat16, 512
KNOBS = {"kernel": "bytes", "simds": 2, "slice": 2, "outs": 16, "depth": 1, "resident": 1, "together": 2}
NAMES = linear_kernel.BYTES.inputs


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    """All products of byte kernels are of two threadgroups."""

    def chosen(bits, group, width, rows, gated, dtype, count):
        return linear_kernel.fitted(KNOBS, bits, group, width, gated, count)

    monkeypatch.setattr(linear_kernel, "chosen_knobs", chosen)


@pytest.fixture
def launched():
    with launch.through(emulator := Emulator()):
        yield emulator.launches


@pytest.fixture(scope="module")
def weight():
    return pack(mx.random.normal((WIDTH, WIDTH), key=mx.random.key(1)).astype(BF16) / 20)


X = mx.random.normal((2, WIDTH), key=mx.random.key(2)).astype(BF16)


def products(launched) -> list[dict[str, mx.array]]:
    """The inputs of all products, by name."""
    return [dict(zip(NAMES, inputs)) for kernel, inputs, *_ in launched if kernel is linear_kernel.BYTES]


def fills(launched) -> int:
    return sum(kernel is workspace.FILL for kernel, *_ in launched)


def empty(places: mx.array) -> bool:
    return bool(mx.all(places == workspace.EMPTY))


# ---- areas


@pytest.mark.parametrize("more", [0, 1, 1000])
@pytest.mark.parametrize("kept", [1, 256, 257])
@pytest.mark.parametrize("value", [0, workspace.EMPTY, 7])
def test_the_first_words_of_an_area_are_its_value(launched, value, kept, more):
    area = workspace.Area(X, value)
    words, after = area.room(kept, more)
    assert after is None and words.dtype == mx.uint32 and fills(launched) == 1
    assert kept <= area.kept < kept + 256 and words.size == area.kept + more
    assert bool(mx.all(words[: area.kept] == value))


def test_an_area_grows_and_is_new_then(launched):
    area = workspace.Area(X, 0)
    few, _ = area.room(10, 5)
    area.after = X
    assert area.room(200, 3) == (few, X) and area.room(1) == (few, X) and fills(launched) == 1
    more, after = area.room(10, 6)
    assert more is not few and after is None and (area.kept, more.size) == (256, 262)
    many, _ = area.room(300)
    assert fills(launched) == 3 and (area.kept, many.size) == (512, 518), "and never shrinks"
    assert bool(mx.all(many[:512] == 0))


def test_areas_that_last_are_the_same_without_a_launch(launched):
    own = workspace.lasting()
    places, after = own.letters.room(300)
    assert not launched and places.size == 512 and empty(places) and after is None
    assert own.letters.room(400)[0] is places
    assert own.sums.room(3, 10)[0].tolist() == (256 + 10) * [0]


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("together, simds, width", [(2, 4, 512), (3, 4, 640), (4, 2, 512)])
@pytest.mark.parametrize("extras", [{}, {"norm": True, "glu": "silu"}, {"residual": True, "bias": True}], ids=str)
def test_places_are_empty_again_after_a_launch(monkeypatch, order, together, simds, width, extras):
    monkeypatch.setitem(KNOBS, "together", together)
    monkeypatch.setitem(KNOBS, "simds", simds)
    monkeypatch.setitem(KNOBS, "slice", 1)
    problem, own = Problem(3, width, 40, BF16, **extras), workspace.Workspace(X)
    with launch.through(Emulator(order)):
        alone = problem.fused()
        with workspace.within(own):
            for _ in range(2):  # the second one finds what the first one left
                assert mx.array_equal(problem.fused(), alone)
                assert empty(own.letters.array)


@pytest.mark.parametrize("glu", [None, "silu"])
@pytest.mark.parametrize("outputs", [8, 16, 40])
def test_a_product_uses_all_places_that_it_asks_for_and_no_other(monkeypatch, outputs, glu):
    missing = 0

    def exactly(self, count):
        return mx.full((count - missing,), workspace.EMPTY, mx.uint32), None

    monkeypatch.setattr(workspace.Area, "room", exactly)
    problem = Problem(3, WIDTH, outputs, BF16, norm=True, glu=glu)
    with launch.through(Emulator()):
        problem.fused()
        missing = 1
        with pytest.raises(KernelError, match="out_of_bounds.*'mail'"):
            problem.fused()


# ---- who shares them


def test_products_outside_of_a_pass_have_places_of_their_own(launched, weight):
    linear(X, weight)
    linear(X, weight)
    first, second = products(launched)
    assert first["mail"] is not second["mail"] and fills(launched) == 2
    assert second["after"] is second["x"], "nothing to wait for but the places themselves"


def test_within_a_block_each_product_waits_for_the_one_before(launched, weight):
    own = workspace.Workspace(X)
    with workspace.within(own):
        y = linear(X, weight)
        z = linear(X, weight)  # a branch: the graph's data leave the order open
        linear(X, weight, residual=X)
    with workspace.within(own):
        linear(z, weight)
    first, second, third, fourth = products(launched)
    assert first["mail"] is second["mail"] is third["mail"] is fourth["mail"] and fills(launched) == 1
    assert first["after"] is X and second["after"] is y and third["after"] is z
    assert fourth["after"] is z is fourth["x"], "the next block begins with what comes of all that: no input besides"


def test_a_product_of_one_threadgroup_needs_no_places(launched, weight, monkeypatch):
    monkeypatch.setitem(KNOBS, "together", 1)
    monkeypatch.setitem(KNOBS, "simds", 4)
    own = workspace.Workspace(X)
    with workspace.within(own):
        linear(X, weight)
    (only,) = products(launched)
    assert own.letters.array is None and not fills(launched) and only["mail"] is only["after"] is only["x"]


def test_nothing_is_current_after_an_exception():
    outer = workspace.Workspace(X)
    with workspace.within(outer):
        with pytest.raises(ZeroDivisionError), workspace.within(workspace.Workspace(X)):
            raise ZeroDivisionError
        assert workspace.current(X) is outer
    assert workspace.current(X) is not outer


def attend(lengths, heads, kv_heads, join) -> mx.array:
    problem = test_attention_kernel.Problem(BF16, heads, kv_heads, 64, lengths, seed=3)
    rows = problem.placed(range(len(lengths)))
    with launch.forced("attention", {"walk": "lanes", "join": join}):
        return attention(problem.q, problem.k, problem.v, problem.pages, rows, scale=1.0)


def test_counters_are_zeros_again_whatever_other_calls_left_behind_them(launched):
    """Calls with many threadgroups and with few, with many parts and with few, in the same room."""
    calls = [((150, 3, 70, 300), 8, 4), ((700,), 2, 1), ((150, 3, 70, 300), 8, 4), ((129,), 4, 4)]
    own = workspace.Workspace(X)
    for call in calls:
        expected = attend(*call, "merge")
        with workspace.within(own):
            assert mx.array_equal(attend(*call, "last"), expected)
        assert not mx.any(own.sums.array[: own.sums.kept])
    assert own.letters.array is None, "attention sends no letters"


def test_attention_waits_for_the_one_before_in_its_block(launched):
    own = workspace.Workspace(X)
    with workspace.within(own):
        y = attend((200,), 4, 2, "last")
        attend((200,), 4, 2, "last")
    first, second = (dict(zip(kernel.inputs, inputs)) for kernel, inputs, *_ in launched if kernel in attention_kernel.KERNEL.values())
    assert first["since"] is first["q"] and second["since"] is y and first["room"] is second["room"]


# ---- a model's passes


class Block:
    """Two products, and what is current meanwhile."""

    states = []

    def __init__(self, weight):
        self.weight, self.found, self.error = weight, [], None

    def __call__(self, x, step, last):
        self.found.append(workspace.current(x))
        if self.error:
            raise self.error
        return linear(x, self.weight, residual=linear(x, self.weight))


@pytest.fixture
def model(weight):
    norm = Norm(mx.ones((WIDTH,), BF16), 1e-6)
    return Decoder(weight, [Block(weight), Block(weight)], norm, weight, WIDTH, 64, BF16)


TOKENS = mx.array([[3, 5]])


def test_a_pass_has_one_workspace_and_another_pass_another(launched, model):
    for _ in range(2):
        model(TOKENS, None)
    (a, b), (c, d) = zip(*(block.found for block in model.blocks))
    assert a is b and c is d and a is not c
    sent = products(launched)
    assert fills(launched) == 2 and len(sent) == 8
    assert all(each["mail"] is sent[0]["mail"] for each in sent[:4]) and sent[4]["mail"] is not sent[0]["mail"]
    assert sent[1]["after"] is sent[1]["residual"], "the second of a block waits for the first"
    assert sent[2]["after"] is sent[2]["x"] and sent[3]["after"] is sent[3]["residual"]


def test_passes_in_turns_do_not_take_each_others_places(launched, model):
    for _ in zip(*(model.stages(TOKENS, None) for _ in range(2)), strict=True):
        assert workspace.current(X) is not workspace.current(X), "nothing is current while a caller looks around"
    (a, c), (b, d) = (block.found for block in model.blocks)
    assert a is b and c is d and a is not c and fills(launched) == 2


def test_a_block_that_fails_leaves_nothing_current(launched, model):
    model.blocks[1].error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        model(TOKENS, None)
    assert workspace.current(X) is not model.blocks[0].found[0]


def test_a_traced_pass_makes_its_places_with_each_run(model):
    """By launches that MLX can trace, whose results come from `near` through the places alone."""

    def lazily(kernel, inputs, outputs, template, groups, threads):
        taken = {linear_kernel.BYTES: ("mail", "after"), workspace.FILL: ("near",)}.get(kernel, ())
        given = dict(zip(kernel.inputs, inputs))
        seen = sum(given[name].reshape(-1)[0].astype(mx.int32) for name in taken)
        return [mx.zeros(shape, dtype) + mx.array(seen).astype(dtype) for shape, dtype in outputs]

    traced = mx.compile(lambda tokens: model(tokens, None))
    with launch.through(lazily):
        results = [int(traced(mx.array([[token, 5]]))[0, 0, 0]) for token in (3, 4, 3)]
        eager = int(model(TOKENS, None)[0, 0, 0])
    assert results == [12, 16, 12] and eager == 12, "four products each add the token, which comes by the places alone"
    in_trace, outside = model.blocks[0].found
    assert in_trace is not outside, "and it was traced once"


def test_mlx_makes_one_of_equal_operations_in_a_trace():
    """Why areas are not made by mx.full."""

    def peak(*values):
        made = mx.compile(lambda x: x + sum(mx.cumsum(mx.full((1 << 20,), v, mx.uint32))[0] for v in values))
        mx.eval(made(mx.ones((2,))))
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(made(mx.ones((2,))))
        return mx.get_peak_memory()

    assert peak(7, 7) < peak(7, 8)
