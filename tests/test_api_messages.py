"""Anthropic's dialect against a scripted service: blocks in, events out, streamed and whole."""

import json

import falcon.testing
import pytest
from fakes import FakeService, finished, says, words
from smelt.api.app import create_app
from smelt.api.settings import Settings
from smelt.engine.errors import ContextExceeded, EngineFailed, NotReady, Overloaded
from smelt.engine.events import (
    Failed,
    Finished,
    Reasoning,
    Started,
    Text,
    ToolArguments,
    ToolClosed,
    ToolOpened,
    Usage,
)
from test_api_chat import tool_script

PATH = "/v1/messages"
ASK = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}


def client_of(script=words, settings=Settings(), **service):
    fake = FakeService(script=script, **service)
    return falcon.testing.TestClient(create_app(fake, settings)), fake


def post(client, **fields):
    return client.simulate_post(PATH, json=ASK | fields, query_string="beta=true")


def wire(result):
    assert result.status_code == 200
    made = []
    for block in result.text.strip().split("\n\n"):
        name, data = block.split("\n")
        made.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + made[-1]["type"]
    return made


def test_whole():
    client, service = client_of()
    body = post(client).json
    assert body["type"] == "message" and body["role"] == "assistant" and body["model"] == "m"
    assert body["content"] == [{"type": "text", "text": "Hello from the fake."}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert body["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 0},
    }
    assert service.requests[0].max_tokens == 50


def test_stream():
    got = wire(post(client_of()[0], stream=True))
    kinds = [event["type"] for event in got]
    deltas = ["content_block_delta"] * 5
    assert kinds == [
        "message_start",
        "ping",
        "content_block_start",
        *deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert got[0]["message"]["usage"]["input_tokens"] == 7 and got[0]["message"]["content"] == []
    assert got[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert got[-2]["usage"]["output_tokens"] == 5 and "timings" in got[-2]


def test_blocks_of_thinking_text_and_tools():
    client, _ = client_of(tool_script)
    body = post(client).json
    assert body["content"] == [
        {"type": "thinking", "thinking": "hmm", "signature": "smelt"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "call_b", "name": "time", "input": {}},
    ]
    assert body["stop_reason"] == "tool_use"
    got = wire(post(client, stream=True))
    starts = [event for event in got if event["type"] == "content_block_start"]
    stops = [event["index"] for event in got if event["type"] == "content_block_stop"]
    assert [event["index"] for event in starts] == stops == [0, 1, 2, 3]
    assert [event["content_block"]["type"] for event in starts] == ["thinking", "text", "tool_use", "tool_use"]
    signature = [event for event in got if event.get("delta", {}).get("type") == "signature_delta"]
    assert len(signature) == 1 and signature[0]["index"] == 0


def test_thinking_may_be_left_out():
    client, service = client_of(tool_script)
    thinking = {"type": "adaptive", "display": "omitted"}
    assert post(client, thinking=thinking).json["content"][0] == {
        "type": "thinking",
        "thinking": "",
        "signature": "smelt",
    }
    assert service.requests[0].template_kwargs == {"enable_thinking": True}


def test_one_call_at_a_time():
    body = post(client_of(tool_script)[0], tool_choice={"type": "auto", "disable_parallel_tool_use": True}).json
    assert [block["type"] for block in body["content"]] == ["thinking", "text", "tool_use"]


def test_a_call_that_was_cut_off():
    script = says(
        Started(1), ToolOpened(0, "a", "f"), ToolArguments(0, '{"x": '), ToolClosed(0), finished(reason="length")
    )
    body = post(client_of(script)[0]).json
    assert body["content"][0]["input"] == {"INVALID_JSON": '{"x": '} and body["stop_reason"] == "max_tokens"


def test_there_is_always_a_block():
    client, _ = client_of(says(Started(1), finished()))
    assert post(client).json["content"] == [{"type": "text", "text": ""}]
    assert [event["type"] for event in wire(post(client, stream=True))][2:4] == [
        "content_block_start",
        "content_block_stop",
    ]


def test_stop_sequences():
    done = Finished("stop", Usage(1, 1), stop="END")
    client, service = client_of(says(Started(1), Text("a"), done))
    body = post(client, stop_sequences=["END"]).json
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")
    assert service.requests[0].stop == ("END",)


def test_what_claude_code_sends():
    client, service = client_of()
    ephemeral = {"type": "ephemeral"}
    body = {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=abc12;"},
            {"type": "text", "text": "You are a tool.", "cache_control": ephemeral},
            {"type": "text", "text": "Be brief.", "cache_control": ephemeral},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look", "cache_control": ephemeral}]},
            {"role": "system", "content": [{"type": "text", "text": "A reminder."}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}],
                    },
                    {"type": "tool_result", "tool_use_id": "t2", "content": "no file", "is_error": True},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
        "tools": [
            {
                "name": "Read",
                "description": "reads",
                "input_schema": {"type": "object", "$schema": "x"},
                "cache_control": ephemeral,
            },
            {"name": "Later", "description": "", "input_schema": {"type": "object"}, "defer_loading": True},
        ],
        "metadata": {"user_id": "u"},
        "max_tokens": 32000,
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
    }
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01", "anthropic-beta": "a,b,c"}
    answer = client.simulate_post(PATH, json=body, headers=headers, query_string="beta=true")
    assert answer.status_code == 200, answer.text
    request = service.requests[0]
    assert request.messages == [
        {"role": "system", "content": "You are a tool.\nBe brief."},
        {"role": "user", "content": "Look"},
        {"role": "system", "content": "A reminder."},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "Read", "arguments": {"path": "a"}}}],
            "reasoning_content": "hm",
        },
        {"role": "tool", "content": "1\n2", "tool_call_id": "t1"},
        {"role": "tool", "content": "Error: no file", "tool_call_id": "t2"},
        {"role": "user", "content": "And now?"},
    ]
    function = {"name": "Read", "parameters": {"type": "object", "$schema": "x"}, "description": "reads"}
    assert request.tools == ({"type": "function", "function": function},)
    assert request.template_kwargs == {"reasoning_effort": "high", "enable_thinking": True, "thinking_budget": 2048}
    assert not request.continue_final


