"""Shapes, forced calls and budgets with the model that ships inside: a real server, the official SDKs as clients."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

import anthropic
import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field
from smelt.api.app import create_app
from smelt.api.serve import Server
from smelt.api.settings import Settings
from smelt.engine.options import Options
from smelt.engine.service import Service

SUM = [{"role": "user", "content": "What is 23 + 45?"}]
ANNA = [{"role": "user", "content": "Give me JSON: Anna is 23 years old."}]
THINK = {"enable_thinking": True}


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


class Colour(Enum):
    red = "red"
    green = "green"


class Paint(BaseModel):
    colour: Colour
    coats: list[bool] = Field(max_length=4)


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def function(name, **more):
    return {"type": "function", "function": {"name": name, "parameters": WEATHER, **more}}


@pytest.fixture(scope="module")
def house():
    service = Service(Options(ctx_size=2048, warmup=False))
    server = Server(create_app(service, settings := Settings(port=0, max_streams=32)), settings)
    loop = threading.Thread(target=server.run)
    loop.start()
    service.start()
    service.wait_ready(120)
    yield server, service
    server.drain(service.close)
    loop.join(10)


@pytest.fixture(scope="module")
def client(house):
    with openai.OpenAI(base_url=f"{house[0].url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(house):
    with anthropic.Anthropic(base_url=house[0].url, api_key="none", max_retries=0) as made:
        yield made


def ask(client, messages=ANNA, extra=None, **fields):
    fields = {"model": "builtin", "temperature": 0, "max_tokens": 200, **fields}
    return client.chat.completions.create(messages=messages, extra_body=extra, **fields)


def said(client, *args, **fields):
    return ask(client, *args, **fields).choices[0].message.content


# Shapes


def test_chat_parse(client):
    done = client.chat.completions.parse(
        model="m", messages=ANNA, response_format=Person, temperature=0, max_tokens=100
    )
    message = done.choices[0].message
    assert message.parsed.age == 23 and message.parsed.name.startswith("Anna")
    assert done.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("seed", range(3))
def test_chat_parse_streamed_at_a_high_temperature(client, seed):
    ask = {"model": "m", "messages": SUM, "response_format": Paint, "temperature": 1.5, "max_tokens": 300, "seed": seed}
    with client.chat.completions.stream(**ask, stop=None) as stream:
        kinds = {event.type for event in stream}
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert "content.delta" in kinds and isinstance(parsed, Paint)


def test_responses_parse(client):
    done = client.responses.parse(model="m", input=ANNA, text_format=Person, temperature=0, max_output_tokens=100)
    assert done.output_parsed.age == 23 and done.text.format.type == "json_schema"
    with client.responses.stream(model="m", input=ANNA, text_format=Person, temperature=0) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_parsed == done.output_parsed


def test_messages_parse(claude):
    done = claude.messages.parse(model="m", max_tokens=100, messages=ANNA, output_format=Person)
    assert done.parsed_output.age == 23 and done.stop_reason == "end_turn"
    with claude.messages.stream(model="m", max_tokens=100, messages=ANNA, output_format=Person) as stream:
        assert json.loads("".join(stream.text_stream))
        assert stream.get_final_message().parsed_output.age == 23


def test_any_object(client):
    done = ask(client, response_format={"type": "json_object"}, max_tokens=40, temperature=0.9, seed=4)
    text = done.choices[0].message.content
    assert text.startswith("{") and (done.choices[0].finish_reason == "length" or isinstance(json.loads(text), dict))


def test_extensions(client):
    assert re.fullmatch("(yes|no)!{2}", said(client, SUM, {"regex": "(yes|no)!{2}"}))
    assert said(client, SUM, {"choice": ["red", "redder", "green"]}) in ("red", "redder", "green")
    assert re.fullmatch(r"a/\d\d", said(client, SUM, {"grammar": 'start: "a/" D D\nD: /[0-9]/'}))
    done = client.completions.create(
        model="m", prompt=["1, 2,", "a b"], max_tokens=50, temperature=0.8, seed=1, extra_body={"regex": r"[x-z]{5}"}
    )
    assert all(re.fullmatch("[x-z]{5}", choice.text) for choice in done.choices)


def test_the_answer_is_continued_where_it_stands(client, claude):
    begun = [*ANNA, {"role": "assistant", "content": '{"name": "Bob"'}]
    shape = {"type": "json_schema", "json_schema": {"name": "p", "schema": Person.model_json_schema()}}
    assert Person.model_validate_json('{"name": "Bob"' + said(client, begun, response_format=shape)).name == "Bob"
    with pytest.raises(openai.BadRequestError, match="does not begin"):
        ask(client, [*ANNA, {"role": "assistant", "content": "Sure:"}], response_format=shape)


def test_a_schema_that_cannot_be_enforced_is_refused_by_name(client, claude):
    schema = {"type": "array", "items": {}, "uniqueItems": True}
    shape = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
            ask(client, response_format=shape, stream=stream)
        assert caught.value.param == "response_format.json_schema.schema"
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        client.responses.create(model="m", input="x", text={"format": {"type": "json_schema", "name": "p", "schema": schema}})
    assert caught.value.param == "text.format.schema"
    with pytest.raises(anthropic.BadRequestError, match="output_config.format.schema.*uniqueItems"):
        form = {"format": {"type": "json_schema", "schema": schema}}
        claude.messages.create(model="m", max_tokens=9, messages=SUM, output_config=form)
    for extra, word in ({"regex": "(?=a)b"}, "regex"), ({"grammar": "start: foo"}, "grammar"), ({"regex": "("}, "regex"):
        with pytest.raises(openai.BadRequestError, match=word) as caught:
            ask(client, extra=extra)
        assert caught.value.param == word


def test_logprobs_and_choices(client):
    done = ask(client, extra={"choice": ["yes", "no"]}, n=3, logprobs=True, top_logprobs=2, temperature=1)
    for choice in done.choices:
        assert choice.message.content in ("yes", "no")
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


def test_a_stop_string_ends_a_constrained_answer(client):
    done = ask(client, extra={"regex": "abcdefgh"}, stop=["def"])
    assert done.choices[0].message.content == "abc"


def test_the_same_beside_others(client):
    """Answers that the model is sure of: on a CPU, MLX's products of one row and of several differ in their last bits."""
    wishes = [
        {"messages": SUM, "extra": {"regex": "[0-9]+ [+] [0-9]+ = [0-9]+"}, "temperature": 0.8, "seed": 3},
        {"response_format": {"type": "json_object"}, "temperature": 0.7, "seed": 5, "max_tokens": 30},
        {"messages": SUM},
        {"messages": SUM, "extra": THINK | {"reasoning_budget_tokens": 9}},
        {"messages": SUM, "extra": THINK, "temperature": 0.8, "seed": 1},
    ]
    alone = [said(client, **wish) for wish in wishes]
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(lambda wish: said(client, **wish), wishes)) == alone


