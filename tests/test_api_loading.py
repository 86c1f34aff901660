"""Several models over HTTP: which are listed, loading and unloading them, and requests that name one."""

import threading
from contextlib import contextmanager

import falcon.testing
import pytest
from fakes import slowly, words
from smelt.api.app import create_app
from smelt.api.serve import Server
from smelt.api.settings import Settings
from smelt.engine.options import Options
from test_api_metrics import scrape
from test_registry import House, one
from test_serve import STREAMS, connect, read_all, stream_of, until

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def house():
    with House() as house:
        yield house


def client_of(house, **settings):
    return falcon.testing.TestClient(create_app(house.registry, Settings(**settings)))


def test_all_models_are_listed_with_their_states(house):
    client = client_of(house)
    rows = client.simulate_get("/v1/models").json["data"]
    assert [row["id"] for row in rows] == ["a", "c", "d", "org/b"]  # the default one first, then by name
    first, second = rows[:2]
    assert first["state"] == "ready" and first["loaded"] and first["bytes_resident"] == 1000 and first["context_length"] == 4096
    assert (second["state"], second["loaded"], second["bytes_resident"], second["bytes_on_disk"]) == ("unloaded", False, 0, 1000)
    assert second["capabilities"] == ["chat", "streaming", "embeddings"] and second["object"] == "model"
    assert second["meta"] == {"architecture": "llama", "quantization": "4-bit group 64"} and "context_length" not in second
    assert client.simulate_get("/v1/models/org/b").json["state"] == "unloaded"
    assert client.simulate_get("/v1/models/gpt-4").status_code == 404


def test_a_model_that_was_put_on_the_disk_is_found_when_somebody_asks_to_look(house):
    """As clients of mlx-serve do; a model may not be asked for by that name."""
    client, looks = client_of(house), house.looks
    house.found.append(one("new"))
    answer = client.simulate_post("/v1/models/rescan")
    assert answer.status_code == 200 and house.looks == looks + 1
    assert [row["id"] for row in answer.json["data"]] == ["a", "c", "d", "new", "org/b"]
    assert answer.json == client.simulate_get("/v1/models").json
    assert client.simulate_get("/v1/models/rescan").status_code == 405


def test_a_request_that_names_a_model_loads_it(house):
    client = client_of(house)
    answer = client.simulate_post(CHAT, json=HELLO | {"model": "org/b"})
    assert answer.status_code == 200 and answer.json["model"] == "org/b"
    assert [len(house.made[name][0].requests) for name in ("a", "org/b")] == [0, 1]
    rows = client.simulate_get("/v1/models").json["data"]
    assert [(row["id"], row["state"]) for row in rows[:2]] == [("a", "ready"), ("org/b", "ready")]
    assert client.simulate_post(CHAT, json=HELLO | {"model": "gpt-4"}).json["model"] == "gpt-4"
    assert len(house.made["a"][0].requests) == 1


@pytest.mark.parametrize("path", [path for path in STREAMS])
def test_every_dialect_goes_to_the_model_that_is_named(house, path):
    answer = client_of(house).simulate_post(path, json=STREAMS[path][0] | {"model": "c"})
    assert answer.status_code == 200 and len(house.made["c"][0].requests) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "Hi"}),
        ("/tokenize", {"content": "Hi"}),
        ("/detokenize", {"tokens": [65]}),
        ("/apply-template", HELLO),
        ("/v1/messages/count_tokens", HELLO),
        ("/v1/responses/input_tokens", {"input": "Hi"}),
    ],
)
def test_so_do_routes_that_do_not_generate(house, path, body):
    assert client_of(house).simulate_post(path, json=body | {"model": "c"}).status_code == 200
    assert house.state("c") == "ready" and house.registry.models["c"].users == 0


