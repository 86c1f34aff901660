"""Claude Code, over HTTP: what it sends is answered, and a long session keeps its prompt's beginning."""

import http.client
import json
import os

import clients
import falcon.testing
import pytest
from clients import CLAUDE_HEADERS, claude_code, claude_messages, prose
from fakes import FakeService
from smelt.api import messages
from smelt.api.app import create_app
from smelt.api.settings import Settings

PATH = "/v1/messages?beta=true"
COUNT = "/v1/messages/count_tokens?beta=true"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with clients.house(tmp_path_factory.mktemp("tiny")) as made:
        yield made


def post(server, path, body):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    client.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **CLAUDE_HEADERS})
    answer = client.getresponse()
    return answer, answer.read().decode()


def streamed(server, body):
    answer, text = post(server, PATH, body)
    assert answer.status == 200, text
    return [json.loads(block.split("\ndata: ")[1]) for block in text.strip().split("\n\n")]


def asked(body):
    return messages.parse(body).request


def test_a_request_in_the_middle_of_a_session(house):
    got = streamed(house[0], claude_code(turns=3))
    kinds = [event["type"] for event in got]
    assert kinds[:2] == ["message_start", "ping"] and kinds[-2:] == ["message_delta", "message_stop"]
    usage = got[-2]["usage"]
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    begun = got[0]["message"]["usage"]
    assert usage["output_tokens"] <= 6 and sum(usage[kind] for kind in kinds) == begun["input_tokens"] > 1000
    assert usage["input_tokens"] > 0  # a client may take 0 for "as told before", and count the prompt twice
    assert got[0]["message"]["model"] == "claude-sonnet-4-5-20250929"


def test_what_the_template_is_given(house):
    request = asked(claude_code(turns=1))
    roles = [message["role"] for message in request.messages]
    assert roles == ["system", "user", "system", "assistant", "tool", "system"]
    assert request.messages[0]["content"].startswith("You are Claude Code")
    assert request.messages[3]["reasoning_content"] == "I should look at the file."
    assert request.messages[4]["content"] == "1\tdef f():\n2\t    return 1"
    names = [tool["function"]["name"] for tool in request.tools]
    assert names == [*clients.SCHEMAS, "ToolSearch"], "the deferred tool is not offered"
    assert request.template_kwargs == {"enable_thinking": True, "reasoning_effort": "high"}


def test_the_line_that_changes_does_not_change_the_prompt(house):
    one, two = (house[1].prompt_of(asked(claude_code(session))) for session in ("a1b2c", "f9e8d"))
    assert one == two
    text = "x-anthropic-billing-header: cch=abc;\nBe brief."
    assert asked(claude_code(system=text)).messages[0] == {"role": "system", "content": "Be brief."}
    kept = "The header x-anthropic-billing-header: is spoken of here."
    assert asked(claude_code(system=kept)).messages[0]["content"] == kept


def test_a_turn_later_the_prompt_begins_the_same(house):
    service = house[1]
    before, after = (service.prompt_of(asked(claude_code(turns=turns))) for turns in (2, 3))
    same = len(os.path.commonprefix([before, after]))
    assert len(before) - same < 10 and len(after) > same + 30, "but for the beginning of the answer"


def test_moving_cache_marks_do_not_change_the_prompt(house):
    marked = claude_code()
    bare = json.loads(json.dumps(marked).replace(json.dumps(clients.EPHEMERAL), "null"))
    assert house[1].prompt_of(asked(marked)) == house[1].prompt_of(asked(bare))


def test_a_tool_that_a_search_found_is_offered():
    search = {"type": "tool_use", "id": "s", "name": "ToolSearch", "input": {"query": "select:WebFetch"}}
    found = {"type": "tool_result", "tool_use_id": "s", "content": [{"type": "tool_reference", "tool_name": "WebFetch"}]}
    turns = [{"role": "assistant", "content": [search]}, {"role": "user", "content": [found]}]
    request = asked(claude_code(messages=[*claude_messages(0), *turns]))
    assert [tool["function"]["name"] for tool in request.tools][-2:] == ["ToolSearch", "WebFetch"]
    assert "WebFetch" in request.messages[-1]["content"]


def test_counting_is_cheap(house):
    """/context counts every tool and section by itself: nothing is submitted, no place at the gate is taken."""
    fields = claude_code()
    for tool in fields["tools"]:
        answer, text = post(house[0], COUNT, {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [tool]})
        assert answer.status == 200 and json.loads(text)["input_tokens"] > 5
    whole = {key: fields[key] for key in ("model", "messages", "system", "tools", "thinking", "context_management", "output_config")}
    _, text = post(house[0], COUNT, whole)
    assert json.loads(text)["input_tokens"] == streamed(house[0], fields)[0]["message"]["usage"]["input_tokens"]
    full = falcon.testing.TestClient(create_app(service := FakeService(), Settings(max_streams=0)))
    counted = full.simulate_post("/v1/messages/count_tokens", json=whole)
    assert counted.status_code == 200 and not service.requests and not service.streams


def test_an_image_is_refused_by_name(house):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    for content in ([image], [{"type": "tool_result", "tool_use_id": "t", "content": [image]}]):
        answer, text = post(house[0], PATH, claude_code(messages=[{"role": "user", "content": content}]))
        error = json.loads(text)
        assert answer.status == 400 and error["type"] == "error"
        assert "messages[0].content[0]" in error["error"]["message"] and "text only" in error["error"]["message"]


def test_a_conversation_that_is_too_long_says_so_in_its_words(house):
    answer, text = post(house[0], PATH, claude_code(system=prose(120_000)))
    error = json.loads(text)["error"]
    assert answer.status == 400 and error["type"] == "invalid_request_error"
    assert error["message"].startswith("prompt is too long: ") and "tokens > 32768 maximum" in error["message"]


def test_a_sub_agent_beside_it(house):
    """A second conversation with tools of its own and the same system prompt."""
    import threading

    agent = claude_code(turns=0, tools=claude_code()["tools"][:2], thinking={"type": "disabled"})
    answers = {}
    bodies = {"main": claude_code(turns=2), "agent": agent, "title": claude_code(turns=0, tools=[], max_tokens=512)}
    threads = [
        threading.Thread(target=lambda key=key, body=body: answers.update({key: streamed(house[0], body)}))
        for key, body in bodies.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(got[-1]["type"] == "message_stop" for got in answers.values()) and len(answers) == 3


def test_the_first_look_at_a_server(house):
    client = http.client.HTTPConnection("127.0.0.1", house[0].port, timeout=10)
    client.request("HEAD", "/")
    answer = client.getresponse()
    assert answer.status == 200 and answer.read() == b""


def test_the_last_message_is_gone_on_from(house):
    prefill = claude_code(messages=[{"role": "user", "content": "Give JSON."}, {"role": "assistant", "content": "{"}])
    assert asked(prefill).continue_final
    assert house[1].render(asked(prefill)).endswith("{")
    assert streamed(house[0], prefill)[-1]["type"] == "message_stop"
