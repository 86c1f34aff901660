"""What the server says of itself, who may call, and how what is no request is refused."""

import time
from concurrent.futures import ThreadPoolExecutor

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app, late_routes
from smelt.api.house import Gate, House
from smelt.api.late import Late
from smelt.api.metrics import Metrics
from smelt.api.settings import Settings
from smelt.engine.registry import Registry

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


def client_of(settings=Settings(), **service):
    return falcon.testing.TestClient(create_app(FakeService(**service), settings))


def test_health_tells_the_truth():
    assert client_of().simulate_get("/health").json == {"status": "ok", "models": {"fake": "ready"}}
    loading = client_of(state="loading").simulate_get("/health")
    assert (loading.status_code, loading.json) == (503, {"status": "loading", "models": {"fake": "loading"}})
    failed = client_of(state="failed", error=RuntimeError("no such file")).simulate_get("/health")
    assert (failed.status_code, failed.json) == (
        503,
        {"status": "failed", "models": {"fake": "error"}, "error": "no such file"},
    )
    draining = client_of()
    draining.app.gate.draining = True
    assert draining.simulate_get("/health").json == {"status": "closing", "models": {"fake": "ready"}}
    assert draining.simulate_post(CHAT, json=HELLO).status_code == 503


def test_while_loading_requests_are_told_to_come_back():
    answer = client_of(state="loading").simulate_post(CHAT, json=HELLO)
    assert answer.status_code == 503 and answer.headers["retry-after"] and answer.json["error"]["code"] == "not_ready"


def test_models():
    row = client_of().simulate_get("/v1/models").json["data"][0]
    assert row["id"] == "fake" and row["context_length"] == row["max_model_len"] == 4096 and row["state"] == "ready"
    assert row["capabilities"] == ["chat", "streaming", "embeddings", "tool_use"] and row["meta"]["quantization"] == "4-bit"
    assert row["meta"]["model_max_tokens"] == 8192 and row["meta"]["pooling"] == "mean" and row["meta"]["kv_quant"] == "off"
    assert (row["bytes_resident"], row["bytes_on_disk"]) == (1000, 1200)
    loading = client_of(state="loading").simulate_get("/v1/models").json["data"][0]
    assert loading["state"] == "loading" and not loading["loaded"] and "meta" not in loading


def test_one_model_by_id_with_a_slash():
    client = client_of()
    assert client.simulate_get("/v1/models/fake").json["id"] == "fake"
    missing = client.simulate_get("/v1/models/org/name")
    assert missing.status_code == 404 and missing.json["error"]["code"] == "model_not_found"


def test_kernels_say_which_way_they_went_and_why():
    answer = client_of().simulate_get("/v1/kernels").json
    (way,) = answer["data"]
    assert way == {
        "op": "linear", "case": "4-bit 64->256", "way": "reference", "why": "MLX computes on the CPU", "calls": 3,
    }  # fmt: skip
    assert answer["object"] == "list" and answer["tuning"]["chip"] == "cpu"
    assert client_of(state="loading").simulate_get("/v1/kernels").status_code == 200


def test_root_and_head():
    client = client_of()
    page = client.simulate_get("/")
    assert page.headers["content-type"].startswith("text/html") and CHAT in page.text and "fake" in page.text
    for path in ("/", "/health", "/v1/models"):
        answer = client.simulate_head(path)
        assert answer.status_code == 200 and not answer.content


