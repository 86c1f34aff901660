"""The official openai SDK, its Responses half, as the client of a real server; and with the model that ships inside."""

import json
import threading

import openai
import pytest
from fakes import prefill, says, slowly, words
from smelt.api.app import create_app
from smelt.api.serve import Server
from smelt.api.settings import Settings
from smelt.engine.errors import ContextExceeded, EngineFailed, NotReady, Overloaded
from smelt.engine.events import Failed, Started, Text
from smelt.engine.options import Options
from smelt.engine.service import Service
from test_api_chat import tool_script
from test_serve import served, until

ASK = {"model": "m", "input": "Hi"}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMELT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def house(home):
    with served(keep_alive_s=0.1, poll_s=0.05) as (server, service):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client, service


@pytest.fixture
def client(house):
    house[1].script = words
    return house[0]


def test_create(client):
    done = client.responses.create(**ASK, temperature=0, max_output_tokens=50)
    assert done.output_text == "Hello from the fake." and done.status == "completed"
    assert done.usage.input_tokens_details.cached_tokens == 3 and done.usage.total_tokens == 12


def test_stream(client):
    got = list(client.responses.create(**ASK, stream=True))
    assert "".join(e.delta for e in got if e.type == "response.output_text.delta") == "Hello from the fake."
    assert [event.sequence_number for event in got] == list(range(len(got)))
    assert got[-1].type == "response.completed"


def test_stream_helper_with_tools(house, client):
    house[1].script = tool_script
    with client.responses.stream(**ASK, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        done = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.delta") == 3
    assert [item.type for item in done.output] == ["reasoning", "message", "function_call", "function_call"]
    assert done.output[2].arguments == '{"city":"Oslo"}' and done.output_text == "I look."


def test_turns_by_hand_and_by_chain(house, client):
    house[1].script = tool_script
    first = client.responses.create(**ASK, tools=[TOOL])
    results = [{"type": "function_call_output", "call_id": c, "output": "rain"} for c in ("call_a", "call_b")]
    client.responses.create(model="m", input=[{"role": "user", "content": "Hi"}, *first.output, *results])
    client.responses.create(model="m", previous_response_id=first.id, input=results)
    by_hand, by_chain = (request.messages for request in house[1].requests[-2:])
    assert by_hand == by_chain and [m["role"] for m in by_hand] == ["user", "assistant", "tool", "tool"]


def test_what_is_kept(client):
    done = client.responses.create(**ASK)
    assert client.responses.retrieve(done.id).output_text == done.output_text
    assert [item.content[0].text for item in client.responses.input_items.list(done.id)] == ["Hi"]
    client.responses.delete(done.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(**ASK, previous_response_id=done.id)
    assert caught.value.code == "previous_response_not_found"


def test_input_tokens_and_compact(client):
    assert client.responses.input_tokens.count(**ASK).input_tokens == len("<user>Hi\n")
    compacted = client.responses.compact(**ASK)
    assert compacted.object == "response.compaction"
    assert client.responses.create(model="m", input=[*compacted.output, {"role": "user", "content": "And?"}]).output


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ContextExceeded(5000, 4096), openai.BadRequestError),
        (Overloaded("full"), openai.RateLimitError),
        (EngineFailed("step"), openai.InternalServerError),
        (NotReady("loading"), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(house, client, raised, kind, stream):
    house[1].script = raised
    with pytest.raises(kind) as caught:
        client.responses.create(**ASK, stream=stream)
    assert caught.value.code == raised.code and str(raised.message) in caught.value.message


def test_an_error_in_mid_stream(house, client):
    house[1].script = says(Started(1), Text("Hel"), Failed(EngineFailed("the step raised")))
    with pytest.raises(openai.APIError, match="the step raised"):
        list(client.responses.create(**ASK, stream=True))


def test_silence_is_filled_with_events(house, client):
    house[1].script = prefill(0.5)
    kinds = [event.type for event in client.responses.create(**ASK, stream=True)]
    assert kinds[0] == "response.created" and kinds.count("response.created") == 1
    assert kinds.count("response.in_progress") >= 3 and kinds[-1] == "response.completed"


def test_leaving_a_stream_frees_the_row(house, client):
    house[1].script = slowly(0.02, ["x"] * 500)
    stream = client.responses.create(**ASK, stream=True)
    next(iter(stream))
    stream.close()
    assert house[1].streams[-1].cancelled.wait(1)


def test_cancel(house, client):
    house[1].script = slowly(0.02, ["x"] * 500)
    stream = iter(client.responses.create(**ASK, stream=True))
    ident = next(stream).response.id
    assert client.responses.retrieve(ident).status == "in_progress"
    seen = []
    reading = threading.Thread(target=lambda: seen.extend(stream))
    reading.start()
    until(lambda: seen)
    assert client.responses.cancel(ident).status == "cancelled"
    reading.join(5)
    assert seen[-1].response.status == "cancelled" and house[1].streams[-1].cancelled.is_set()
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(ident)


def test_two_turns_over_the_websocket(house, client):
    with client.responses.connect() as connection:
        connection.response.create(**ASK, store=False)
        first = read(connection)
        assert first.output_text == "Hello from the fake."
        connection.response.create(model="m", input="And?", store=False, previous_response_id=first.id)
        assert read(connection).previous_response_id == first.id
    assert len(house[1].requests[-1].messages) == 3


def read(connection):
    for event in connection:
        assert event.type != "error", event
        if event.type == "response.completed":
            return event.response


# The model that ships inside


@pytest.fixture(scope="module")
def real(home):
    service = Service(Options())
    server = Server(create_app(service, settings := Settings(port=0, max_streams=8)), settings)
    loop = threading.Thread(target=server.run)
    loop.start()
    service.start()
    service.wait_ready(120)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    server.drain(service.close)
    loop.join(10)


FIXED = {"model": "builtin", "temperature": 0, "max_output_tokens": 60}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


def test_the_real_model_answers(real):
    whole = real.responses.create(input="What is 23 + 45?", **FIXED)
    assert "68" in whole.output_text and whole.status == "completed"
    with real.responses.stream(input="What is 23 + 45?", **FIXED) as stream:
        assert stream.get_final_response().output_text == whole.output_text
    with real.responses.connect() as connection:
        connection.response.create(input="What is 23 + 45?", generate=False, **FIXED)
        warm = read(connection)
        assert warm.output == [] and warm.usage.input_tokens == whole.usage.input_tokens
        connection.response.create(input="What is 23 + 45?", **FIXED)
        assert read(connection).output_text == whole.output_text
    short = real.responses.create(input="What is 23 + 45?", **FIXED | {"max_output_tokens": 1})
    assert short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens"


def test_the_real_model_calls_a_tool(real):
    first = real.responses.create(input="What's the weather in Paris?", tools=[WEATHER], **FIXED)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather" and json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21, "sky": "sunny"}'}
    second = real.responses.create(input=[result], previous_response_id=first.id, tools=[WEATHER], **FIXED)
    assert "21" in second.output_text and second.status == "completed"
