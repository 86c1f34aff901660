"""What no client should send, on every route: it is answered 4xx with a clear message, and the server goes on."""

import json
from dataclasses import replace

import falcon.testing
import fuzz
import pytest
import tiny
from fakes import FakeService
from smelt.api.app import create_app
from smelt.engine.options import Options
from smelt.engine.service import Service

JSON = {"Content-Type": "application/json"}
DIALECTS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SMELT_HOME", str(tmp_path))


@pytest.fixture
def client():
    return falcon.testing.TestClient(create_app(FakeService()))


def post(client, path, text):
    return fuzz.check(client.simulate_post(path, body=text, headers=JSON), path, text)


@pytest.mark.parametrize("path", fuzz.ROUTES)
def test_a_thousand_mutations(client, path):
    seen = {post(client, path, text) for text in fuzz.texts(1000, fuzz.ROUTES[path], fuzz.rng_of(path))}
    assert {200, 400} <= seen <= {200, 400, 404} and client.app.gate.inside == 0
    assert post(client, path, json.dumps(fuzz.ROUTES[path])) == 200


@pytest.mark.parametrize("path", fuzz.ROUTES)
def test_every_field_with_every_odd_value(client, path):
    valid = fuzz.ROUTES[path]
    seen = set()
    for place in fuzz.places(valid):
        for odd in fuzz.ODD if place else ():
            seen.add(post(client, path, json.dumps(fuzz.replaced(valid, place, odd))))
    assert {200, 400} <= seen <= {200, 400, 404} and client.app.gate.inside == 0


@pytest.mark.parametrize("path", fuzz.ROUTES)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe\x00", b'{"a":NaN}', b"[" * 100_000, b"{}\x00"])
def test_what_is_no_json_object(client, path, body):
    assert post(client, path, body) == 400


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("role", ["robot", "User", "", None, 5, ["user"], "ipython"])
def test_unknown_roles(client, path, role):
    message = {"role": role, "content": "Hi"}
    turns = {"input": [message]} if path == "/v1/responses" else {"messages": [message], "max_tokens": 5}
    answer = client.simulate_post(path, json=turns)
    assert answer.status_code == 400 and "role" in answer.json["error"]["message"]


class Brief(Service):
    """Answers of one token: what is tried is what comes before them."""

    def submit(self, request):
        return super().submit(replace(request, max_tokens=1, n=min(request.n, 2)))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    service = Brief(Options(model=str(tiny.make(tmp_path_factory.mktemp("tiny")))))
    service.start()
    service.wait_ready(60)
    yield falcon.testing.TestClient(create_app(service))
    service.close()


@pytest.mark.parametrize("path", [path for path in fuzz.ROUTES if path != "/api/pull"])
def test_mutations_with_a_real_tokenizer_template_and_model(real, path):
    """Fewer, since each of those that are valid is computed."""
    seen = {post(real, path, text) for text in fuzz.texts(300, fuzz.ROUTES[path], fuzz.rng_of(path))}
    assert {200, 400} <= seen <= {200, 400, 404} and real.app.gate.inside == 0
