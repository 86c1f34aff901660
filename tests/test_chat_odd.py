"""Conversations that a template would choke on: rendered as documented, or refused with the reason."""

import json
import re

import chat_templates
import pytest
from chat_templates import HELLO, LONG, TOKENS, TOOLS, TURNS, WEATHER, calls, says, template
from hypothesis import given, settings
from hypothesis import strategies as st
from smelt.engine import chat_adapt, chat_messages
from smelt.engine.chat import ChatTemplate
from smelt.engine.errors import BadRequest

# Odd conversations that are rendered


def test_content_in_parts_is_one_string():
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c", {"text": "d"}]
    assert template("qwen").render([says("user", parts)]) == template("qwen").render([says("user", "a\nb\nc\nd")])


def test_missing_content_is_empty():
    none = [*HELLO, {"role": "assistant", "content": None, "tool_calls": None}, {"role": "user"}]
    assert template("qwen").render(none) == template("qwen").render([*HELLO, says("assistant"), says("user")])
    assert "None" not in template("plain").render(none)


def test_roles_by_their_other_names():
    assert template("qwen").render([says("developer", "D"), *HELLO]) == template("qwen").render(
        [says("system", "D"), *HELLO]
    )


@pytest.mark.parametrize("text", ['{"city": "Köln"}', ' {"city":"Köln"}'])
def test_arguments_as_a_text_become_the_object(text):
    assert template("qwen").render([*HELLO, calls(arguments=text)]) == template("qwen").render([*HELLO, calls()])


@pytest.mark.parametrize("text", ['{"city": "K', "[1]", "free text"])
def test_arguments_that_spell_no_object_stay_text(text):
    assert f'"arguments": {text}}}' in template("qwen").render([*HELLO, calls(arguments=text)])


def test_calls_without_their_wrapper_and_without_arguments():
    flat = says("assistant", "", tool_calls=[{"name": "weather"}])
    assert '{"name": "weather", "arguments": {}}' in template("qwen").render([*HELLO, flat])


def test_consecutive_roles_are_joined_where_the_template_wants_turns():
    messages = [says("user", "a"), says("user", "b"), says("assistant", "c"), says("assistant", "d"), says("user", "e")]
    assert template("mistral").render(messages) == "<s>[INST] a\n\nb[/INST] c\n\nd</s>[INST] e[/INST]"
    assert template("plain").render(messages).count("<|im_start|>user") == 3, "but only there"


def test_a_system_message_in_the_middle_opens_the_next_user_turn():
    messages = [*TURNS[:3], says("system", "Now be long."), says("user", "x")]
    assert template("mistral").render(messages).endswith("[INST] Be brief.\n\nNow be long.\n\nx[/INST]")
    assert "<|im_start|>system\nNow be long." in template("qwen").render(messages), (
        "where the template knows such, it stays"
    )


def test_a_system_message_that_no_user_turn_follows():
    messages = [*TURNS[:3], says("user", "x"), says("system", "Now be long.")]
    assert template("mistral").render(messages).endswith("[INST] Be brief.\n\nx\n\nNow be long.[/INST]")


def test_a_system_message_between_a_call_and_its_answer_goes_to_the_first():
    messages = [*TURNS[:2], *TOOLS[1:], says("system", "Late."), says("assistant", "Blue."), says("user", "x")]
    assert template("mistral").render(messages).endswith("[INST] Be brief.\n\nLate.\n\nx[/INST]")


def test_a_template_without_a_system_role():
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + chat_templates.PLAIN
    )
    prompt = ChatTemplate({"default": source}, TOKENS).render(TURNS)
    assert prompt.startswith("<|im_start|>user\nBe brief.\n\n Hi <b>")


def test_a_system_message_that_the_template_would_drop():
    source = "{% for m in messages if m.role != 'system' or loop.first %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    made = ChatTemplate({"default": source}, TOKENS)
    assert made.render([*TURNS, says("system", "Late.")]).endswith("[user:Bye\n\n\nLate.]")


def test_content_for_templates_that_read_only_parts():
    assert template("parts").render(TURNS).startswith("SYSTEM: Be brief.<end>USER:  Hi <b>")


