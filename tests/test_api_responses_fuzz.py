"""A thousand random mutations of valid requests of the Responses dialect: each is answered 200 or 4xx."""

import json
import random

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app
from test_api_fuzz import texts

ITEMS = [
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
    {"role": "user", "content": "Hi"},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "x"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}', "namespace": "n"},
    {"type": "custom_tool_call", "call_id": "d", "name": "patch", "input": "x"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
    {"type": "custom_tool_call_output", "call_id": "d", "output": "2"},
    {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "g"}]},
]
FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
COUNT = {
    "model": "m",
    "input": ITEMS,
    "instructions": "Be kind.",
    "tools": [
        FUNCTION,
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION]},
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "truncation": "auto",
}
CREATE = COUNT | {
    "include": ["reasoning.encrypted_content"],
    "stream": False,
    "store": True,
    "max_output_tokens": 9,
    "top_logprobs": 1,
    "metadata": {"a": "b"},
    "parallel_tool_calls": True,
}
ROUTES = {
    "/v1/responses": CREATE,
    "/v1/responses/input_tokens": COUNT,
    "/v1/responses/compact": {"model": "m", "input": ITEMS, "instructions": "x", "prompt_cache_key": "k"},
}


@pytest.mark.parametrize("path", ROUTES)
def test_mutations(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SMELT_HOME", str(tmp_path))
    client = falcon.testing.TestClient(create_app(FakeService()))
    rng, seen = random.Random(20261123), set()
    for text in texts(1000, ROUTES[path], rng):
        answer = client.simulate_post(path, body=text, headers={"Content-Type": "application/json"})
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text, text)
        if answer.status_code != 200:
            error = json.loads(answer.content)["error"]
            assert error["message"] and error["type"] == "invalid_request_error", text
    assert {200, 400} <= seen and client.app.gate.inside == 0
