"""What programs that look for Ollama are told."""

import json

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app


@pytest.fixture
def client():
    return falcon.testing.TestClient(create_app(FakeService()))


def test_tags(client):
    (row,) = client.simulate_get("/api/tags").json["models"]
    assert row["name"] == row["model"] == "fake" and row["size"] == 1200 and len(row["digest"]) == 64
    assert row["modified_at"] == "2023-11-14T22:13:20Z"
    assert row["details"]["family"] == "fake" and row["details"]["quantization_level"] == "4-bit"
    loading = falcon.testing.TestClient(create_app(FakeService(state="loading")))
    assert loading.simulate_get("/api/tags").json == {"models": []}


def test_a_version_that_codex_takes(client):
    assert client.simulate_get("/api/version").json == {"version": "0.0.0"}


@pytest.mark.parametrize("name", ["fake", "fake:latest"])
def test_pulling_the_model_that_is_there(client, name):
    lines = client.simulate_post("/api/pull", json={"model": name, "stream": True}).text.splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}
    assert client.simulate_post("/api/pull", json={"name": name, "stream": False}).json == {"status": "success"}


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [({"model": "gpt-oss:20b"}, 404, "this server has fake"), ({}, 400, "model"), ({"model": 5}, 400, "model")],
)
def test_other_models_are_not_fetched(client, body, status, word):
    answer = client.simulate_post("/api/pull", json=body)
    assert answer.status_code == status and word in answer.json["error"]["message"]
