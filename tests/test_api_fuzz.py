"""A thousand random mutations of valid requests: each is answered 200 or 4xx, in the envelope."""

import json
import random

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app

VALID = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_k": 5,
    "logit_bias": {"5": 1},
    "stop": ["x"],
    "seed": 1,
    "n": 2,
    "max_tokens": 5,
    "logprobs": True,
    "top_logprobs": 1,
    "metadata": {},
    "chat_template_kwargs": {},
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}},
    "reasoning_effort": "low",
    "reasoning_budget_tokens": 20,
}  # fmt: skip
COMPLETION = {
    "prompt": ["Hi", [1, 2]],
    "logprobs": 2,
    "stream": False,
    "stop": "x",
    "n": 1,
    "max_tokens": 4,
    "seed": 1,
    "choice": ["a", "b"],
}  # fmt: skip
MESSAGES = {
    "model": "m",
    "max_tokens": 10,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "1"}]}]},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
}  # fmt: skip
COUNT = {key: MESSAGES[key] for key in ("model", "system", "messages", "tools", "thinking")}
ROUTES = {
    "/v1/chat/completions": VALID,
    "/v1/completions": COMPLETION,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT,
    "/tokenize": {"content": "Hi", "add_special": True, "with_pieces": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/apply-template": {"messages": VALID["messages"]},
}
ODD = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    -0.0,
    10**30,
    "",
    "x",
    "\x00",
    "\ud800",
    "\U0001f600" * 9,
    [],
    [[]],
    {},
    {"": None},
    [None],
    {"type": "text"},
)


def places(value, path=()):
    """Every path into a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def mutated(value, rng):
    """A copy with one to three things replaced, removed, renamed or doubled."""
    made = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([path for path in places(made) if path] or [()])
        if path:
            mutate(made, path, rng)
    return made


def mutate(made, path, rng):
    parent = made
    for key in path[:-1]:
        parent = parent[key]
    key, how = path[-1], rng.randrange(4)
    if how == 0:
        parent[key] = json.loads(json.dumps(rng.choice(ODD)))  # a copy
    elif how == 1:
        del parent[key]
    elif how == 2 and isinstance(parent, dict):
        parent[rng.choice(("x", "type", "role", "name", "", "\u00e9"))] = parent.pop(key)
    else:
        parent[key] = [parent[key]] * rng.randint(0, 3)


def texts(count, valid, rng):
    for _ in range(count):
        text = json.dumps(mutated(valid, rng))
        if rng.random() < 0.15:  # and a few with the text itself hurt
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(("", "\\", '"', "}", "\\ud83d", "1e999")) + text[at + rng.randrange(3) :]
        yield text


@pytest.mark.parametrize("path", ROUTES)
def test_mutations(path):
    client = falcon.testing.TestClient(create_app(FakeService()))
    rng, seen = random.Random(20261123), set()
    for text in texts(1000, ROUTES[path], rng):
        answer = client.simulate_post(path, body=text, headers={"Content-Type": "application/json"})
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400), (answer.status_code, answer.text, text)
        if answer.status_code != 200:
            error = json.loads(answer.content)["error"]
            assert error["message"] and error["type"] == "invalid_request_error", text
    assert seen == {200, 400} and client.app.gate.inside == 0
