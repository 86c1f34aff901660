"""Conversations to prompts as transformers renders them; where templates come from; what Smelt does without one."""

import json

import chat_templates
import pytest
import vocabularies
from chat_templates import HELLO, LONG, TOKENS, TOOLS, TURNS, WEATHER, says, template
from smelt.engine import chat_formats, chat_jinja
from smelt.engine.chat import ChatTemplate, ends_in_reasoning
from smelt.engine.errors import BadRequest
from smelt.engine.tokenizer import Tokenizer
from smelt.engine.tokenizer_files import TokenizerError


@pytest.fixture(scope="module")
def transformers():
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=vocabularies.byte_level(), **TOKENS)

    def render(source, messages, **options):
        return made.apply_chat_template(messages, chat_template=source, tokenize=False, **options)

    return render


# As transformers does it


@pytest.mark.parametrize("name", ["qwen", "llama", "gemma", "mistral", "nemotron", "plain"])
@pytest.mark.parametrize("generate", [True, False])
def test_turns_as_transformers_renders_them(transformers, name, generate):
    source = chat_templates.ALL[name]
    for messages in (HELLO, TURNS, TURNS[1:]):
        expected = transformers(source, messages, add_generation_prompt=generate)
        assert template(name).render(messages, add_generation_prompt=generate) == expected


@pytest.mark.parametrize("name", ["qwen", "llama", "mistral", "nemotron"])
def test_tools_as_transformers_renders_them(transformers, name):
    source = chat_templates.ALL[name]
    for messages in (HELLO, TOOLS, LONG):
        expected = transformers(source, messages, tools=[WEATHER], add_generation_prompt=True)
        assert template(name).render(messages, tools=[WEATHER]) == expected
        assert "weather" in expected


@pytest.mark.parametrize("thinking", [None, True, False])
def test_template_variables(transformers, thinking):
    variables = {} if thinking is None else {"enable_thinking": thinking}
    messages = [*HELLO, says("assistant", "x", reasoning_content="\nhm\n")]
    for given_messages in (HELLO, messages):
        expected = transformers(chat_templates.QWEN, given_messages, add_generation_prompt=True, **variables)
        assert template("qwen").render(given_messages, **variables) == expected


def test_past_reasoning_by_all_its_names(transformers):
    expected = template("qwen").render([*HELLO, says("assistant", "x", reasoning_content="hm")])
    assert "<think>\nhm\n</think>" in expected
    for name in ("reasoning", "thinking"):
        assert template("qwen").render([*HELLO, says("assistant", "x", **{name: "hm"})]) == expected
    parts = [{"type": "text", "text": "hm"}]
    assert template("qwen").render([*HELLO, says("assistant", "x", reasoning_content=parts)]) == expected


@pytest.mark.parametrize("name", ["qwen", "llama", "gemma", "mistral", "nemotron", "plain"])
@pytest.mark.parametrize("text", ["The answer is", "The answer is ", "  Well,\n", "x"])
def test_continuing_the_last_message_as_transformers_does(transformers, name, text):
    messages = [*HELLO, says("assistant", text)]
    expected = transformers(chat_templates.ALL[name], messages, continue_final_message=True)
    assert template(name).render(messages, continue_final=True) == expected


def test_an_empty_message_can_be_continued():
    assert (
        template("qwen")
        .render([*HELLO, says("assistant", "")], continue_final=True)
        .endswith("<|im_start|>assistant\n")
    )


SNIPPETS = [
    "{{ x | tojson }}|{{ x | tojson(indent=2) }}|{{ x | tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ x | tojson(ensure_ascii=true) }}",
    "{%- for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "  {% if true %}\n  a\n  {% endif %}\n  b",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "{{ bos_token }}{{ eos_token }}{{ undefined_thing }}{{ documents is none }}{{ tools is none }}",
    "{{ strftime_now('%Y') | length }}",
    "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ dict(a=1) }}",
    "{{ messages[0].content.split('l') | join('-') }}{{ messages[0]['content'][::-1] }}",
]


@pytest.mark.parametrize("source", SNIPPETS)
def test_what_templates_use(transformers, source):
    x = {"b": "<é> & 'q'", "a": [1, 2.5, None, True]}
    assert ChatTemplate({"default": source}, TOKENS).render(HELLO, x=x) == transformers(source, HELLO, x=x)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'x'}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_holds(source):
    with pytest.raises(BadRequest, match="refuses this conversation"):
        ChatTemplate({"default": source}, TOKENS).render(HELLO)


# Where templates come from


def load(folder):
    return ChatTemplate.load(folder, Tokenizer.load(folder))


def test_a_file_of_its_own_goes_first(tmp_path):
    library = vocabularies.byte_level()
    folder = vocabularies.folder(tmp_path, library, chat_template_json={"chat_template": "older"})
    assert load(folder).source == "older"
    vocabularies.folder(folder, template="config")
    assert load(folder).source == "config"
    (folder / "chat_template.jinja").write_text("file")
    made = load(folder)
    assert made.source == "file" and made.render(HELLO) == "file" and not made.builtin and made.name == "default"


