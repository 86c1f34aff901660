"""What a request says of the KV cache reaches the engine from every dialect, in one spelling."""

import falcon.testing
import pytest
from fakes import FakeService
from smelt.api.app import create_app

TURN = [{"role": "user", "content": "Hi"}]
BODIES = {
    "/v1/chat/completions": {"messages": TURN},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": TURN, "model": "m", "max_tokens": 5},
    "/v1/responses": {"input": "Hi"},
}


@pytest.mark.parametrize("path", BODIES)
def test_it_is_asked_of_the_engine(path):
    service = FakeService()
    client = falcon.testing.TestClient(create_app(service))
    for given in (None, 0, 4, "8", "off", "turbo2"):
        assert client.simulate_post(path, json=BODIES[path] | {"kv_quant": given}).status_code == 200
    assert [request.kv_quant for request in service.requests] == [None, "off", "4", "8", "off", "turbo2"]
    refused = client.simulate_post(path, json=BODIES[path] | {"kv_quant": 2})
    assert refused.status_code == 400 and "kv_quant is 2; it must be one of off, 4, 8" in refused.text
