"""The official openai SDK as the client of a real server."""

import openai
import pytest
from fakes import says, slowly, words
from smelt.engine.errors import ContextExceeded, EngineFailed, NotReady, Overloaded
from smelt.engine.events import Failed, Started, Text
from test_api_chat import tool_script
from test_serve import served

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def house():
    with served() as (server, service):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client, service


@pytest.fixture
def client(house):
    house[1].script = words
    return house[0]


def test_create(client):
    done = client.chat.completions.create(**ASK, temperature=0, max_tokens=5)
    assert done.choices[0].message.content == "Hello from the fake."
    assert done.usage.prompt_tokens_details.cached_tokens == 3 and done.usage.completion_tokens == 5
    assert done.model == "m" and done.choices[0].finish_reason == "stop"


def test_stream(client):
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello from the fake."
    assert chunks[-1].usage.total_tokens == 12 and not chunks[-1].choices


def test_stream_helper(client):
    with client.chat.completions.stream(**ASK, logprobs=True, top_logprobs=1) as stream:
        kinds = {event.type for event in stream}
        done = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= kinds
    assert done.choices[0].message.content == "Hello from the fake."
    assert len(done.choices[0].logprobs.content) == 5


def test_tools_streamed(house, client):
    house[1].script = tool_script
    with client.chat.completions.stream(**ASK, tools=[TOOL]) as stream:
        deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message
    assert len(deltas) >= 3
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("weather", '{"city":"Oslo"}'),
        ("time", "{}"),
    ]
    whole = client.chat.completions.create(**ASK, tools=[TOOL]).choices[0].message
    assert whole.tool_calls[0].id == "call_a" and whole.reasoning_content == "hmm"
    again = [*ASK["messages"], whole, {"role": "tool", "tool_call_id": "call_a", "content": "rain"}]
    assert client.chat.completions.create(model="m", messages=again).choices
    assert house[1].requests[-1].messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}


def test_logprobs_and_n(client):
    done = client.chat.completions.create(**ASK, n=2, logprobs=True, top_logprobs=3)
    assert [choice.index for choice in done.choices] == [0, 1]
    scored = done.choices[1].logprobs.content[0]
    assert scored.token == "Hello" and scored.logprob == -0.5 and len(scored.top_logprobs) == 3


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
        client.chat.completions.create(**ASK, stream=stream)
    assert caught.value.code == raised.code and str(raised.message) in caught.value.message


def test_wrong_parameters(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK, top_p=2)
    assert caught.value.param == "top_p"
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(**ASK, response_format={"type": "xml"})


def test_an_error_in_mid_stream(house, client):
    house[1].script = says(Started(1), Text("Hel"), Failed(EngineFailed("the step raised")))
    with pytest.raises(openai.APIError, match="the step raised"):
        list(client.chat.completions.create(**ASK, stream=True))


def test_leaving_a_stream_frees_the_row(house, client):
    house[1].script = slowly(0.02, ["x"] * 500)
    stream = client.chat.completions.create(**ASK, stream=True)
    next(stream)
    stream.close()
    assert house[1].streams[-1].cancelled.wait(1)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "smelt"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


def test_the_key():
    with served(api_key="secret") as (server, _):
        for key, kind in (("wrong", openai.AuthenticationError), ("secret", None)):
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
                if kind:
                    with pytest.raises(kind):
                        client.chat.completions.create(**ASK)
                else:
                    assert client.chat.completions.create(**ASK).choices
