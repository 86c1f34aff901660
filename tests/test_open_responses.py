"""What the compliance suite of Open Responses asks, over HTTP and over the WebSocket, of one server."""

import json
from contextlib import ExitStack, closing

import httpx2 as httpx  # the openai SDK brings it
import pytest
from fakes import says, words
from smelt.engine.events import Started, ToolArguments, ToolClosed, ToolOpened
from test_api_chat import finished
from test_api_responses import FUNCTION, TEXT_EVENTS, home
from test_serve import served
from test_websocket import answer, connect

__all__ = ["home"]  # a fixture that every test here uses
PATH = "/v1/responses"
OPENED = ToolOpened(0, "c1", "weather")
CALLS = says(Started(1), OPENED, ToolArguments(0, "{}"), ToolClosed(0), finished(reason="tool_calls"))
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
KEYS = """
id object created_at completed_at status incomplete_details model previous_response_id instructions output error
tools tool_choice truncation parallel_tool_calls text top_p presence_penalty frequency_penalty top_logprobs temperature
reasoning usage max_output_tokens max_tool_calls store background service_tier metadata safety_identifier
prompt_cache_key""".split()


def user(text):
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


class Http:
    """A conversation over HTTP, where only what is stored can be gone on from."""

    def __init__(self, server):
        self.client = httpx.Client(base_url=server.url)

    def reconnect(self):
        pass

    def close(self):
        self.client.close()

    def ask(self, **body):
        reply = self.client.post(PATH, json={"model": "m"} | body)
        return reply.status_code, reply.json()


class Socket:
    """The same over a WebSocket."""

    def __init__(self, server):
        self.server, self.open = server, ExitStack()
        self.reconnect()

    def reconnect(self):
        self.close()
        self.ws = self.open.enter_context(connect(self.server))

    def close(self):
        self.open.close()

    def ask(self, **body):
        self.ws.send(json.dumps({"type": "response.create", "model": "m"} | body))
        last = answer(self.ws)[-1]
        return (last["status"], last) if last["type"] == "error" else (200, last["response"])


@pytest.fixture(params=[Http, Socket])
def both(request, home):
    with served() as (server, service):
        with closing(request.param(server)) as talk:
            yield talk, service, server


def good(reply):
    status, body = reply
    assert status == 200 and body["status"] == "completed" and body["error"] is None, body
    assert not set(KEYS) - set(body) and all(item["id"] and item["type"] for item in body["output"])
    return body


def test_basic_text(both):
    assert good(both[0].ask(input=[user("Hi")]))["output"][0]["content"][0]["text"] == "Hello from the fake."


def test_streaming_order_and_numbers(both):
    talk, _, server = both
    with httpx.stream("POST", server.url + PATH, json={"model": "m", "input": "Hi", "stream": True}) as reply:
        lines = list(reply.iter_lines())
    got = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [event["type"] for event in got] == TEXT_EVENTS and lines[-2] == "data: [DONE]"
    assert [event["sequence_number"] for event in got] == list(range(len(got)))


def test_system_prompt(both):
    talk, service, _ = both
    good(talk.ask(input=[{"type": "message", "role": "system", "content": "Be a pirate."}, user("Hi")]))
    assert service.requests[0].messages[0] == {"role": "system", "content": "Be a pirate."}


def test_tools_and_their_results(both):
    talk, service, _ = both
    service.script = CALLS
    (call,) = good(talk.ask(input=[user("Weather?")], tools=[FUNCTION]))["output"]
    assert (call["type"], call["name"], call["call_id"]) == ("function_call", "weather", "c1")
    service.script = words
    good(talk.ask(input=[user("Weather?"), call, RESULT], tools=[FUNCTION]))
    assert service.requests[1].messages[-1]["content"] == "rain"


def test_an_image_is_refused_by_a_model_of_text(both):
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    status, body = both[0].ask(input=[{"type": "message", "role": "user", "content": [image]}])
    assert status == 400 and "text only" in body["error"]["message"]


def test_turns_and_assistant_items_as_input(both):
    talk, service, _ = both
    past = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello, Ann."}]}
    good(talk.ask(input=[user("I am Ann."), past, user("Who am I?")]))
    assert [message["role"] for message in service.requests[0].messages] == ["user", "assistant", "user"]


def test_compact_and_its_items_sent_back(both):
    talk, service, server = both
    assert httpx.post(f"{server.url}{PATH}/compact", json={"input": "Hi"}).status_code == 400
    body = httpx.post(f"{server.url}{PATH}/compact", json={"model": "m", "input": [user("Hi")]}).json()
    assert body["object"] == "response.compaction" and body["output"][0]["type"] == "compaction"
    talk.reconnect()
    good(talk.ask(input=[*body["output"], user("And?")]))
    assert [message["content"] for message in service.requests[0].messages] == ["Hi", "And?"]


def test_two_turns(both):
    talk, service, _ = both
    first = good(talk.ask(input="One"))
    second = good(talk.ask(input="Two", previous_response_id=first["id"]))
    assert second["previous_response_id"] == first["id"] and len(service.requests[1].messages) == 3


def test_chains_that_are_not_stored(both):
    talk, _, _ = both
    first = good(talk.ask(input="One", store=False))["id"]
    status = talk.ask(input="Two", store=False, previous_response_id=first)[0]
    assert status == (200 if isinstance(talk, Socket) else 404)
    talk.reconnect()
    for unknown in (first, "resp_unknown"):
        status, body = talk.ask(input="Three", previous_response_id=unknown)
        assert status == 404 and body["error"]["code"] == "previous_response_not_found"


def test_an_output_that_matches_no_call(both):
    talk, _, _ = both
    first = good(talk.ask(input="One", store=False))["id"]
    status, _ = talk.ask(input=[RESULT], store=False, previous_response_id=first)
    assert status in (400, 404) and talk.ask(input="Two", previous_response_id=first)[0] == 404