def test_a_last_message_of_the_assistant_is_continued():
    client, service = client_of()
    post(client, messages=[*ASK["messages"], {"role": "assistant", "content": "Well,"}])
    assert service.requests[0].continue_final


def test_count_tokens():
    client, service = client_of()
    ask = {"model": "m", "messages": ASK["messages"]}

    def count(**more):
        return client.simulate_post(PATH + "/count_tokens", json=ask | more, query_string="beta=true")

    assert count().json == {"input_tokens": len("<user>Hi\n")}
    tool = {"name": "f", "input_schema": {"type": "object"}}
    assert count(system="S", tools=[tool]).json == {"input_tokens": len("<tool>f\n<system>S\n<user>Hi\n")}
    assert not service.requests
    error = count(messages=[])
    assert error.status_code == 400 and error.json["type"] == "error"


WRONG = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]}, "source.type"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system[0]"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"name": "f", "input_schema": 5}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "f", "strict": "yes"}]}, "tools[0].strict"),
    ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"output_format": {"type": "json_schema", "schema": []}}, "output_format.schema"),
    ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [{"name": "f"}]}, "tool_choice"),
    ({"tool_choice": {"type": "tool"}, "tools": [{"name": "f"}]}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "on"}}, "thinking.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0]"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"temperature": "hot"}, "temperature"),
    ({"mcp_servers": []}, "mcp_servers"),
    ({"thread": {"type": "create"}}, "thread"),
    ({"compaction": {}}, "compaction"),
    ({"n": 2}, "'n'"),
]


@pytest.mark.parametrize(("fields", "word"), WRONG, ids=[f"{word}-{i}" for i, (_, word) in enumerate(WRONG)])
def test_what_is_wrong_is_named(fields, word):
    client, service = client_of()
    answer = post(client, **fields)
    assert answer.status_code == 400 and not service.requests
    assert answer.json["type"] == "error" and answer.json["error"]["type"] == "invalid_request_error"
    assert word in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("raised", "status", "kind"),
    [
        (ContextExceeded(5000, 4096), 400, "invalid_request_error"),
        (Overloaded("full"), 529, "overloaded_error"),
        (NotReady("loading"), 503, "overloaded_error"),
        (EngineFailed("step"), 500, "api_error"),
    ],
)
def test_errors(raised, status, kind):
    answer = post(client_of(raised)[0], stream=True)
    assert (answer.status_code, answer.json["error"]["type"]) == (status, kind)
    assert answer.json["error"]["message"].endswith(str(raised))
    got = wire(post(client_of(says(Started(1), Text("a"), Failed(raised)))[0], stream=True))
    details = {"error_code": raised.code, "param": raised.param}
    assert got[-1] == {"type": "error", "error": {"type": kind, "message": str(raised), "details": details}}


def test_other_errors_below_messages_have_its_envelope():
    client, _ = client_of(settings=Settings(api_key="k"))
    answer = post(client)
    assert answer.json == {
        "type": "error",
        "error": {
            "type": "authentication_error",
            "message": answer.json["error"]["message"],
            "details": {"error_code": "invalid_api_key", "param": None},
        },
        "request_id": answer.headers["request-id"],
    }
    client, _ = client_of()
    assert client.simulate_get(PATH).json["type"] == "error"
    assert client.simulate_get(PATH + "/batches").json["error"]["type"] == "not_found_error"


def test_reasoning_after_text_is_a_new_block():
    script = says(Started(1), Text("a"), Reasoning("b"), Text("c"), finished())
    kinds = [block["type"] for block in post(client_of(script)[0]).json["content"]]
    assert kinds == ["text", "thinking", "text"]
