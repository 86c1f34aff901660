"""The official anthropic SDK as the client of a real server."""

import pytest
from fakes import finished, prefill, says, slowly, words
from smelt.engine.errors import ContextExceeded, EngineFailed, Overloaded
from smelt.engine.events import Failed, Started, Text, ToolArguments, ToolClosed, ToolOpened
from test_api_chat import tool_script
from test_serve import served

anthropic = pytest.importorskip("anthropic")
ASK = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture(scope="module")
def house():
    with served(keep_alive_s=0.1, poll_s=0.05) as (server, service):
        with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
            yield client, service


@pytest.fixture
def client(house):
    house[1].script = words
    return house[0]


def test_create(client):
    message = client.messages.create(**ASK, system="Be brief.", extra_body={"temperature": 0})
    assert message.content[0].text == "Hello from the fake." and message.stop_reason == "end_turn"
    assert message.usage.cache_read_input_tokens == 3 and message.usage.output_tokens == 5
    assert message.usage.output_tokens_details.thinking_tokens == 0


def test_create_streamed(client):
    kinds = [event.type for event in client.messages.create(**ASK, stream=True)]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"


def test_stream_helper(client):
    with client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "Hello from the fake."
        message = stream.get_final_message()
    assert message.usage.output_tokens == 5 and message.stop_reason == "end_turn"


def test_tools_and_thinking(house, client):
    house[1].script = tool_script
    with client.messages.stream(**ASK, tools=[TOOL], thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_message()
    assert {"thinking", "input_json", "content_block_stop"} <= kinds
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].input == {"city": "Oslo"} and message.content[0].signature == "smelt"
    results = [{"type": "tool_result", "tool_use_id": call, "content": "1"} for call in ("call_a", "call_b")]
    turns = [*ASK["messages"], {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    assert client.messages.create(**ASK | {"messages": turns}, tools=[TOOL]).stop_reason == "tool_use"


def test_count_tokens(client):
    assert client.messages.count_tokens(model="m", messages=ASK["messages"], tools=[TOOL]).input_tokens > 5


def test_pings_in_a_long_prefill(house, client):
    house[1].script = prefill(0.5)
    with client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "Hello from the fake."


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(ContextExceeded(5000, 4096), 400), (Overloaded("full"), 529), (EngineFailed("step"), 500)],
)
def test_errors(house, client, raised, kind):
    house[1].script = raised
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**ASK)
    assert caught.value.status_code == kind and str(raised) in caught.value.message
    assert ("prompt is too long: 5000 tokens > 4096 maximum" in caught.value.message) == (kind == 400)
    house[1].script = says(Started(1), Text("a"), Failed(raised))
    with pytest.raises(anthropic.APIStatusError):
        list(client.messages.create(**ASK, stream=True))


def test_wrong_parameters(client):
    with pytest.raises(anthropic.BadRequestError, match="top_p"):
        client.messages.create(**ASK, extra_body={"top_p": 2})
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()


def test_leaving_a_stream_frees_the_row(house, client):
    house[1].script = slowly(0.02, ["x"] * 500)
    with client.messages.stream(**ASK) as stream:
        next(iter(stream.text_stream))
    assert house[1].streams[-1].cancelled.wait(1)


def test_models(client):
    (model,) = client.models.list()
    assert model == client.models.retrieve("fake")
    assert (model.id, model.type, model.max_input_tokens, model.created_at.year) == ("fake", "model", 4096, 2023)
    assert model.lifecycle == "active"


def test_request_ids(house, client):
    message = client.messages.create(**ASK)
    assert message._request_id.startswith("req_")
    house[1].script = Overloaded("full")
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**ASK)
    assert caught.value.request_id == caught.value.body["request_id"]


def test_the_tool_runner(house, client):
    """The SDK's own loop: it calls the tool, sends the result, and ends with the answer."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    def script(request):
        if request.messages[-1]["role"] == "tool":
            return words(request)
        return [Started(5), ToolOpened(0, "call_a", "weather"), ToolArguments(0, '{"city":"Oslo"}'), ToolClosed(0),
                finished(reason="tool_calls")]  # fmt: skip

    house[1].script = script
    runner = client.beta.messages.tool_runner(**ASK, tools=[weather])
    assert runner.until_done().content[0].text == "Hello from the fake."
    assert house[1].requests[-1].messages[-1] == {"role": "tool", "content": "rain in Oslo", "tool_call_id": "call_a"}
    streams = [stream.get_final_message().stop_reason for stream in client.beta.messages.tool_runner(
        **ASK, tools=[weather], stream=True)]  # fmt: skip
    assert streams == ["tool_use", "end_turn"]