def test_query_strings_and_trailing_slashes_do_not_matter():
    client = client_of()
    assert client.simulate_post(CHAT, json=HELLO, query_string="beta=true&%zz=%ff&a").status_code == 200
    assert client.simulate_get("/v1/models/").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [("GET", "/nowhere", 404, "/nowhere"), ("GET", CHAT, 405, "POST"), ("DELETE", "/health", 405, "GET")],
)
def test_wrong_routes_and_methods(method, path, status, word):
    answer = client_of().simulate_request(method, path)
    assert answer.status_code == status and word in answer.json["error"]["message"]
    assert answer.json["error"]["type"] == "invalid_request_error"
    if status == 405:
        assert word in answer.headers["allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"\xff\xfe\x00",
        b'{"a":NaN}',
        b"[" * 100_000,
        b'{"seed":' + b"9" * 5000 + b"}",
        b"{}\x00",
    ],
)
def test_what_is_not_json_is_400(body):
    answer = client_of().simulate_post(CHAT, body=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json["error"]["code"] in ("invalid_json", "missing_required_parameter")


def test_media_types():
    client = client_of()

    def status(**headers):
        return client.simulate_post(
            CHAT, body='{"messages":[{"role":"user","content":"Hi"}]}', headers=headers
        ).status_code

    assert status() == status(**{"Content-Type": "application/json; charset=utf-8"}) == 200
    assert status(**{"Content-Type": "text/plain"}) == 415
    assert status(**{"Content-Type": "application/x-www-form-urlencoded"}) == 415
    assert status(**{"Content-Type": "application/json", "Content-Encoding": "gzip"}) == 415


def test_a_body_over_the_limit_is_413():
    client = client_of(Settings(max_body_bytes=100))
    answer = client.simulate_post(CHAT, json=HELLO | {"user": "x" * 200})
    assert answer.status_code == 413 and answer.json["error"]["code"] == "request_too_large"
    assert client.simulate_post(CHAT, json=HELLO).status_code == 200


def preflight(client, origin, path=CHAT):
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-stainless-os",
    }
    return client.simulate_options(path, headers=asked)


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080", "tauri://localhost", "file://"]
)
def test_local_pages_may_call(origin):
    client = client_of()
    answer = preflight(client, origin)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == "x-stainless-os"
    answer = client.simulate_post(CHAT, json=HELLO, headers={"Origin": origin})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("origin", ["https://evil.com", "http://localhost.evil.com", "http://localhostx:1", "null"])
def test_other_sites_may_not(origin):
    client = client_of()
    assert "access-control-allow-origin" not in preflight(client, origin).headers
    answer = client.simulate_post(CHAT, json=HELLO, headers={"Origin": origin})
    assert answer.status_code == 403 and "--cors-origin" in answer.json["error"]["message"]
    assert "access-control-allow-origin" not in client.simulate_get("/v1/models", headers={"Origin": origin}).headers


def test_listed_origins_and_all_of_them():
    listed = client_of(Settings(origins=("https://my.site/",)))
    assert listed.simulate_post(CHAT, json=HELLO, headers={"Origin": "https://my.site"}).status_code == 200
    any_site = client_of(Settings(origins=("*",)))
    assert any_site.simulate_get("/health").headers["access-control-allow-origin"] == "*"
    assert preflight(any_site, "https://evil.com", "/anything").status_code == 204


def test_errors_can_be_read_across_origins():
    answer = client_of().simulate_post(CHAT, json={}, headers={"Origin": "http://localhost:1"})
    assert answer.status_code == 400 and "access-control-allow-origin" in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic c2VjcmV0"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer s\u00e9cret"}, 401),
        ({"Authorization": "Bearer secret"}, 200),
        ({"Authorization": "bearer secret"}, 200),
        ({"x-api-key": "secret"}, 200),
        ({"x-api-key": "secret", "Authorization": "Bearer something-else"}, 200),
    ],
)
def test_api_key(headers, status):
    client = client_of(Settings(api_key="secret"))
    answer = client.simulate_post(CHAT, json=HELLO, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json["error"]["code"] == "invalid_api_key" and answer.headers["www-authenticate"] == "Bearer"


def test_what_needs_no_key():
    client = client_of(Settings(api_key="secret"))
    assert client.simulate_get("/health").status_code == 200
    assert preflight(client, "http://localhost:1").status_code == 204
    assert client.simulate_get("/v1/models").status_code == 401


def test_routes_that_are_imported_late_are_the_ones_there_are():
    house = House(Registry.around(FakeService()), Settings(), Gate(1), Metrics())
    for late in late_routes(house):
        real = late.real()
        methods = {path: {name for name in dir(resource) if name.startswith("on_")} for path, resource in real.items()}
        assert {path: set(names) for path, names in late.methods.items()} == methods


def test_late_routes_are_made_once():
    """Two would have two shelves: an answer that one keeps is not found by the other."""

    class Resource:
        def on_get(self, req, resp):
            return self

    def make():
        time.sleep(0.05)
        made.append(1)
        return {"/x": Resource()}

    made = []
    stand_in = Late({"/x": ("on_get",)}, make).stand_ins()["/x"]
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(stand_in.on_get, None, None) for _ in range(4)]
    assert len(made) == 1 and len({id(one.result()) for one in found}) == 1