# Reasoning


def test_the_shape_begins_behind_the_reasoning(client):
    done = client.chat.completions.parse(
        model="m", messages=ANNA, response_format=Person, temperature=0, max_tokens=300, extra_body=THINK
    )
    message = done.choices[0].message
    assert message.reasoning_content and message.parsed.age == 23
    assert done.usage.completion_tokens_details.reasoning_tokens > 3


@pytest.mark.parametrize("budget", [0, 1, 4, 12])
@pytest.mark.parametrize("shape", [{}, {"regex": "[0-9]{2}"}])
def test_the_budget_is_kept_and_the_answer_goes_on(client, budget, shape):
    free = ask(client, SUM, THINK)
    done = ask(client, SUM, THINK | shape | {"reasoning_budget_tokens": budget})
    thought = done.choices[0].message.model_extra.get("reasoning_content") or ""
    assert done.usage.completion_tokens_details.reasoning_tokens <= budget
    assert free.choices[0].message.reasoning_content.startswith(thought) and bool(thought) == (budget > 2)
    assert "think" not in done.choices[0].message.content and done.choices[0].finish_reason == "stop"
    assert re.fullmatch("[0-9]{2}", done.choices[0].message.content) if shape else "68" in done.choices[0].message.content


def test_budgets_of_the_other_dialects(client, claude):
    thinking = {"type": "enabled", "budget_tokens": 10}
    done = claude.messages.create(model="m", max_tokens=100, messages=SUM, thinking=thinking)
    assert [block.type for block in done.content] == ["thinking", "text"] and "68" in done.content[1].text
    assert len(done.content[0].thinking) < 20
    done = client.responses.create(model="m", input=SUM, reasoning={"effort": "low"}, temperature=0)
    assert 10 < done.usage.output_tokens_details.reasoning_tokens < 1024