def test_foreign_call_ids_for_mistral():
    messages = [
        HELLO[0],
        calls(ident="call_123-456"),
        says("tool", "r", tool_call_id="call_123-456"),
        says("assistant", "x"),
    ]
    prompt = template("mistral").render(messages)
    ids = re.findall(r'id": "([^"]*)"', prompt)
    assert len(ids) == 2 and len(set(ids)) == 1 and re.fullmatch("[a-z0-9]{9}", ids[0])
    assert template("mistral").render(messages[:3]) in prompt, (
        "the same ids in the next turn: the prefix cache needs that"
    )
    without = [HELLO[0], calls(ident=None), says("tool", "r")]
    ids = re.findall(r'id": "([^"]*)"', template("mistral").render(without))
    assert len(ids) == 2 and len(set(ids)) == 1


def test_a_tool_without_a_description():
    source = "{% for tool in tools %}{{ tool.function.name + tool.function.description }}{% endfor %}{{ messages[0].content }}"
    assert ChatTemplate({"default": source}, TOKENS).render(HELLO, tools=[{"name": "f"}]) == "fHello"


def test_the_callers_messages_stay_as_they_are():
    messages = json.loads(json.dumps(LONG))
    template("mistral").render(messages, tools=[WEATHER])
    assert messages == LONG


# Odd conversations that are refused


@pytest.mark.parametrize(
    ("messages", "message", "param"),
    [
        ([], "messages is empty; it needs at least one message", "messages"),
        ("hi", "messages is the string 'hi'; it must be an array", "messages"),
        ({"role": "user"}, "messages is an object; it must be an array", "messages"),
        (None, "messages is missing", "messages"),
        ([1], r"messages\[0\] is the number 1; it must be an object", "messages[0]"),
        ([{"content": "x"}], r"messages\[0\].role is missing", "messages[0].role"),
        ([{"role": 5}], r"messages\[0\].role is the number 5", "messages[0].role"),
        ([says("user", 5)], r"messages\[0\].content is the number 5", "messages[0].content"),
        ([says("user", {"text": "x"})], r"messages\[0\].content is an object", "messages[0].content"),
        ([says("user", [5])], r"messages\[0\].content\[0\] is the number 5", "messages[0].content[0]"),
        ([says("user", [{"type": "text"}])], r"content\[0\].text is missing", "messages[0].content[0].text"),
        (
            [says("user", [{"type": "text", "text": 5}])],
            r"content\[0\].text is the number 5",
            "messages[0].content[0].text",
        ),
        (
            [says("user", ["a", {"type": "image_url", "image_url": {"url": "data:"}}])],
            r"messages\[0\].content\[1\] is of the type 'image_url', and this model reads text only",
            "messages[0].content[1]",
        ),
        (
            [says("user", [{"type": "input_audio"}])],
            "'input_audio', and this model reads text only",
            "messages[0].content[0]",
        ),
        ([says("user", [{"type": "riddle"}])], "type is 'riddle'; parts of the type 'text'", "messages[0].content[0]"),
        ([says("user", [{"type": 7}])], "type is the number 7", "messages[0].content[0]"),
        ([*HELLO, says("assistant", tool_calls="x")], "it must be an array of calls", "messages[1].tool_calls"),
        ([*HELLO, says("assistant", tool_calls=[5])], "must be an object with function", "messages[1].tool_calls[0]"),
        (
            [*HELLO, says("assistant", tool_calls=[{"function": {}}])],
            "function.name is missing; it must be a name",
            "messages[1].tool_calls[0].function.name",
        ),
        ([*HELLO, calls(arguments=[1])], "arguments is an array", "messages[1].tool_calls[0].function.arguments"),
        ([says("user", x={1, 2})], "has a set, which JSON cannot hold", "messages[0].x"),
    ],
)
def test_wrong_messages_are_refused_by_name(messages, message, param):
    with pytest.raises(BadRequest, match=message) as caught:
        template("qwen").render(messages)
    assert caught.value.param == param and caught.value.status == 400


@pytest.mark.parametrize(
    "tools", ["x", {"name": "f"}, [5], [{}], [{"function": {"name": ""}}], [{"function": {"name": 5}}]]
)
def test_wrong_tools_are_refused_by_name(tools):
    with pytest.raises(BadRequest, match="tool") as caught:
        template("qwen").render(HELLO, tools=tools)
    assert caught.value.param.startswith("tools")


