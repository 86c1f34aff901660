"""The Responses dialect against a scripted service: items in, events and items out, chains, and what is kept."""

import json

import falcon.testing
import pytest
from fakes import FakeService, finished, says, words
from smelt.api.app import create_app
from smelt.api.settings import Settings
from smelt.engine.errors import ContextExceeded, EngineFailed, NotReady, Overloaded
from smelt.engine.events import Failed, Reasoning, Started, Text, ToolArguments, ToolClosed, ToolOpened
from test_api_chat import tool_script

PATH = "/v1/responses"
ASK = {"model": "m", "input": "Hi"}
USER = {"role": "user", "content": "Hi"}
FUNCTION = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SMELT_HOME", str(tmp_path))
    return tmp_path


def client_of(script=words, settings=Settings(), **service):
    fake = FakeService(script=script, **service)
    return falcon.testing.TestClient(create_app(fake, settings)), fake


def post(client, path=PATH, **fields):
    return client.simulate_post(path, json={k: v for k, v in (ASK | fields).items() if v is not ...})


def wire(result):
    assert result.status_code == 200 and result.headers["content-type"].startswith("text/event-stream")
    blocks, made = result.text.strip().split("\n\n"), []
    assert blocks[-1] == "data: [DONE]"
    for block in blocks[:-1]:
        name, data = block.split("\n")
        made.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + made[-1]["type"]
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    return made


def test_every_event_is_what_the_sdk_says_it_is():
    from openai.types.responses import ResponseStreamEvent
    from pydantic import TypeAdapter

    client, kind = client_of(tool_script)[0], TypeAdapter(ResponseStreamEvent)
    tools = [FUNCTION, {"type": "custom", "name": "time"}, {"type": "web_search"}]
    for fields in ({}, {"tools": tools, "top_logprobs": 1, "reasoning": {"effort": "low", "summary": "auto"}}):
        for event in wire(post(client, stream=True, **fields)):
            kind.validate_python(event)


def steady(value):
    """Without what differs from one answer to the next."""
    if isinstance(value, dict):
        return {k: steady(v) for k, v in value.items() if k not in ("id", "item_id", "created_at", "completed_at")}
    return [steady(item) for item in value] if isinstance(value, list) else value


