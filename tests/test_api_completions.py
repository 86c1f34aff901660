"""/v1/completions: prompts of every form, several at once, echo, logprobs in OpenAI's older form."""

import json

import falcon.testing
import pytest
from fakes import FakeService, finished, says, slowly, words
from smelt.api.app import create_app
from smelt.api.completions import Merged
from smelt.engine.errors import ContextExceeded
from smelt.engine.events import Failed, Started, Text
from test_serve import served, until

PATH = "/v1/completions"


def client_of(script=words):
    service = FakeService(script=script)
    return falcon.testing.TestClient(create_app(service)), service


def post(client, **fields):
    return client.simulate_post(PATH, json={"prompt": "Once", **fields})


def chunks(result):
    blocks = result.text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block[6:]) for block in blocks[:-1]]


def test_a_text():
    client, service = client_of()
    body = post(client, model="m", max_tokens=9, stop="x", seed=4).json
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-") and body["model"] == "m"
    assert body["choices"] == [{"text": "Hello from the fake.", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"]["total_tokens"] == 12 and "timings" in body
    request = service.requests[0]
    assert (request.text, request.tokens, request.messages) == ("Once", None, None)
    assert (request.max_tokens, request.stop, request.sampling) == (9, ("x",), {"seed": 4})


def test_token_ids():
    client, service = client_of()
    assert post(client, prompt=[1, 2, 3]).status_code == 200
    assert service.requests[0].tokens == [1, 2, 3] and service.requests[0].text is None


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_of_several_choices(stream):
    client, service = client_of(lambda request: words(request, [str(request.text or request.tokens)] * 3))
    answer = post(client, prompt=["a", [7], "c"], n=2, stream=stream, stream_options={"include_usage": True})
    texts, reasons = {}, {}
    got = chunks(answer) if stream else [answer.json]
    for chunk in got:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
            reasons[choice["index"]] = choice["finish_reason"] or reasons.get(choice["index"])
    assert texts == {0: "aaa", 1: "aaa", 2: "[7][7][7]", 3: "[7][7][7]", 4: "ccc", 5: "ccc"}
    assert set(reasons.values()) == {"stop"}
    usage = got[-1]["usage"]
    assert usage["prompt_tokens"] == 21 and usage["completion_tokens"] == 30
    assert usage["prompt_tokens_details"]["cached_tokens"] == 9
    assert client.app.gate.inside == 0


def test_stream():
    got = chunks(post(client_of()[0], stream=True))
    assert {chunk["object"] for chunk in got} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in got) == "Hello from the fake."
    assert got[-1]["choices"][0]["finish_reason"] == "stop" and "timings" in got[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_echo(stream):
    client, _ = client_of()
    answer = post(client, prompt=["Once", [72, 105]], echo=True, stream=stream)
    choices = [choice for chunk in (chunks(answer) if stream else [answer.json]) for choice in chunk["choices"]]
    texts = ["".join(choice["text"] for choice in choices if choice["index"] == index) for index in (0, 1)]
    assert texts == ["OnceHello from the fake.", "HiHello from the fake."]


def test_logprobs():
    client, service = client_of()
    scores = post(client, logprobs=1).json["choices"][0]["logprobs"]
    assert scores["tokens"] == ["Hello", " from", " the", " fake", "."] and scores["token_logprobs"] == [-0.5] * 5
    assert scores["top_logprobs"][0] == {"t0": -1.0} and scores["text_offset"] == [0, 5, 10, 14, 19]
    assert service.requests[0].sampling == {"top_logprobs": 1}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, -1]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_wrong_is_named(fields, param):
    client, service = client_of()
    answer = post(client, **fields)
    assert answer.status_code == 400 and answer.json["error"]["param"] == param and not service.requests


def test_a_prompt_that_does_not_fit_stops_the_others():
    def script(request):
        if request.text == "long":
            raise ContextExceeded(5000, 4096, "prompt")
        return words(request)

    client, service = client_of(script)
    answer = post(client, prompt=["a", "b", "long"])
    assert answer.status_code == 400 and answer.json["error"]["code"] == "context_length_exceeded"
    assert [stream.cancelled.is_set() for stream in service.streams] == [True, True]
    assert client.app.gate.inside == 0


def test_one_that_fails_fails_all():
    client, service = client_of(
        lambda request: [Started(1), Failed(ValueError())] if request.text == "b" else words(request)
    )
    assert post(client, prompt=["a", "b"]).status_code == 500
    assert all(stream.cancelled.is_set() for stream in service.streams)


def test_merging_is_fair():
    """A stream that always has something to say does not keep the others waiting."""
    service = FakeService(script=lambda request: [Text(request.text)] * 5 + [finished()])
    from smelt.engine.request import Request

    merged = Merged([service.submit(Request(text=text)) for text in "abc"], 1)
    order = [event.text for event in iter(lambda: merged.next(0), None) if isinstance(event, Text)]
    assert "".join(order) == "abc" * 5 and merged.next(0) is None


def test_merging_waits_no_longer_than_asked():
    import time

    service = FakeService(script=says(5.0, finished()))
    from smelt.engine.request import Request

    merged = Merged([service.submit(Request(text=text)) for text in "ab"], 1)
    began = time.monotonic()
    assert merged.next(0.1) is None and time.monotonic() - began < 0.3


def test_several_prompts_over_a_socket_are_cancelled_together():
    import http.client

    with served(slowly(0.05, ["x"] * 400)) as (server, service):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        body = json.dumps({"prompt": ["a", "b", "c"], "stream": True})
        client.request("POST", PATH, body, {"Content-Type": "application/json"})
        client.getresponse().read(10)
        client.close()
        until(lambda: all(stream.cancelled.is_set() for stream in service.streams))
