"""The whole program with the model that ships inside: a real server, real clients, real answers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import openai
import pytest
from smelt.api.app import create_app
from smelt.api.serve import Server
from smelt.api.settings import Settings
from smelt.engine.options import Options
from smelt.engine.service import Service

SUM = [{"role": "user", "content": "What is 23 + 45?"}]
LONG = [{"role": "user", "content": "Summarise this.\n" + "The cat sat on the mat. " * 110}]
ENDLESS = {"logit_bias": {}, "max_tokens": 1500}  # filled in by the fixture: the end tokens are forbidden
FREED_S = 0.3


@pytest.fixture(scope="module")
def house():
    """(server, service, openai client)"""
    service = Service(Options())
    server = Server(create_app(service, settings := Settings(port=0, max_streams=64)), settings)
    loop = threading.Thread(target=server.run)
    loop.start()
    service.start()
    service.wait_ready(120)
    ENDLESS["logit_bias"] = {str(token): -100 for token in service.end_ids}
    yield server, service, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    server.drain(service.close)
    loop.join(10)


@pytest.fixture
def client(house):
    return house[2]


def answer(client, messages=SUM, **fields):
    fields = {"model": "builtin", "temperature": 0, "max_tokens": 60, **fields}
    return client.chat.completions.create(messages=messages, **fields)


def idle(service, seconds=10.0):
    """Seconds until no row runs or waits."""
    begin = time.monotonic()
    while any(service.stats()[key] for key in ("running", "waiting")):
        if time.monotonic() - begin > seconds:
            return None
        time.sleep(0.005)
    return time.monotonic() - begin


def test_it_answers(client):
    reply = answer(client)
    assert "68" in reply.choices[0].message.content and reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens < 60 and reply.usage.prompt_tokens > 5


def test_streamed_and_whole_are_the_same(client):
    chunks = list(answer(client, stream=True, stream_options={"include_usage": True}))
    whole = answer(client)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_seeds_choices_logprobs_and_stop(client):
    fields = {"n": 3, "temperature": 1.0, "seed": 7, "logprobs": True, "top_logprobs": 2, "stop": ["\n"]}
    one, two = (answer(client, [{"role": "user", "content": "Hello!"}], **fields) for _ in range(2))
    texts = [[c.message.content for c in reply.choices] for reply in (one, two)]
    assert texts[0] == texts[1] and len(texts[0]) == 3 and not any("\n" in text for text in texts[0])
    for choice in one.choices:
        assert "".join(t.token for t in choice.logprobs.content).startswith(choice.message.content)
        assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in choice.logprobs.content)


def test_a_prompt_over_the_window_is_refused_with_both_numbers(client):
    with pytest.raises(openai.BadRequestError) as error:
        answer(client, [{"role": "user", "content": "word " * 5000}])
    assert error.value.code == "context_length_exceeded" and len(re.findall(r"\d+", error.value.message)) >= 2


def test_64_streams_at_once_and_nothing_left_behind(house):
    server, service, client = house
    answer(client)
    before, replies = threading.active_count(), {}

    def one(i):
        chunks = answer(client, stream=True, temperature=0, max_tokens=24)
        replies[i] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(replies) == 64 and all("68" in text for text in replies.values())
    assert idle(service) is not None
    assert threading.active_count() <= before
    pagings = service.engine.scheduler.memory.paging.values()
    assert all(sum(size for _, size in p.pool.free) + p.shares.kept == p.pool.pages for p in pagings)


def post(server, body):
    """A request by hand, so that the connection can be cut."""
    data = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    sock.sendall(head.encode() + data)
    return sock


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_killed_client_frees_its_row(house, phase, stream):
    server, service, _ = house
    assert idle(service) is not None
    sock = post(server, {"messages": LONG if phase == "prefill" else SUM, "stream": stream, **ENDLESS})
    scheduler = service.engine.scheduler
    busy = (lambda: scheduler.filling) if phase == "prefill" else (lambda: scheduler.running)
    until = time.monotonic() + 30
    while not busy():
        assert time.monotonic() < until
        time.sleep(0.001)
    time.sleep(0.02)
    sock.close()
    freed = idle(service)
    assert freed is not None and freed < FREED_S


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOTAL = """def add(items):
    total = 0
    for item in items:
        total += item
    return total"""


def test_a_tool_round_trip(client):
    messages = [{"role": "user", "content": "What's the weather in Paris?"}]
    choice = answer(client, messages, tools=[WEATHER]).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "sky": "sunny"}'}
    reply = answer(client, [*messages, choice.message.to_dict(), result], tools=[WEATHER])
    assert "21" in reply.choices[0].message.content and reply.choices[0].finish_reason == "stop"


def test_a_tool_call_streams_its_arguments(client):
    messages = [{"role": "user", "content": "What's the weather in Paris?"}]
    deltas = [c.choices[0].delta for c in answer(client, messages, tools=[WEATHER], stream=True)]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert calls[0].function.name == "get_weather" and calls[0].id and not calls[0].function.arguments
    parts = [call.function.arguments for call in calls[1:]]
    assert len(parts) > 2 and json.loads("".join(parts)) == {"city": "Paris"}
    assert not any(delta.content for delta in deltas)


def test_reasoning_is_split_from_the_answer(client):
    fields = {"max_tokens": 300, "extra_body": {"enable_thinking": True}}
    reply = answer(client, [{"role": "user", "content": "what is 347 + 588?"}], **fields)
    message = reply.choices[0].message
    assert "935" in message.content and "think>" not in message.content
    assert "7 + 8" in message.reasoning_content and "think>" not in message.reasoning_content
    assert 20 < reply.usage.completion_tokens_details.reasoning_tokens < reply.usage.completion_tokens


def test_a_code_edit_echoes_its_prompt(client):
    request = f"Rename the variable total to amount in this function:\n\n```python\n{TOTAL}\n```"
    reply = answer(client, [{"role": "user", "content": request}], max_tokens=300)
    assert TOTAL.replace("total", "amount") in reply.choices[0].message.content


@contextmanager
def process(*arguments, **kwargs):
    command = [sys.executable, "-c", BOOT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs) as running:
        try:
            yield running
        finally:
            running.kill()


# The installed console script may be another checkout's; this one is what is tested.
BOOT = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import conftest; from smelt.api.cli import main; sys.exit(main())"


def test_run_prints_the_answer_and_leaves_well():
    """Several times: leaving while the engine's thread still ends has aborted the process."""
    for _ in range(5):
        with process("run", "--temp", "0", "What is 23 + 45?") as running:
            out, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
        assert "68" in out and "tok/s" in err and "peak memory" in err and "ships inside" in err


def test_sigterm_in_mid_stream_drains():
    with process("serve", "--port", "0") as running:
        url = re.search(r"http://\S+", running.stdout.readline()).group()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=20)
        fields = {"model": "builtin", "messages": SUM, "stream": True, "max_tokens": 40}
        chunks = client.chat.completions.create(**fields, logit_bias=ENDLESS["logit_bias"])
        next(chunks)
        running.send_signal(signal.SIGTERM)
        seen = list(chunks)
        assert seen[-1].choices[0].finish_reason in ("length", "stop") and len(seen) > 5
        assert running.wait(30) == 0
