"""Every dialect asks for drafts by the same words, and tells what came of them."""

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app

HELLO = [{"role": "user", "content": "Hi"}]
DIALECTS = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 9},
    "/v1/responses": {"input": "Hi"},
}


@pytest.mark.parametrize("path", DIALECTS)
def test_requests_say_whether_they_are_drafted(path):
    service = FakeService()
    client = falcon.testing.TestClient(create_app(service))
    for fields in ({}, {"enable_pld": True}, {"enable_pld": False, "enable_drafter": True}, {"enable_drafter": None}):
        assert client.simulate_post(path, json={"model": "m", **DIALECTS[path], **fields}).status_code == 200
    asked = [(request.enable_pld, request.enable_drafter) for request in service.requests]
    assert asked == [(None, None), (True, None), (False, True), (None, None)]


@pytest.mark.parametrize("name", ["enable_pld", "enable_drafter"])
@pytest.mark.parametrize("path", DIALECTS)
def test_what_is_no_answer_to_that_is_refused(path, name):
    client = falcon.testing.TestClient(create_app(FakeService()))
    refused = client.simulate_post(path, json={"model": "m", **DIALECTS[path], name: "often"})
    assert refused.status_code == 400 and name in refused.text


@pytest.mark.parametrize("path", DIALECTS)
def test_timings_tell_what_was_drafted(path):
    client = falcon.testing.TestClient(create_app(FakeService()))
    timings = client.simulate_post(path, json={"model": "m", **DIALECTS[path]}).json["timings"]
    assert (timings["draft_n"], timings["draft_n_accepted"], timings["fast_paths"]["speculation"]) == (9, 6, "pld")
