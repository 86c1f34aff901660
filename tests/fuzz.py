"""Valid requests of every route, and what random mutations make of them. One harness for all routes.

Locally the mutations are new ones every time, and what fails names its seed; in CI, and with SMELT_FUZZ_SEED, they are
always the same.
"""

import json
import os
import random
import secrets

SEED = int(os.environ.get("SMELT_FUZZ_SEED", 20261123 if "CI" in os.environ else secrets.randbits(32)))

CHAT = {
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
COUNT_INPUT = {
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
CREATE = COUNT_INPUT | {
    "include": ["reasoning.encrypted_content"],
    "stream": False,
    "store": True,
    "max_output_tokens": 9,
    "top_logprobs": 1,
    "metadata": {"a": "b"},
    "parallel_tool_calls": True,
}
ROUTES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT,
    "/v1/responses": CREATE,
    "/v1/responses/input_tokens": COUNT_INPUT,
    "/v1/responses/compact": {"model": "m", "input": ITEMS, "instructions": "x", "prompt_cache_key": "k"},
    "/v1/embeddings": {"model": "m", "input": ["Hi", [1, 2]], "encoding_format": "float", "dimensions": 3, "user": "u"},
    "/tokenize": {"content": "Hi", "add_special": True, "with_pieces": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/apply-template": {"messages": CHAT["messages"]},
    "/api/pull": {"model": "fake", "stream": False},
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


def rng_of(path):
    return random.Random(f"{SEED} {path}")


def check(answer, path, text):
    """200, or a refusal in the envelope of the dialect: never a fault of the server's."""
    told = f"SMELT_FUZZ_SEED={SEED}: {answer.status_code} {answer.text} for {text}"
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, told
    if answer.status_code != 200:
        body = json.loads(answer.content)
        error = body["error"]
        assert error["message"] and error["type"] == "invalid_request_error", told
        if path.startswith("/v1/messages"):
            assert body["type"] == "error" and body["request_id"], told
        else:
            assert error.keys() == {"message", "type", "param", "code"}, told
    return answer.status_code


def replaced(value, path, other):
    """A copy with one thing replaced."""
    made = json.loads(json.dumps(value))
    parent = made
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = other
    return made