def test_named_templates(tmp_path):
    named = [{"name": name, "template": "{{ '" + name + "' }}"} for name in ("default", "tool_use", "rag")]
    made = load(vocabularies.folder(tmp_path, vocabularies.byte_level(), template=named))
    assert made.render(HELLO) == "default"
    assert made.render(HELLO, tools=[WEATHER]) == "tool_use" == made.render(TOOLS)
    assert made.render(HELLO, documents=[{"title": "a", "text": "b"}]) == "rag"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("other")
    assert load(tmp_path).render(HELLO, documents=[{}]) == "other"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "the chat template 'default' cannot be read"),
        ("{{ x | no_such_filter }}", "the chat template 'default' cannot be read"),
        ([{"name": 1}], "must be a string, or a list of objects"),
        (["x"], "must be a string, or a list of objects"),
    ],
)
def test_broken_templates_are_found_when_loading(tmp_path, template, message):
    with pytest.raises(TokenizerError, match=message):
        load(vocabularies.folder(tmp_path, vocabularies.byte_level(), template=template))


BUILTIN = {
    "chatml": ("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", ("<|im_start|>", "<|im_end|>")),
    "llama-3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "gemma": (
        "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "gemma-4": ("<s><|turn>user\nHello<turn|>\n<|turn>model\n", ("<|turn>", "<turn|>")),
    "mistral": ("<s>[INST] Hello[/INST]", ("[INST]", "[/INST]")),
    "mistral-system": ("<s>[INST]Hello[/INST]", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
}


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_formats_by_the_vocabulary(tmp_path, name):
    expected, marks = BUILTIN[name]
    library = vocabularies.byte_level(special=("<s>", "</s>", *marks))
    made = load(vocabularies.folder(tmp_path, library, config=TOKENS))
    assert (made.name, made.builtin) == (name, True)
    assert made.render(HELLO) == expected
    tokenizer = Tokenizer.load(tmp_path)
    prompt = made.render([*TURNS, says("assistant", "So."), says("tool", "r"), says("user", "x")], tools=[WEATHER])
    for text in ("Be brief.", "<tools>", "weather", "Yes?", "Bye", "So.", "\nr"):
        assert text in prompt
    ids = tokenizer.encode_prompt(prompt, rendered_by_template=True)
    assert {tokenizer.id_of(mark) for mark in marks} <= set(ids)
    assert ids.count(tokenizer.bos_id) == ("<s>" in expected)


def test_built_in_formats_name_what_is_known():
    assert {name for name, *_ in chat_formats.FORMATS} == set(BUILTIN)


def test_a_built_in_format_by_the_architecture(tmp_path):
    folder = vocabularies.folder(
        tmp_path, vocabularies.byte_fallback(), config=TOKENS, config_json={"model_type": "mistral"}
    )
    assert (
        load(folder).render([*HELLO, says("assistant", "Hi"), says("user", "x")])
        == "<s>[INST] Hello[/INST] Hi</s>[INST] x[/INST]"
    )


def test_no_format_at_all_is_the_requests_fault(tmp_path):
    made = load(vocabularies.folder(tmp_path, vocabularies.byte_fallback(), config_json={"model_type": ["odd"]}))
    assert made.name is None and made.source == "" and not made.supports_tools
    with pytest.raises(BadRequest, match="no chat template.*chatml, llama-3.*use completions"):
        made.render(HELLO)


# What a template knows


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("qwen", (True, True, True, True)),
        ("llama", (True, True, True, False)),
        ("gemma", (False, False, False, False)),
        ("mistral", (True, True, True, False)),
        ("nemotron", (True, True, True, True)),
        ("plain", (False, False, False, False)),
    ],
)
def test_abilities(name, known):
    made = chat_jinja.abilities(chat_templates.ALL[name])
    assert (made.tools, made.results, made.calls, made.thinking) == known
    assert (template(name).supports_tools, template(name).supports_reasoning) == (known[0], known[3])


def test_whether_a_prompt_ends_in_reasoning():
    assert ends_in_reasoning(template("nemotron").render(HELLO))
    assert not ends_in_reasoning(template("qwen").render(HELLO, enable_thinking=False))
    assert not ends_in_reasoning(template("qwen").render(HELLO, enable_thinking=True))
    opened = chat_templates.QWEN + "{% if enable_thinking %}{{ '<think>\\n' }}{% endif %}"
    made = ChatTemplate({"default": opened}, TOKENS)
    assert ends_in_reasoning(made.render(HELLO, enable_thinking=True)) and not ends_in_reasoning(made.render(HELLO))


def test_a_template_without_tools_gets_a_catalogue():
    prompt = template("plain").render(TURNS, tools=[WEATHER])
    system = prompt.split("<|im_end|>")[0]
    assert system.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert json.dumps(WEATHER, ensure_ascii=False) in system
    assert '<tool_call>\n{"name": <function-name>' in system
    assert template("plain").render(HELLO, tools=[WEATHER]).startswith("<|im_start|>system\n# Tools")


def test_calls_and_results_become_text_where_the_template_knows_neither():
    prompt = template("gemma").render([*TOOLS, says("tool", [{"type": "text", "text": "second"}])])
    assert (
        '<start_of_turn>model\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><end_of_turn>'
        in prompt
    )
    assert (
        '<start_of_turn>user\n<tool_response>\n{"sky": "blue"}\n</tool_response>\n'
        "<tool_response>\nsecond\n</tool_response><end_of_turn>" in prompt
    )