def test_the_templates_own_reason_is_passed_on():
    with pytest.raises(BadRequest, match="refuses this conversation: .*roles must alternate") as caught:
        template("mistral").render([says("assistant", "a"), says("user", "b")])
    assert caught.value.param == "messages"
    with pytest.raises(BadRequest, match="Only user and assistant roles"):
        template("mistral").render(
            [says("user", "a"), says("assistant", "b", tool_calls=[]), says("user", "c"), says("wizard", "d")]
        )


def test_template_variables_of_any_name():
    assert template("qwen").render(HELLO, source=1, self=2, variables=3) == template("qwen").render(HELLO)
    with pytest.raises(BadRequest, match="the template variable messages is the conversation itself"):
        template("qwen").render(HELLO, **{"messages": []})
    with pytest.raises(BadRequest, match="thing has a set"):
        template("qwen").render(HELLO, thing={1})


def test_only_an_assistants_text_can_be_continued():
    with pytest.raises(BadRequest, match="is of the role 'user'; only an assistant's text"):
        template("qwen").render(HELLO, continue_final=True)
    with pytest.raises(BadRequest, match="calls tools; only an assistant's text"):
        template("qwen").render([*HELLO, calls()], continue_final=True)
    with pytest.raises(BadRequest, match="drops the last message"):
        ChatTemplate({"default": "{{ messages[0].content }}"}, TOKENS).render(
            [*HELLO, says("assistant", "x")], continue_final=True
        )


def test_nesting_without_end_is_refused():
    deep = value = {}
    for _ in range(5000):
        value["x"] = value = {}
    for messages in ([says("user", extra=deep)], [*HELLO, calls(arguments=deep)]):
        with pytest.raises(BadRequest, match="nested more than 100 deep"):
            template("qwen").render(messages)
    text = "[" * 100_000
    assert text in template("qwen").render([*HELLO, calls(arguments=text)])


# Anything at all

JUNK = [None, 5, -1.5, True, "", "x", "\ud800", [], {}, ["a"], [None], {"type": "text"}, [{"type": "text", "text": "t"}],
        [{"type": "image_url"}], "system", "tool", "assistant", "user", "a" * 1000, float("nan"), {"a": {"b": []}}]  # fmt: skip
KEYS = [
    "role",
    "content",
    "tool_calls",
    "tool_call_id",
    "name",
    "reasoning_content",
    "function",
    "arguments",
    "id",
    "type",
    "text",
    "x",
]


def places(value):
    """Every container in a conversation."""
    yield value
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            yield from places(item)


def mutate(messages, random):
    place = random.choice(list(places(messages)))
    junk = json.loads(json.dumps(random.choice(JUNK)))
    if isinstance(place, dict):
        if random.random() < 0.3 and place:
            place.pop(random.choice(sorted(place)))
        else:
            place[random.choice(KEYS)] = junk
    elif random.random() < 0.3 and place:
        place.pop(random.randrange(len(place)))
    elif place and random.random() < 0.5:
        place.append(json.loads(json.dumps(random.choice(place))))
    else:
        place.insert(random.randrange(len(place) + 1), junk)


@settings(max_examples=1000, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(chat_templates.ALL)), st.integers(1, 6))
def test_random_conversations_give_a_prompt_or_a_bad_request(random, name, count):
    messages, tools = json.loads(json.dumps([TURNS[0], *LONG])), [json.loads(json.dumps(WEATHER))]
    for _ in range(count):
        mutate(random.choice([messages, messages, messages, tools]), random)
    try:
        made = template(name).render(messages, tools=tools, continue_final=random.random() < 0.2)
    except BadRequest as error:
        assert error.message and error.param
    else:
        assert isinstance(made, str)


def test_short_ids_keep_good_ones():
    assert chat_adapt.short_id("abcdefghi") == "abcdefghi"
    assert chat_adapt.short_id("abcdefgh-") != chat_adapt.short_id("abcdefgh_")


def test_normalising_twice_changes_nothing():
    once = chat_messages.normalise(LONG)
    assert chat_messages.normalise(once) == once