def test_whole():
    client, service = client_of()
    body = post(client, max_output_tokens=9, temperature=0.5, metadata={"a": "b"}).json
    assert body["object"] == "response" and body["status"] == "completed" and body["model"] == "m"
    assert body["id"].startswith("resp_") and body["error"] is None and body["incomplete_details"] is None
    (message,) = body["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    text = {"type": "output_text", "text": "Hello from the fake.", "annotations": [], "logprobs": []}
    assert message["content"] == [text]
    assert body["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }
    assert (body["temperature"], body["max_output_tokens"], body["metadata"]) == (0.5, 9, {"a": "b"})
    assert body["timings"]["predicted_n"] == 5 and body["store"] is True
    request = service.requests[0]
    assert request.messages == [USER] and request.max_tokens == 9 and not request.continue_final


TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * 5,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def test_stream():
    got = wire(post(client_of()[0], stream=True))
    assert [event["type"] for event in got] == TEXT_EVENTS
    assert got[0]["response"]["status"] == "in_progress" and got[0]["response"]["output"] == []
    assert got[2]["item"]["status"] == "in_progress" and got[2]["item"]["content"] == []
    assert "".join(event.get("delta", "") for event in got) == "Hello from the fake." == got[9]["text"]
    assert got[-1]["response"]["output"] == [got[-2]["item"]]
    assert len({event["item_id"] for event in got if "item_id" in event}) == 1


def test_reasoning_text_and_calls_in_their_order():
    client, _ = client_of(tool_script)
    got = wire(post(client, stream=True, tools=[FUNCTION]))
    kinds = [event["type"].removeprefix("response.") for event in got]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    done = [event["item"] for event in got if event["type"].endswith("output_item.done")]
    assert [event["output_index"] for event in got if event["type"].endswith("item.added")] == [0, 1, 2, 3]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call", "function_call"]
    assert done[0]["summary"] == [{"type": "summary_text", "text": "hmm"}]
    assert (done[2]["call_id"], done[2]["name"], done[2]["arguments"]) == ("call_a", "weather", '{"city":"Oslo"}')
    whole = post(client, tools=[FUNCTION]).json
    assert steady(whole) == steady(got[-1]["response"])


def test_a_custom_tool_is_offered_as_a_function_and_called_as_itself():
    script = says(
        Started(1),
        ToolOpened(0, "call_a", "apply_patch"),
        ToolArguments(0, '{"input": "*** Begin'),
        ToolArguments(0, ' Patch\\n"}'),
        ToolClosed(0),
        finished(reason="tool_calls"),
    )
    client, service = client_of(script)
    form = {"type": "grammar", "syntax": "lark", "definition": "start: X"}
    got = wire(post(client, stream=True, tools=[{"type": "custom", "name": "apply_patch", "format": form}]))
    function = service.requests[0].tools[0]["function"]
    assert (
        function["parameters"]["properties"] == {"input": {"type": "string"}} and "start: X" in function["description"]
    )
    kinds = [event["type"].removeprefix("response.") for event in got[3:-1]]
    assert kinds == ["custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"]
    item = got[-1]["response"]["output"][0]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "*** Begin Patch\n")
    result = {"type": "custom_tool_call_output", "call_id": "call_a", "output": [{"type": "input_text", "text": "ok"}]}
    post(client, input=[USER, item, result])
    call = service.requests[1].messages[1]["tool_calls"][0]["function"]
    assert call == {"name": "apply_patch", "arguments": {"input": "*** Begin Patch\n"}}
    assert service.requests[1].messages[2] == {"role": "tool", "content": "ok", "tool_call_id": "call_a"}


def test_namespaces_and_tools_that_come_as_items():
    script = says(Started(1), ToolOpened(0, "c", "fs__read"), ToolArguments(0, "{}"), ToolClosed(0), finished())
    client, service = client_of(script)
    group = {"type": "namespace", "name": "fs", "description": "files", "tools": [FUNCTION | {"name": "read"}]}
    later = {"type": "additional_tools", "role": "developer", "tools": [group]}
    others = [{"type": "web_search"}, {"type": "tool_search", "execution": "client"}]
    body = post(client, input=[USER, later], tools=[FUNCTION, *others]).json
    assert [tool["function"]["name"] for tool in service.requests[0].tools] == ["weather", "fs__read"]
    item = body["output"][0]
    assert (item["name"], item["namespace"]) == ("read", "fs")
    assert [tool["type"] for tool in body["tools"]] == ["function", "web_search", "tool_search"]
    post(client, input=[USER, item, {"type": "function_call_output", "call_id": "c", "output": "x"}])
    assert service.requests[1].messages[1]["tool_calls"][0]["function"]["name"] == "fs__read"


def test_tool_choice():
    client, service = client_of()
    tools = [FUNCTION, FUNCTION | {"name": "time"}]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}]}
    for choice, names in (("auto", ["weather", "time"]), ("none", []), (allowed, ["time"])):
        assert post(client, tools=tools, tool_choice=choice).json["tool_choice"] == choice
        assert [tool["function"]["name"] for tool in service.requests[-1].tools] == names


def test_one_call_at_a_time():
    body = post(client_of(tool_script)[0], parallel_tool_calls=False).json
    assert [item["type"] for item in body["output"]] == ["reasoning", "message", "function_call"]


def test_what_codex_sends():
    client, service = client_of()
    body = {
        "model": "m",
        "instructions": "You are Codex.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look"}], "id": "msg_1"},
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "content": None,
                "encrypted_content": "foreign",
            },
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "name": "shell", "arguments": '{"cmd":["ls"]}', "call_id": "c1"},
            {"type": "function_call_output", "call_id": "c1", "output": "a.py"},
        ],
        "tools": [FUNCTION | {"strict": False}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "client_metadata": {"x": "y"},
        "text": {"verbosity": "low"},
    }
    assert wire(client.simulate_post(PATH, json=body))[-1]["type"] == "response.completed"
    request = service.requests[0]
    call = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": {"cmd": ["ls"]}}}
    assert request.messages == [
        {"role": "system", "content": "You are Codex."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "a.py", "tool_call_id": "c1"},
    ]
    assert request.template_kwargs == {"reasoning_effort": "medium", "enable_thinking": True}


def test_effort():
    client, service = client_of(settings=Settings(enable_thinking=True))
    post(client, reasoning={"effort": "none"})
    post(client, reasoning={"summary": "auto"}, chat_template_kwargs={"x": 1})
    assert service.requests[0].template_kwargs == {"enable_thinking": False}
    assert service.requests[1].template_kwargs == {"enable_thinking": True, "x": 1}


