"""The routes that tokenize and render without generating, and /props."""

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app


def client_of(**service):
    return falcon.testing.TestClient(create_app(FakeService(**service)))


def post(path, **fields):
    return client_of().simulate_post(path, json=fields)


def test_tokenize():
    assert post("/tokenize", content="Hi").json == {"tokens": [72, 105]}
    assert post("/tokenize", content="Hi", add_special=True).json == {"tokens": [256, 72, 105]}
    assert post("/tokenize", content="Hi", parse_special=False).json == {"tokens": [72, 105, 255]}
    pieces = post("/tokenize", content="H\u00e9", with_pieces=True).json["tokens"]
    assert pieces == [{"id": 72, "piece": "H"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]


def test_detokenize():
    assert post("/detokenize", tokens=[72, 105]).json == {"content": "Hi"}
    assert post("/detokenize", tokens=[]).json == {"content": ""}


def test_apply_template():
    fields = {"messages": [{"role": "user", "content": "Hi"}], "model": "m", "temperature": 0}
    assert post("/apply-template", **fields).json == {"prompt": "<user>Hi\n"}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": ["a"]}, "content"),
        ("/tokenize", {"content": "a", "x": 1}, "x"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "ab"}, "tokens"),
        ("/detokenize", {"tokens": [1, "a"]}, "tokens[1]"),
        ("/detokenize", {"tokens": [257]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/apply-template", {}, "messages"),
    ],
)
def test_what_is_wrong_is_named(path, fields, param):
    answer = post(path, **fields)
    assert answer.status_code == 400 and answer.json["error"]["param"] == param


def test_props():
    props = client_of().simulate_get("/props").json
    assert props["default_generation_settings"] == {"model": "fake", "n_ctx": 4096}
    assert props["memory"]["peak_bytes"] == 3 << 20 and props["model_info"]["hidden_size"] == 64


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/apply-template"])
def test_while_loading(path):
    fields = {"content": "a"} if path == "/tokenize" else {"tokens": [1]}
    fields = {"messages": [{"role": "user", "content": "Hi"}]} if path == "/apply-template" else fields
    assert client_of(state="loading").simulate_post(path, json=fields).status_code == 503
    assert client_of(state="loading").simulate_get("/props").status_code == 503
