"""Every answer has an id, where each vendor's SDK looks for it."""

import logging
import re

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app
from smelt.api.settings import Settings
from test_serve import connect, raw, read_all, served

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


@pytest.fixture
def client():
    return falcon.testing.TestClient(create_app(FakeService(), Settings(api_key="k")))


def ids(answer):
    found = answer.headers["x-request-id"]
    assert answer.headers["request-id"] == found
    return found


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/models", "/nowhere"])
@pytest.mark.parametrize("key", ["k", "wrong"])
def test_every_answer_has_one(client, path, key):
    headers = {"x-api-key": key}
    answers = [client.simulate_post(path, json=HELLO, headers=headers) for _ in range(2)]
    first, second = map(ids, answers)
    assert re.fullmatch("req_[0-9a-f]{32}", first) and first != second
    assert int(answers[0].headers["openai-processing-ms"]) >= 0
    if path == MESSAGES and key == "wrong":
        assert answers[0].json["request_id"] == first


def test_the_id_of_a_proxy_is_kept_where_it_is_one(client):
    def given(text):
        return ids(client.simulate_get("/health", headers={"X-Request-Id": text}))

    assert given("trace-1:2/3") == "trace-1:2/3"
    for odd in ("", "a b", "x" * 129, "caf\u00e9"):
        assert given(odd).startswith("req_")


def test_the_log_names_it(client, caplog):
    with caplog.at_level(logging.INFO, logger="smelt"):
        answer = client.simulate_post(CHAT, json=HELLO, headers={"x-api-key": "k"})
    assert ids(answer) in caplog.text


def test_what_is_refused_before_the_application_has_one():
    with served(max_body_bytes=1000) as (server, _):
        answer = read_all(connect(server, raw("POST", CHAT, b"", {"Content-Length": 100 << 20})))
    assert b" 413 " in answer and re.search(rb"x-request-id: req_[0-9a-f]{32}\r\n", answer, re.I)