def test_encrypted_reasoning_comes_back_as_reasoning():
    client, service = client_of(tool_script)
    output = post(client, include=["reasoning.encrypted_content"], store=False).json["output"]
    output[0]["summary"] = []
    results = [{"type": "function_call_output", "call_id": call, "output": "x"} for call in ("call_a", "call_b")]
    assert post(client, input=[USER, *output, *results]).status_code == 200
    message = service.requests[1].messages[1]
    assert message["reasoning_content"] == "hmm" and message["content"] == "I look." and len(message["tool_calls"]) == 2
    assert "encrypted_content" in output[0] and post(client).json["output"][0]["encrypted_content"] is None


def test_an_assistants_last_message_is_continued():
    client, service = client_of()
    post(client, input=[USER, {"role": "assistant", "content": "Well,"}])
    assert service.requests[0].continue_final


def test_cut_off():
    script = says(Started(1), Text("a"), finished(reason="length"))
    got = wire(post(client_of(script)[0], stream=True))
    last = got[-1]["response"]
    assert got[-1]["type"] == "response.incomplete" and last["status"] == "incomplete"
    assert last["incomplete_details"] == {"reason": "max_output_tokens"} and last["output"][0]["status"] == "incomplete"
    script = says(Started(1), ToolOpened(0, "a", "f"), ToolArguments(0, '{"x": '), finished(reason="length"))
    item = post(client_of(script)[0]).json["output"][0]
    assert (item["arguments"], item["status"]) == ('{"x": ', "incomplete")


def test_there_is_always_a_message():
    body = post(client_of(says(Started(1), finished()))[0]).json
    assert body["output"][0]["content"][0]["text"] == ""


def test_logprobs():
    client, service = client_of()
    body = post(client, include=["message.output_text.logprobs"], top_logprobs=2).json
    scores = body["output"][0]["content"][0]["logprobs"]
    assert len(scores) == 5 and scores[0]["token"] == "Hello" and len(scores[0]["top_logprobs"]) == 2
    assert service.requests[0].sampling["top_logprobs"] == 2


# Errors

CALL_OUTPUT = {"type": "function_call_output", "call_id": "none", "output": "x"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
WRONG = [
    ({"input": ...}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": ["x"]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "computer_call", "id": "x"}]}, "input[0].type"),
    ({"input": [USER, CALL_OUTPUT]}, "input[1].call_id"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": ""}]}, "input[0].name"),
    ({"input": [{"type": "reasoning", "summary": ["x"]}]}, "input[0].summary[0]"),
    ({"input": [{"type": "compaction"}]}, "input[0].encrypted_content"),
    ({"instructions": 5}, "instructions"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"name": "f"}]}, "tools[0].type"),
    ({"tools": [FUNCTION | {"parameters": 5}]}, "tools[0].parameters"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [5]}]}, "tools[0].tools[0]"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "weather"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": 5}}}, "text.format.schema"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "custom", "name": "g"}, "tools": [FUNCTION]}, "tool_choice"),
    ({"tools": [{"type": "custom", "name": "p", "format": {"type": "grammar", "syntax": "ebnf"}}]}, "tools[0].format.syntax"),
    ({"tools": [{"type": "custom", "name": "p", "format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.definition"),
    ({"text": {"shape": 1}}, "text"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"include": ["everything"]}, "include[0]"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"truncation": "maybe"}, "truncation"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"messages": []}, "messages"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[f"{param}-{i}" for i, (_, param) in enumerate(WRONG)])
def test_what_is_wrong_is_named(fields, param):
    client, service = client_of()
    answer = post(client, **fields)
    assert answer.status_code == 400 and not service.requests
    error = answer.json["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == param and error["message"]


def test_an_unknown_reference_is_404():
    answer = post(client_of()[0], input=[{"type": "item_reference", "id": "msg_x"}])
    assert answer.status_code == 404 and answer.json["error"]["param"] == "input[0].id"


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ContextExceeded(5000, 4096), 400),
        (Overloaded("full"), 429),
        (NotReady("loading"), 503),
        (EngineFailed("x"), 500),
    ],
)
def test_errors(raised, status):
    answer = post(client_of(raised)[0], stream=True)
    assert answer.status_code == status and answer.json["error"]["code"] == raised.code
    assert answer.json["error"]["param"] == ("input" if status == 400 else None)
    client, _ = client_of(says(Started(1), Reasoning("r"), Text("a"), Failed(raised)))
    got = wire(post(client, stream=True))
    assert [event["type"] for event in got[-2:]] == ["error", "response.failed"]
    assert got[-2]["message"] == raised.message == got[-2]["error"]["message"]
    failed = got[-1]["response"]
    code = raised.code if status < 500 else "server_error"
    assert failed["status"] == "failed" and failed["error"] == {"code": code, "message": raised.message}
    assert client.simulate_get(f"{PATH}/{failed['id']}").status_code == 404
