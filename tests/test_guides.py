"""What a request makes of the reasoning's marks, the budget and the grammar; and how the vocabulary is told to llguidance."""

import json
import threading

import pytest
import vocabularies
from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.engine.chat import ChatTemplate
from smelt.engine.errors import BadRequest
from smelt.engine.grammar import compiler
from smelt.engine.grammar.vocabulary import Names, QuotedNames, unescaped
from smelt.engine.guides import Guides
from smelt.engine.options import Options
from smelt.engine.parse import Format, choose
from smelt.engine.parse.formats import HERMES
from smelt.engine.parse.reasoning import CHANNEL, THINK
from smelt.engine.request import EFFORT_BUDGETS, Request, Shape, ToolUse
from smelt.engine.service import Service
from smelt.engine.tokenizer import Tokenizer, eos_ids
from tiny import BUILTIN

ASK = [{"role": "user", "content": "Hi"}]
YES = Shape("choice", ("yes",), "choice")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(BUILTIN)


@pytest.fixture(scope="module")
def guides(tokenizer):
    template = ChatTemplate.load(BUILTIN, tokenizer)
    return Guides(tokenizer, choose(template.tool_source, tokenizer), 4096, eos_ids(BUILTIN, tokenizer))


def request(**fields):
    return Request(messages=ASK, **fields)


def begins(guides, guide):
    mask = guide.mask()
    return {guides.tokenizer.token_bytes(t).decode("utf-8", "replace") for t in range(4096) if mask[t >> 3] >> (t & 7) & 1}


def test_nothing_is_guided_that_asks_for_nothing(guides):
    assert guides.make(request(n=2), "...assistant\n", None) == [None, None]
    assert guides.make(Request(text="a"), None, 5) == [None]


def test_a_prompt_that_opens_the_reasoning(guides):
    [opened] = guides.make(request(shape=YES), "...<think>\n", None)
    assert opened.reasoning.inside and opened.mask() == guides.spelling.but(guides.spelling.ends)
    [closed] = guides.make(request(shape=YES), "...<think>\n\n</think>\n\n", None)
    [told] = guides.make(request(shape=YES, template_kwargs={"enable_thinking": False}), "...assistant\n", None)
    [may] = guides.make(request(shape=YES), "...assistant\n", None)
    assert begins(guides, closed) == begins(guides, told) == begins(guides, may) - {"<think>"} != begins(guides, may)
    [plain] = guides.make(Request(text="a", shape=YES), None, None)
    assert begins(guides, plain) == begins(guides, told) and plain.reasoning is None


def test_the_closing_is_what_the_family_writes(guides, tokenizer):
    [made] = guides.make(request(), "...<think>\n", 0)
    assert tokenizer.decode(list(made.forced)) == "</think>\n\n"
    assert tokenizer.decode(guides.spelling.lead) == "\n"
    other = Guides(tokenizer, Format("hermes", HERMES.grammar, CHANNEL), 4096, {4089})
    assert other.spelling.opening == () and tokenizer.decode(other.spelling.closing) == "<channel|>"


def test_each_completion_has_its_own_place_in_the_grammar(guides, tokenizer):
    one, two = guides.make(request(shape=YES, n=2), "...assistant\n", None)
    for token in tokenizer.encode("yes"):
        one.take(token)
    assert one.ended and not two.ended and begins(guides, two)


def test_thousands_of_choices(guides, tokenizer):
    texts = tuple(f"x{i}" for i in range(5000))
    [made] = guides.make(request(shape=Shape("choice", texts, "choice")), "...", None)
    for token in tokenizer.encode("x4321"):
        mask = made.mask()
        assert mask[token >> 3] >> (token & 7) & 1
        made.take(token)
    assert made.ended


@pytest.mark.parametrize("text", ["start: start", "start: A\nA: /a/ & /b/"])
def test_a_grammar_that_nothing_fits_is_refused(guides, text):
    with pytest.raises(BadRequest, match="^grammar cannot be enforced: nothing fits it$"):
        guides.make(request(shape=Shape("lark", text, "grammar")), "...", None)


def test_the_tree_is_built_once_and_not_on_the_engines_thread(guides, monkeypatch):
    built = []
    original = compiler.tree
    monkeypatch.setattr(compiler, "tree", lambda *args: (built.append(threading.current_thread().name), original(*args))[1])
    made = Guides(guides.tokenizer, guides.format, 4096, {4089})
    assert not built
    for text in ("a", "b", "a"):
        made.make(request(shape=Shape("choice", (text,), "choice")), "...", None)
    assert built == [threading.current_thread().name] and len(made.grammars.compiled) == 2


# Budgets


def service(source, **options):
    made = Service(Options(**options))
    made.template = ChatTemplate({"default": source}, {})
    made.format = Format("hermes", HERMES.grammar, THINK)
    return made


PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"


@pytest.mark.parametrize("effort", EFFORT_BUDGETS)
def test_an_effort_is_a_budget_where_the_template_has_no_word_for_it(effort):
    asked = request(template_kwargs={"reasoning_effort": effort, "enable_thinking": True})
    assert service(PLAIN, reasoning_budget=7).budget_of(asked, "<think>") == EFFORT_BUDGETS[effort]
    assert service(PLAIN + "{{ reasoning_effort }}", reasoning_budget=7).budget_of(asked, "<think>") == 7


@pytest.mark.parametrize("effort", [["low"], {}, 3, None])
def test_an_effort_that_is_no_word_is_the_templates_to_understand(effort):
    asked = request(template_kwargs={"reasoning_effort": effort})
    assert service(PLAIN, reasoning_budget=7).budget_of(asked, "<think>") == 7


def test_the_request_goes_before_the_server():
    made = service(PLAIN, reasoning_budget=9)
    assert made.budget_of(request(), "<think>") == 9
    assert made.budget_of(request(reasoning_budget=-1), "<think>") is None
    assert made.budget_of(request(reasoning_budget=3), "<think>") == 3
    off = {"enable_thinking": False}
    assert made.budget_of(request(template_kwargs=off), "...<think>\n") == 0
    assert made.budget_of(request(template_kwargs=off), "...<think>\n\n</think>\n") is None
    assert service(PLAIN).budget_of(request(), "<think>") is None


# The vocabulary


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=12))
def test_forced_texts_are_spelled_exactly(kind, text, tmp_path_factory):
    made = names(kind, tmp_path_factory)
    raw = text.encode()
    assert b"".join(made.tokens[token] for token in made(raw)) == raw
    assert not made.unspoken.intersection(made(raw))


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"])
                    | st.sampled_from('"\\\n\t'), max_size=8))  # fmt: skip
def test_forced_texts_inside_a_string_are_spelled_exactly(kind, text, tmp_path_factory):
    made = names(kind, tmp_path_factory, QuotedNames)
    raw = text.encode()
    assert b"".join(made.tokens[token] for token in made(raw)) == raw


MADE = {}


def names(kind, factory, cls=Names):
    if (kind, cls) not in MADE:
        made = getattr(vocabularies, kind)()
        tokenizer = Tokenizer.load(vocabularies.folder(factory.mktemp("names"), made))
        more = ({tokenizer.id_of("</s>") or tokenizer.id_of("<|im_end|>")},) if cls is Names else ()
        MADE[kind, cls] = cls(tokenizer, tokenizer.vocab_size, tokenizer.special_ids, *more)
    return MADE[kind, cls]


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]) | st.sampled_from('"\\\n\t\b')))
def test_what_stands_in_a_string(text):
    written = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    assert "\x7f" in text or unescaped(written) == text.encode()
    assert unescaped(b'a"b') == unescaped(b"a\\") == unescaped(b"\n") == unescaped(b"\\u0041") == b""


# Schemas


LEAF = st.sampled_from([
    {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"const": 3}, {"enum": ["a", None]}, {}, True, False, 5,
    {"type": "string", "pattern": "^a+$"}, {"type": "number", "minimum": 0, "maximum": 2}, {"$ref": "#/$defs/x"}, {"not": {}},
    {"type": ["string", "null"]}, {"format": "date"}, {"type": "wrong"}, {"enum": []}, {"$ref": 5},
    {"type": "array", "minItems": 2},
])  # fmt: skip
SCHEMAS = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.integers(-1, 3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from(["a", 'b"', "c d"]), inner, max_size=2)},
            optional={"required": st.just(["a"]), "additionalProperties": st.booleans() | inner, "allOf": st.lists(inner)},
        ),
    ),
    max_leaves=5,
)  # fmt: skip
KINDS = ("hermes", "xml", "lfm2", "gemma-4", "llama-3")


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    from walks import House

    return {name: House(tmp_path_factory.mktemp("schemas"), name) for name in KINDS}


@settings(max_examples=100, deadline=None)
@given(schema=SCHEMAS.filter(lambda schema: isinstance(schema, dict)), kind=st.sampled_from(KINDS), strict=st.booleans())
def test_any_schema_is_followed_or_refused(houses, schema, kind, strict):
    """Never anything but a matcher or a BadRequest."""
    house = houses[kind]
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for asked in (
        request(shape=Shape("json", schema, "x")),
        request(tools=(tool,), tool_use=ToolUse(required=True, strict={"f"} if strict else ())),
        request(tools=(tool,), shape=Shape("json", schema, "x")),
    ):
        try:
            assert house.matcher(asked).compute_bitmask()
        except BadRequest as error:
            assert error.param and error.message
