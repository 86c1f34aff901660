"""Codex, over HTTP and over its WebSocket, with all the kinds of tools and items that it sends."""

import http.client
import json

import clients
import pytest
from clients import CODEX_HEADERS, codex
from fakes import says
from smelt.api import responses
from smelt.api.response_store import Shelf
from smelt.engine.events import Started, ToolArguments, ToolClosed, ToolOpened
from test_api_responses import finished
from test_websocket import connect, connected

PATH = "/v1/responses"
SOCKET_HEADERS = {"openai-beta": "responses_websockets=2026-02-06", "Authorization": "Bearer none"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SMELT_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with clients.house(tmp_path_factory.mktemp("tiny")) as made:
        yield made


def post(server, body, path=PATH):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **CODEX_HEADERS})
    answer = client.getresponse()
    return answer, answer.read().decode()


def streamed(server, body):
    answer, text = post(server, body)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream"), text
    blocks = text.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.split("\ndata: ")[1]) for block in blocks]


def parsed(body):
    return responses.parse(body, Shelf().memory)


def test_a_request_in_the_middle_of_a_session(house):
    got = streamed(house[0], codex())
    assert got[0]["type"] == "response.created" and got[-1]["type"] in ("response.completed", "response.incomplete")
    body = got[-1]["response"]
    assert body["store"] is False and body["usage"]["input_tokens"] > 500 and body["usage"]["output_tokens"] <= 6
    assert body["tools"][1] == codex()["tools"][1], "the answer repeats the tools as they were sent"


def test_what_the_template_is_given():
    request = parsed(codex()).request
    names = [tool["function"]["name"] for tool in request.tools]
    assert names == ["shell", "apply_patch", "mcp__docs__find", "found", "more"]
    patch = request.tools[1]["function"]
    assert "*** Begin Patch" in patch["description"] and patch["parameters"]["required"] == ["input"]
    roles = [message["role"] for message in request.messages]
    assert roles == ["system", "system", "system", "user", "user", "assistant", "tool", "assistant", "tool", "user"]
    assert request.messages[5]["tool_calls"][0]["function"] == {"name": "shell", "arguments": {"command": ["ls"]}}
    assert request.messages[7]["tool_calls"][0]["function"]["arguments"] == {"input": "*** Begin Patch"}
    assert request.template_kwargs == {"reasoning_effort": "medium", "enable_thinking": True}


def test_a_patch_comes_back_as_the_custom_tool_that_it_is():
    patch = {"input": "*** Begin Patch\n*** End Patch"}
    script = says(
        Started(9), ToolOpened(0, "call_a", "apply_patch"), ToolArguments(0, json.dumps(patch)), ToolClosed(0),
        ToolOpened(1, "call_b", "mcp__docs__find"), ToolArguments(1, '{"query":"x"}'), ToolClosed(1),
        finished(reason="tool_calls"),
    )  # fmt: skip
    with connected(script) as (ws, _, _):
        custom, called = ask(ws, **codex())[-1]["response"]["output"]
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "apply_patch", patch["input"])
    assert (called["type"], called["namespace"], called["name"]) == ("function_call", "mcp__docs__", "find")
    again = parsed(codex(input=[*codex()["input"], custom, called])).request.messages[-1]
    assert [one["function"]["name"] for one in again["tool_calls"]] == ["apply_patch", "mcp__docs__find"]


def ask(ws, **fields):
    ws.send(json.dumps({"type": "response.create", **fields}))
    got = []
    while not got or got[-1]["type"] not in ("response.completed", "response.incomplete", "response.failed", "error"):
        got.append(json.loads(ws.recv(timeout=60)))
    return got


def test_a_session_over_the_socket(house):
    """Warm-up, then turns that send only what is new and name the answer before, with store: false and stream: true."""
    with connect(house[0], additional_headers=SOCKET_HEADERS) as ws:
        warm = ask(ws, **codex(generate=False))[-1]["response"]
        assert warm["status"] == "completed" and warm["output"] == [] and warm["usage"]["output_tokens"] == 0
        first = ask(ws, **codex(input=[], previous_response_id=warm["id"]))[-1]["response"]
        assert first["usage"]["input_tokens"] == warm["usage"]["input_tokens"]
        said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And now?"}]}
        second = ask(ws, **codex(input=[said], previous_response_id=first["id"]))[-1]["response"]
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    with connect(house[0], additional_headers=SOCKET_HEADERS) as other:
        lost = ask(other, **codex(input=[said], previous_response_id=second["id"]))[-1]
        assert lost["type"] == "error" and lost["error"]["code"] == "previous_response_not_found"
        assert ask(other, **codex())[-1]["type"] in ("response.completed", "response.incomplete"), "the socket goes on"


def test_compaction_is_an_answer_without_tools(house):
    asked = codex(tools=[], input=[*codex()["input"], {"role": "user", "content": "Summarise what was done."}])
    assert streamed(house[0], asked)[-1]["type"] in ("response.completed", "response.incomplete")


def test_a_conversation_that_is_too_long_has_the_code_that_it_looks_for(house):
    long = {"role": "user", "content": clients.prose(120_000)}
    answer, text = post(house[0], codex(input=[long]))
    assert answer.status == 400 and json.loads(text)["error"]["code"] == "context_length_exceeded"
    with connect(house[0]) as ws:
        assert ask(ws, **codex(input=[long]))[-1]["error"]["code"] == "context_length_exceeded"


def test_an_image_is_refused_by_name(house):
    image = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}
    answer, text = post(house[0], codex(input=[{"role": "user", "content": [image]}]))
    assert answer.status == 400 and "text only" in json.loads(text)["error"]["message"]
    assert json.loads(text)["error"]["param"] == "input[0].content[0].type"


def test_its_mode_for_lm_studio(house):
    """It lists the models, and has one loaded by an empty request for one token."""
    client = http.client.HTTPConnection("127.0.0.1", house[0].port, timeout=30)
    client.request("GET", "/v1/models")
    name = json.load(client.getresponse())["data"][0]["id"]
    answer, text = post(house[0], {"model": name, "input": "", "max_output_tokens": 1})
    assert answer.status == 200, text


def test_its_mode_for_ollama(house):
    client = http.client.HTTPConnection("127.0.0.1", house[0].port, timeout=30)

    def get(path):
        client.request("GET", path)
        return json.load(client.getresponse())

    assert get("/api/version") == {"version": "0.0.0"}, "which it takes for one with Responses"
    assert [row["name"] for row in get("/api/tags")["models"]] == [row["id"] for row in get("/v1/models")["data"]]