def test_loading_and_unloading(house):
    client = client_of(house)
    loaded = client.simulate_post("/v1/load-model", json={"model": "c"})
    assert loaded.status_code == 200 and loaded.json["model"]["state"] == "ready" and loaded.json["model"]["id"] == "c"
    assert client.simulate_post("/v1/load-model", json={"model": "c"}).json == loaded.json and len(house.made["c"]) == 1
    unloaded = client.simulate_post("/v1/unload-model", json={"model": "c"}).json["model"]
    assert (unloaded["state"], unloaded["loaded"], unloaded["bytes_resident"]) == ("unloaded", False, 0)
    assert unloaded["context_length"] == 4096  # known from the last time


@pytest.mark.parametrize("path", ["/v1/load-model", "/v1/unload-model"])
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found"),
        ({}, 400, "missing_required_parameter"),
        ({"model": 5}, 400, "invalid_type"),
        ({"model": "c", "default": True}, 400, "unknown_parameter"),
    ],
)
def test_what_cannot_be_loaded_or_unloaded(house, path, body, status, code):
    answer = client_of(house).simulate_post(path, json=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)
    assert house.state("a") == "ready" and house.made["c"] == []


def test_a_model_in_use_is_not_unloaded(house):
    lease = house.registry.lease("a")
    answer = client_of(house).simulate_post("/v1/unload-model", json={"model": "a"})
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "model_busy")
    lease.release()
    assert client_of(house).simulate_post("/v1/unload-model", json={"model": "a"}).status_code == 200
    health = client_of(house).simulate_get("/health")
    assert health.status_code == 200 and health.json == {"status": "ok", "models": {"a": "unloaded"}}


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_does_not_load(house, stream):
    client = client_of(house, poll_s=5)  # the error comes before the stream has begun
    house.errors["c"] = RuntimeError("the file is broken")
    answer = client.simulate_post(CHAT, json=HELLO | {"model": "c", "stream": stream})
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "model_load_failed")
    assert "c could not be loaded: the file is broken" in answer.json["error"]["message"]
    row = client.simulate_get("/v1/models/c").json
    assert (row["state"], row["error"]) == ("error", "the file is broken")
    health = client.simulate_get("/health")
    assert health.status_code == 200 and health.json["models"] == {"a": "ready", "c": "error"}
    house.errors.clear()
    assert client.simulate_post(CHAT, json=HELLO | {"model": "c"}).status_code == 200


def test_what_does_not_fit_is_503_with_the_numbers():
    with House(found=[one("a"), one("c", size=3 << 20)], max_bytes=2 << 20) as house:
        answer = client_of(house).simulate_post(CHAT, json=HELLO | {"model": "c"})
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "out_of_memory")
        assert "c has 3.00 MiB of weights, 2.00 MiB are allowed (--max-resident-mem)" in answer.json["error"]["message"]


def test_metrics_props_and_tags_are_of_each_model(house):
    client = client_of(house)
    assert [row["name"] for row in client.simulate_get("/api/tags").json["models"]] == ["a", "c", "d", "org/b"]
    assert client.simulate_post("/api/pull", json={"model": "c:latest", "stream": False}).status_code == 200
    assert client.simulate_get("/props", params={"model": "c"}).status_code == 503
    assert client.simulate_get("/props", params={"model": "gpt-4"}).status_code == 404
    client.simulate_post("/v1/load-model", json={"model": "c"})
    props = client.simulate_get("/props", params={"model": "c"})
    assert props.json["default_generation_settings"] == {"model": "c", "n_ctx": 4096}
    found = scrape(client)
    for name in ("a", "c"):
        assert found[f'smelt_model_bytes_resident{{model="{name}"}}'] == 1000
        assert found[f'smelt_rows_running{{model="{name}"}}'] == 0
    assert 'smelt_rows_running{model="d"}' not in found and found["smelt_ready"] == 1
    client.simulate_post("/v1/unload-model", json={"model": "c"})
    assert 'smelt_model_bytes_resident{model="c"}' not in scrape(client)


# On a real server


