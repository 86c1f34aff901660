"""The whole house: a random tiny checkpoint with a real tokenizer, behind a real server, asked by the openai SDK."""

import json
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import checkpoints
import openai
import pytest
from smelt.api.app import create_app
from smelt.api.serve import Server
from smelt.api.settings import Settings
from smelt.engine.options import Options
from smelt.engine.service import Service
from test_serve import BODY, chat, connect, until

BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
LONG = {"model": "tiny", "messages": [{"role": "user", "content": "word " * 1500}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models") / "tiny"
    checkpoints.make(made, "llama", vocab_size=4160, max_position_embeddings=4096)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUILTIN / name, made / name)
    return made


@contextmanager
def house_of(folder, **options):
    service = Service(Options(model=str(folder), max_concurrent=8, prefill_chunk=64, **options))
    config = Settings(port=0, max_streams=16)
    server = Server(create_app(service, config), config)
    loop = threading.Thread(target=server.run)
    loop.start()
    service.start()
    try:
        service.wait_ready(60)
        yield server, service
    finally:
        server.drain(service.close)
        service.close()
        loop.join(10)


@pytest.fixture(scope="module")
def house(folder):
    with house_of(folder) as (server, service):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client, server, service


def test_streamed_is_what_whole_is(house):
    client = house[0]
    ask = ASK | {"max_tokens": 30, "seed": 7, "temperature": 1.0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    scores = [
        score
        for chunk in chunks
        if chunk.choices and chunk.choices[0].logprobs
        for score in chunk.choices[0].logprobs.content
    ]
    assert scores == whole.choices[0].logprobs.content and len(scores) == whole.usage.completion_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_seed_means_the_same_beside_others(house):
    client = house[0]
    ask = ASK | {"max_tokens": 12, "temperature": 1.0}
    alone = [client.chat.completions.create(**ask, seed=seed).choices[0].message.content for seed in (5, 6, 7)]
    beside = client.chat.completions.create(**ask, seed=5, n=3)
    assert [choice.message.content for choice in beside.choices] == alone


def test_stop_strings(house):
    client = house[0]
    ask = ASK | {"max_tokens": 30, "seed": 7, "temperature": 1.0}
    text = client.chat.completions.create(**ask).choices[0].message.content
    stop = text[10:13]
    cut = client.chat.completions.create(**ask, stop=[stop]).choices[0]
    assert cut.message.content == text[: text.index(stop)] and cut.finish_reason == "stop"


def test_completions_of_tokens_and_text(house):
    client, server, service = house
    ids = service.tokenizer.encode("Hi there")
    same = client.completions.create(model="m", prompt=["Hi there", "x"], max_tokens=5, temperature=0)
    assert len(same.choices) == 2 and same.usage.completion_tokens == 10
    by_ids = client.completions.create(model="m", prompt=ids, max_tokens=5, temperature=0, echo=True)
    assert by_ids.choices[0].text.startswith("Hi there")


def test_what_does_not_fit(house):
    client = house[0]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "word " * 5000}])
    assert caught.value.code == "context_length_exceeded" and "4096" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK, logit_bias={"999999": 1})
    assert caught.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="m", prompt=[999999])


@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_client_frees_its_row(house, stream):
    client, server, service = house
    sock = connect(server, chat(**BODY | {"messages": LONG["messages"], "stream": stream}))
    until(lambda: service.stats()["running"])
    killed = time.monotonic()
    sock.close()
    until(lambda: not service.stats()["running"] and not service.stats()["waiting"])
    assert time.monotonic() - killed < 0.6  # 0.2 s to notice; the rest is for a busy machine


def test_it_is_unready_and_then_ready(folder):
    config = Settings(port=0, max_streams=2)
    service = Service(Options(model=str(folder), max_concurrent=1))
    app = create_app(service, config)
    import falcon.testing

    client = falcon.testing.TestClient(app)
    assert client.simulate_get("/health").status_code == 503
    assert client.simulate_post("/v1/chat/completions", json=ASK).status_code == 503
    service.start()
    service.wait_ready(60)
    assert client.simulate_get("/health").json["status"] == "ok"
    row = client.simulate_get("/v1/models").json["data"][0]
    assert row["id"] == "tiny" and row["context_length"] == 4096 and row["meta"]["architecture"] == "llama"
    service.close()
    assert client.simulate_get("/health").status_code == 503
    assert client.simulate_post("/v1/chat/completions", json=ASK).status_code == 503


def test_text_routes(house):
    import http.client

    client, server, service = house

    def post(path, **fields):
        conn = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        conn.request("POST", path, json.dumps(fields), {"Content-Type": "application/json"})
        return json.load(conn.getresponse())

    ids = post("/tokenize", content="Hello, world")["tokens"]
    assert post("/detokenize", tokens=ids) == {"content": "Hello, world"}
    prompt = post("/apply-template", messages=ASK["messages"])["prompt"]
    assert "Hi" in prompt
    counted = post("/v1/messages/count_tokens", model="m", messages=ASK["messages"])["input_tokens"]
    message = post("/v1/messages", model="m", max_tokens=4, messages=ASK["messages"])
    used = message["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == counted and message["stop_reason"] == "max_tokens"
