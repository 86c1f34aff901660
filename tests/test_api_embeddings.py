"""/v1/embeddings: inputs of every form, formats, limits, and the openai SDK as the client."""

import base64
import struct

import falcon.testing
import openai
import pytest
from fakes import FakeService, words
from smelt.api.app import create_app
from smelt.engine.errors import ContextExceeded, EngineFailed, NotReady
from test_serve import connect, raw, served, until

PATH = "/v1/embeddings"


def client_of(script=words, **service):
    fake = FakeService(script=script, **service)
    return falcon.testing.TestClient(create_app(fake)), fake


def post(client, given="Hi", **fields):
    return client.simulate_post(PATH, json={"model": "m", "input": given, **fields})


def vectors(answer):
    assert answer.status_code == 200, answer.text
    assert [row["index"] for row in answer.json["data"]] == list(range(len(answer.json["data"])))
    return [row["embedding"] for row in answer.json["data"]]


def test_the_answer():
    body = post(client_of()[0]).json
    assert body == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [6.0, 8.0, 0.0, 0.0]}],
        "model": "m",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("abc", ["abc"]), (["a", "bc"], ["a", "bc"]), ([1, 2], [[1, 2]]), ([[1], [2, 3], "x"], [[1], [2, 3], "x"])],
)
def test_inputs(given, inputs):
    client, service = client_of()
    assert [vector[0] for vector in vectors(post(client, given))] == [3 * len(item) for item in inputs]
    assert service.requests == [(inputs, None)]


def test_base64_is_the_same_numbers():
    client, _ = client_of()
    (text,) = vectors(post(client, encoding_format="base64"))
    assert struct.unpack("<4f", base64.b64decode(text)) == (6.0, 8.0, 0.0, 0.0)


def test_dimensions_are_of_unit_length_again():
    client, _ = client_of()
    assert vectors(post(client, dimensions=2)) == [[0.6, 0.8]]
    assert vectors(post(client, dimensions=1, encoding_format="float")) == [[1.0]]


def test_the_pooling_is_the_requests():
    client, service = client_of()
    assert vectors(post(client, pooling="last"))[0][3] == 1 and service.requests[-1][1] == "last"


WRONG = [
    ({"input": None}, "input"),
    ({"input": ""}, "input[0]"),
    ({"input": []}, "input is empty"),
    ({"input": {}}, "input"),
    ({"input": ["a", ""]}, "input[1]"),
    ({"input": ["a", 5]}, "input[1]"),
    ({"input": [1.5]}, "input[0]"),
    ({"input": ["a"] * 2049}, "2048"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": 65}, "64"),
    ({"encoding_format": "int8"}, "encoding_format"),
    ({"pooling": "cls"}, "pooling"),
    ({"task": "query"}, "task"),
]


@pytest.mark.parametrize(("fields", "word"), WRONG, ids=[f"{word}-{i}" for i, (_, word) in enumerate(WRONG)])
def test_what_is_wrong_is_named(fields, word):
    client, service = client_of()
    answer = client.simulate_post(PATH, json={"input": "Hi", **fields})
    assert answer.status_code == 400 and word in answer.json["error"]["message"] and not service.requests
    assert client.app.gate.inside == 0


@pytest.mark.parametrize(
    ("raised", "status"), [(ContextExceeded(5000, 4096, "input[3]"), 400), (NotReady("x"), 503), (EngineFailed("x"), 500)]
)
def test_errors(raised, status):
    client, _ = client_of(raised)
    error = post(client)
    assert error.status_code == status and error.json["error"]["message"] == str(raised)
    assert error.json["error"]["param"] == raised.param and client.app.gate.inside == 0


def test_what_was_read_is_counted():
    client, _ = client_of()
    post(client, ["abc", "de"])
    assert "smelt_embedding_tokens_total 5.0" in client.simulate_get("/metrics").text


def test_a_client_that_leaves_ends_it():
    with served(lambda request: [30.0]) as (server, service):
        body = b'{"input": "Hi"}'
        head = {"Content-Type": "application/json", "Content-Length": len(body)}
        sock = connect(server, raw("POST", PATH, body, head))
        until(lambda: service.streams)
        sock.close()
        assert service.streams[0].cancelled.wait(2)
        until(lambda: server.app.gate.inside == 0)


def test_the_sdk():
    with served() as (server, _), openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        found = client.embeddings.create(model="m", input=["abc", "d"])  # asks for base64 by itself
        assert [row.embedding for row in found.data] == [[9.0, 12.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]
        assert found.usage.total_tokens == 4 and found._request_id
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="m", input="abc", dimensions=1000)
