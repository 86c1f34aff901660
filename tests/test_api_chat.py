"""The chat dialect against a scripted service: what goes in, what comes out, streamed and whole."""

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
    Progress,
    Reasoning,
    Started,
    Text,
    ToolArguments,
    ToolClosed,
    ToolOpened,
)

PATH = "/v1/chat/completions"
HELLO = {"model": "some-name", "messages": [{"role": "user", "content": "Hi"}]}


def client_of(script=words, settings=Settings(), **more):
    service = FakeService(script=script, **more)
    return falcon.testing.TestClient(create_app(service, settings)), service


def post(client, **fields):
    return client.simulate_post(PATH, json=HELLO | fields)


def chunks(result):
    assert result.status_code == 200 and result.headers["content-type"].startswith("text/event-stream")
    blocks = result.text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]" and all(block.startswith("data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks[:-1]]


def tool_script(request):
    return [
        Started(5),
        Reasoning("hm"),
        Reasoning("m"),
        Text("I look."),
        ToolOpened(0, "call_a", "weather"),
        ToolArguments(0, '{"city"'),
        ToolArguments(0, ':"Oslo"}'),
        ToolClosed(0),
        ToolOpened(1, "call_b", "time"),
        ToolArguments(1, "{}"),
        ToolClosed(1),
        finished(reason="tool_calls", reasoning=2),
    ]


def test_whole():
    client, service = client_of()
    body = post(client).json
    assert body["object"] == "chat.completion" and body["model"] == "some-name" and body["id"].startswith("chatcmpl-")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello from the fake.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert body["timings"]["prompt_n"] == 4 and body["timings"]["cache_n"] == 3
    assert body["timings"]["predicted_per_second"] == 50.0
    assert (body["timings"]["queue_ms"], body["timings"]["template_ms"]) == (1, 2)
    paths = {"kernels": "metal", "traced_steps": 4, "rows": 3, "prefix": None, "speculation": "pld"}
    assert body["timings"]["fast_paths"] == paths
    assert (body["timings"]["draft_n"], body["timings"]["draft_n_accepted"]) == (9, 6)
    assert service.streams[0].cancelled.is_set()


def test_drafts_are_asked_for():
    client, service = client_of()
    parts = [{"type": "text", "text": "def f():"}, {"type": "text", "text": "    pass"}]
    post(client, enable_pld=False)
    post(client, prediction={"type": "content", "content": "abc"}, enable_pld=True)
    post(client, prediction={"type": "content", "content": parts})
    asked = [(request.enable_pld, request.prediction) for request in service.requests]
    assert asked == [(False, None), (True, "abc"), (None, "def f():\n    pass")]


def test_what_came_of_a_prediction_is_told():
    from smelt.engine.events import Usage

    done = Finished("stop", Usage(5, 9, accepted_prediction_tokens=6, rejected_prediction_tokens=2))
    client, _ = client_of(says(Started(5), Text("a"), done))
    details = post(client).json["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": 0, "accepted_prediction_tokens": 6, "rejected_prediction_tokens": 2}


def test_streamed_is_what_whole_is():
    for script in (words, tool_script):
        client, _ = client_of(script)
        whole = post(client).json["choices"][0]["message"]
        deltas = [c["choices"][0]["delta"] for c in chunks(post(client, stream=True))]
        assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
        assert "".join(d.get("content", "") for d in deltas) == whole["content"]
        assert "".join(d.get("reasoning_content", "") for d in deltas) == whole.get("reasoning_content", "")


def test_stream_ends_with_one_finish_and_timings():
    got = chunks(post(client_of()[0], stream=True))
    assert [c["choices"][0]["finish_reason"] for c in got] == [None] * 6 + ["stop"]
    assert "timings" in got[-1] and all("usage" not in c for c in got)
    assert len({c["id"] for c in got}) == 1


def test_include_usage_sends_a_last_chunk_without_choices():
    got = chunks(post(client_of()[0], stream=True, stream_options={"include_usage": True}))
    assert got[-1]["choices"] == [] and got[-1]["usage"]["total_tokens"] == 12 and "timings" in got[-1]
    assert all(c["usage"] is None for c in got[:-1])


def test_tool_calls_and_reasoning():
    client, _ = client_of(tool_script)
    whole = post(client).json
    message = whole["choices"][0]["message"]
    assert message["content"] == "I look." and message["reasoning_content"] == "hmm"
    assert message["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    parts = [
        c["choices"][0]["delta"]["tool_calls"][0]
        for c in chunks(post(client, stream=True))
        if "tool_calls" in str(c["choices"][0]["delta"])
    ]
    assert parts[0] == {
        "index": 0,
        "id": "call_a",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    }
    assert parts[1] == {"index": 0, "function": {"arguments": '{"city"'}} and parts[3]["index"] == 1