# Tools


def calls(done):
    return [(call.function.name, json.loads(call.function.arguments)) for call in done.choices[0].message.tool_calls or []]


def fit(made, names=("weather", "news")):
    assert all(name in names and 1 <= arguments["days"] <= 3 and arguments["city"] for name, arguments in made)


TOOLS = [function("weather"), function("news")]


def test_required_named_and_single_calls(client):
    made = calls(ask(client, SUM, tools=TOOLS, tool_choice="required"))
    assert made
    fit(made)
    named = {"type": "function", "function": {"name": "news"}}
    done = ask(client, SUM, tools=TOOLS, tool_choice=named, extra=THINK)
    assert done.choices[0].message.reasoning_content and done.choices[0].finish_reason == "tool_calls"
    [(name, _)] = calls(done)
    assert name == "news"
    both = [{"role": "user", "content": "weather in Oslo and in Bergen?"}]
    assert len(calls(ask(client, both, tools=TOOLS))) == 2
    assert len(calls(ask(client, both, tools=TOOLS, parallel_tool_calls=False))) == 1


def test_strict_tools_with_the_sdks_helper(client):
    tools = [function(name, strict=True) for name in ("weather", "news")]
    both = [{"role": "user", "content": "weather in Oslo and in Bergen?"}]
    done = client.chat.completions.parse(model="m", messages=both, tools=tools, temperature=0, max_tokens=200)
    fit([(call.function.name, call.function.parsed_arguments) for call in done.choices[0].message.tool_calls])
    bad = [function("weather", strict=True)]
    bad[0]["function"] = bad[0]["function"] | {"parameters": WEATHER | {"propertyNames": {}}}
    with pytest.raises(openai.BadRequestError, match="propertyNames") as caught:
        ask(client, SUM, tools=bad)
    assert caught.value.param == "tools[0]"


def test_calls_of_the_other_dialects(client, claude):
    tools = [{"type": "function", "name": name, "parameters": WEATHER, "strict": False} for name in ("weather", "news")]
    done = client.responses.create(model="m", input="Hi", tools=tools, tool_choice="required", temperature=0)
    made = [(item.name, json.loads(item.arguments)) for item in done.output if item.type == "function_call"]
    assert made and len(made) == len(done.output)
    fit(made)
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "news"}]}
    done = client.responses.create(model="m", input="Hi", tools=tools, tool_choice=allowed, temperature=0)
    assert {item.name for item in done.output} == {"news"}
    tools = [{"name": name, "input_schema": WEATHER} for name in ("weather", "news")]
    for choice, names in ({"type": "any"}, ("weather", "news")), ({"type": "tool", "name": "news"}, ("news",)):
        choice = choice | {"disable_parallel_tool_use": True}
        done = claude.messages.create(model="m", max_tokens=200, messages=SUM, tools=tools, tool_choice=choice)
        assert done.stop_reason == "tool_use" and [block.type for block in done.content] == ["tool_use"]
        fit([(block.name, block.input) for block in done.content], names)


def test_the_input_of_a_custom_tool_follows_its_grammar(client):
    form = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** \\"" /[a-z]{2,4}/ "\\"" LF "end"\n%import common.LF'}
    tools = [{"type": "custom", "name": "patch", "description": "d", "format": form}]
    choice = {"type": "custom", "name": "patch"}
    with client.responses.stream(model="m", input="Hi", tools=tools, tool_choice=choice, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.custom_tool_call_input.delta"]
        [call] = stream.get_final_response().output
    assert re.fullmatch('\\*\\*\\* "[a-z]{2,4}"\nend', call.input) and "".join(deltas) == call.input


def test_a_call_that_nobody_can_make_is_refused(client, claude):
    with pytest.raises(openai.BadRequestError, match="no tools"):
        ask(client, tool_choice="required")
    with pytest.raises(anthropic.BadRequestError, match="'other'.*weather"):
        tools, choice = [{"name": "weather", "input_schema": WEATHER}], {"type": "tool", "name": "other"}
        claude.messages.create(model="m", max_tokens=9, messages=SUM, tools=tools, tool_choice=choice)