@contextmanager
def served(house, **settings):
    config = Settings(**{"port": 0, "max_streams": 8, "drain_s": 5, **settings})
    server = Server(create_app(house.registry, config), config)
    loop = threading.Thread(target=server.run)
    loop.start()
    try:
        yield server
    finally:
        server.drain(house.registry.close)
        loop.join(10)
        assert not loop.is_alive()


def named(path, model, stream=True):
    text = stream_of(path, stream).decode()
    head, body = text.split("\r\n\r\n", 1)
    body = body[:-1] + f', "model": "{model}"}}'
    head = "\r\n".join(f"Content-Length: {len(body)}" if "Length" in line else line for line in head.split("\r\n"))
    return f"{head}\r\n\r\n{body}".encode()


def read_until(sock, word):
    got = b""
    while word not in got and (data := sock.recv(1 << 16)):
        got += data
    return got


@pytest.mark.parametrize(
    ("path", "word"),
    [(CHAT, b": keep-alive"), ("/v1/messages", b"event: ping"), ("/v1/responses", b"response.in_progress")],
)
def test_a_stream_whose_model_is_loading_is_kept_alive_and_others_go_on(house, path, word):
    go = house.hold("c")
    with served(house, keep_alive_s=0.1, poll_s=0.02) as server:
        sock = connect(server, named(path, "c"))
        assert b"200 OK" in sock.recv(1 << 16)
        assert b"Hello" in read_all(connect(server, stream_of(path)))
        got = read_until(sock, word)
        assert house.state("c") == "loading"
        go.set()
        got += read_all(sock)
        assert b"Hello" in got and STREAMS[path][1] in got
        until(lambda: house.registry.models["c"].users == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_its_model_loads_is_forgotten(house, stream):
    go = house.hold("c")
    with served(house) as server:
        sock = connect(server, named(CHAT, "c", stream))
        until(lambda: house.state("c") == "loading" and server.app.gate.inside)
        sock.close()
        until(lambda: server.app.gate.inside == 0 and house.registry.models["c"].users == 0)
        go.set()
        until(lambda: house.state("c") == "ready")
        assert not house.made["c"][0].requests


def test_an_error_in_mid_stream_is_told_there(house):
    go = house.hold("c")
    house.errors["c"] = RuntimeError("the file is broken")
    with served(house, keep_alive_s=0.05, poll_s=0.02) as server:
        sock = connect(server, named(CHAT, "c"))
        assert b"200 OK" in sock.recv(1 << 16)
        go.set()
        text = read_all(sock)
        assert b"model_load_failed" in text and b"the file is broken" in text and b"[DONE]" in text


@pytest.mark.parametrize("path", [CHAT, "/v1/load-model", "/tokenize"])
def test_the_deadline_of_a_drain_ends_those_that_wait_for_a_model(path):
    with House(Options(model="a", timeout_s=60), script=words) as house:
        house.hold("c")
        with served(house, drain_s=0.2) as server:
            body = '{"model": "c", "messages": [{"role": "user", "content": "Hi"}]}'
            body = body if path == CHAT else '{"model": "c"}' if "load" in path else '{"model": "c", "content": "Hi"}'
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            sock = connect(server, (head + body).encode())
            until(lambda: house.state("c") == "loading" and server.app.gate.inside)
            threading.Thread(target=server.drain, args=(lambda: (house.registry.close(), house.holds["c"].set()),)).start()
            assert b" 503 " in read_all(sock)


def test_those_that_wait_for_a_model_leave_places_for_health():
    with House(script=slowly(0.01)) as house:
        house.hold("c")
        with served(house, max_streams=2) as server:
            waiting = [connect(server, named(CHAT, "c", stream=False)) for _ in range(2)]
            until(lambda: server.app.gate.inside == 2)
            body = b'{"model": "c", "content": "Hi"}'
            head = f"POST /tokenize HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            assert b" 429 " in read_all(connect(server, head.encode() + body))
            assert b" 200 " in read_all(connect(server, b"GET /health HTTP/1.0\r\n\r\n"))
            house.holds["c"].set()
            assert all(b"Hello" in read_until(sock, b"Hello") for sock in waiting)