def test_parallel_tool_calls_off_keeps_the_first():
    whole = post(client_of(tool_script)[0], parallel_tool_calls=False).json
    assert [call["id"] for call in whole["choices"][0]["message"]["tool_calls"]] == ["call_a"]


def test_content_is_null_beside_tool_calls_only():
    done = finished(reason="tool_calls")
    only_call = says(Started(1), ToolOpened(0, "c", "f"), ToolArguments(0, "{}"), ToolClosed(0), done)
    assert post(client_of(only_call)[0]).json["choices"][0]["message"]["content"] is None
    assert post(client_of(says(Started(1), finished()))[0]).json["choices"][0]["message"]["content"] == ""


def test_progress_is_shown_to_who_asks():
    script = says(Started(9), Progress(0, 9, 2), Progress(4, 9), Text("a"), finished())
    got = chunks(post(client_of(script)[0], stream=True, return_progress=True))
    shown = [chunk["prompt_progress"] for chunk in got if "prompt_progress" in chunk]
    assert shown == [{"total": 9, "processed": 0, "ahead": 2}, {"total": 9, "processed": 4, "ahead": 0}]
    assert "prompt_progress" not in str(chunks(post(client_of(script)[0], stream=True)))
    assert "prompt_progress" not in post(client_of(script)[0], return_progress=True).text


def test_n_choices():
    client, service = client_of()
    body = post(client, n=3, seed=5).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 15 and body["usage"]["prompt_tokens"] == 7
    assert service.requests[0].n == 3
    got = chunks(post(client, n=3, stream=True))
    assert [c["choices"][0]["index"] for c in got[:3]] == [0, 1, 2]
    assert (
        sum(c["choices"][0]["finish_reason"] == "stop" for c in got) == 3
        and "timings" in got[-1]
        and "timings" not in got[-2]
    )


def test_logprobs_whole_and_streamed():
    client, service = client_of()
    whole = post(client, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]
    assert whole["content"][0] == {
        "token": "Hello",
        "logprob": -0.5,
        "bytes": list(b"Hello"),
        "top_logprobs": [
            {"token": "t0", "logprob": -1.0, "bytes": [116]},
            {"token": "t1", "logprob": -2.0, "bytes": [116]},
        ],
    }
    streamed = [c["choices"][0]["logprobs"] for c in chunks(post(client, logprobs=True, top_logprobs=2, stream=True))]
    assert [score for part in streamed if part for score in part["content"]] == whole["content"]
    assert service.requests[0].sampling == {"top_logprobs": 2}
    assert post(client, logprobs=True).json["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert service.requests[-1].sampling == {"top_logprobs": 0}


def test_everything_reaches_the_request():
    client, service = client_of()
    post(
        client,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repeat_penalty=1.1,
        repeat_last_n=32,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={"5": -100, "7": 2.5},
        seed=9,
        max_completion_tokens=17,
        stop=["a", "b"],
        enable_thinking=True,
        chat_template_kwargs={"x": 1},
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        n=None,
    )
    request = service.requests[0]
    assert request.sampling == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "repetition_window": 32,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "logit_bias": {5: -100, 7: 2.5},
        "seed": 9,
    }
    assert request.max_tokens == 17 and request.stop == ("a", "b") and request.n == 1
    assert request.template_kwargs == {"x": 1, "enable_thinking": True}


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": True}),
        ({"reasoning_effort": "low", "enable_thinking": False}, {"reasoning_effort": "low", "enable_thinking": False}),
        ({"reasoning_budget_tokens": 0}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
    ],
)
def test_thinking(fields, kwargs):
    client, service = client_of()
    assert post(client, **fields).status_code == 200
    assert service.requests[0].template_kwargs == kwargs


def test_the_server_s_word_on_thinking_is_the_default():
    client, service = client_of(settings=Settings(enable_thinking=False))
    post(client)
    post(client, enable_thinking=True)
    assert [request.template_kwargs["enable_thinking"] for request in service.requests] == [False, True]


def test_messages_become_what_templates_expect():
    client, service = client_of()
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    cut = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call, cut], "refusal": None, "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "done"}]},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "description": None}}]
    assert post(client, messages=messages, tools=tools).status_code == 200
    request = service.requests[0]
    assert request.messages == [
        {"role": "system", "content": "one\ntwo"},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"a": '}},
            ],
            "reasoning_content": "hm",
        },
        {"role": "tool", "content": "done", "tool_call_id": "c1"},
    ]
    assert request.tools == ({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},)
    assert not request.continue_final
    post(client, tools=tools, tool_choice="none")
    assert service.requests[-1].tools == ()


def test_a_last_message_of_the_assistant_is_continued():
    client, service = client_of()
    messages = [*HELLO["messages"], {"role": "assistant", "content": "Well,"}]
    post(client, messages=messages)
    post(client, messages=messages, continue_final_message=False)
    assert [request.continue_final for request in service.requests] == [True, False]
    assert post(client, continue_final_message=True).json["error"]["param"] == "continue_final_message"


def test_half_a_surrogate_pair_is_replaced():
    client, service = client_of()
    body = '{"model":"m\\udc00","messages":[{"role":"user","content":"a\\ud83d b\\ud83d\\ude00"}]}'
    assert (
        client.simulate_post(PATH, body=body, headers={"Content-Type": "application/json"}).json["model"] == "m\ufffd"
    )
    assert service.requests[0].messages[0]["content"] == "a\ufffd b\U0001f600"


FUNCTION = {"type": "function", "function": {"name": "f"}}
WRONG = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repetition_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"seed": -2}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": 1}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"x": True}}, "stream_options.x"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"strict": 1}}}, "response_format.json_schema.strict"),
    ({"grammar": ""}, "grammar"),
    ({"regex": 5}, "regex"),
    ({"choice": []}, "choice"),
    ({"choice": ["a", ""]}, "choice[1]"),
    ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [FUNCTION]}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
    ({"kv_quant": 3}, "kv_quant"),
    ({"kv_quant": True}, "kv_quant"),
    ({"kv_quant": ["4"]}, "kv_quant"),
    ({"enable_pld": "yes"}, "enable_pld"),
    ({"prediction": "text"}, "prediction"),
    ({"prediction": {"content": "text"}}, "prediction.type"),
    ({"prediction": {"type": "content"}}, "prediction.content"),
    ({"prediction": {"type": "content", "content": [{"type": "image_url"}]}}, "prediction.content[0].type"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"functions": []}, "functions"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"temprature": 1}, "temprature"),
    ({"reasoning_budget_tokens": -2}, "reasoning_budget_tokens"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[f"{param}-{i}" for i, (_, param) in enumerate(WRONG)])
def test_what_is_wrong_is_named(fields, param):
    client, service = client_of()
    error = post(client, **fields)
    assert error.status_code == 400 and not service.requests
    assert error.json["error"]["param"] == param and error.json["error"]["type"] == "invalid_request_error"
    assert param.split(".")[-1].split("[")[0] in error.json["error"]["message"]


def test_a_misspelled_parameter_is_guessed():
    assert "did you mean 'temperature'?" in post(client_of()[0], temprature=1).json["error"]["message"]


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (ContextExceeded(5000, 4096), 400, "context_length_exceeded"),
        (Overloaded("full", 7), 429, "rate_limit_exceeded"),
        (NotReady("loading"), 503, "not_ready"),
        (EngineFailed("step"), 500, "engine_failed"),
        (ZeroDivisionError("secret"), 500, "engine_failed"),
    ],
)
def test_errors_have_their_status(raised, status, code):
    for script in (raised, says(Failed(raised)), says(Progress(0, 5), 0.0, Failed(raised))):
        stream = isinstance(script, Exception)
        error = post(client_of(script)[0], stream=stream)
        assert (error.status_code, error.json["error"]["code"]) == (status, code)
        assert "secret" not in error.text
    assert post(client_of(raised)[0]).headers.get("retry-after") == {429: "7", 503: "1"}.get(status)


def test_a_stream_that_fails_at_once_has_a_status():
    assert post(client_of(says(Failed(EngineFailed("step"))))[0], stream=True).status_code == 500


def test_an_error_in_mid_stream_ends_it():
    client, service = client_of(says(Started(1), Text("Hel"), Failed(EngineFailed("the step raised"))))
    got = chunks(post(client, stream=True))
    assert got[-1] == {
        "error": {"message": "the step raised", "type": "server_error", "param": None, "code": "engine_failed"}
    }
    assert service.streams[0].cancelled.is_set()
    assert post(client).status_code == 500


def test_a_fault_of_ours_in_mid_stream_is_said():
    client, service = client_of(says(Started(1), Text("a"), Text(b"b")))  # JSON has no bytes
    got = chunks(post(client, stream=True))
    assert got[-1]["error"]["type"] == "server_error" and "TypeError" not in str(got[:-1])
    assert service.streams[0].cancelled.is_set() and client.app.gate.inside == 0


def test_cancelled_is_stop_to_clients():
    assert (
        post(client_of(says(Started(1), finished(reason="cancelled")))[0]).json["choices"][0]["finish_reason"]
        == "stop"
    )


def test_the_gate_is_left_whatever_happens():
    client, service = client_of(settings=Settings(max_streams=1))
    for script in (
        words,
        EngineFailed("x"),
        says(Failed(EngineFailed("x"))),
        says(Started(1), Failed(ValueError())),
    ):
        for stream in (False, True):
            service.script = script
            post(client, stream=stream)
            post(client, n=0)
    service.script = words
    assert post(client).status_code == 200
    client.app.gate.enter()
    refused = post(client)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
