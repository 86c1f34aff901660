"""OpenCode, aider, LangChain, litellm, pydantic-ai and others on the chat dialect, and their embeddings."""

import json

import clients
import pytest
from clients import CHAT
from smelt.api import chat_completions
from test_clients_codex import post


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with clients.house(tmp_path_factory.mktemp("tiny")) as made:
        yield made


@pytest.mark.parametrize("name", CHAT)
def test_what_a_client_sends_is_answered(house, name):
    body = CHAT[name]
    answer, text = post(house[0], body, "/v1/chat/completions")
    assert answer.status == 200, text
    if not body["stream"]:
        whole = json.loads(text)
        assert whole["choices"][0]["finish_reason"] in ("length", "stop") and whole["usage"]["completion_tokens"] <= 6
        return
    blocks = text.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] in ("length", "stop")
    if "stream_options" in body:
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] > 10


def prompt_of(service, name, **fields):
    return service.render(chat_completions.parse(CHAT[name] | fields).request)


def test_parts_of_a_text_are_all_read(house):
    prompt = prompt_of(house[1], "opencode")
    assert "Look at \na.py" in prompt and "The folder is /w." in prompt and "00001| x" in prompt


def test_a_last_message_of_the_assistant_is_gone_on_from(house):
    assert prompt_of(house[1], "aider, continued").endswith("a.py\n<<<<<<< SEARCH")
    assert prompt_of(house[1], "aider, continued", continue_final_message=False).endswith("</think>\n\n")


def test_a_turn_later_the_prompt_begins_the_same(house):
    body = CHAT["langchain"]
    one = prompt_of(house[1], "langchain")
    later = [*body["messages"], {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Good."}]
    assert prompt_of(house[1], "langchain", messages=later).startswith(one.removesuffix("<think>\n\n</think>\n\n"))


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_what_a_text_model_cannot_read_is_refused_by_name(house, kind):
    part = {"type": kind, kind: {"url": "data:image/png;base64,aGk="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]
    answer, text = post(house[0], {"messages": messages}, "/v1/chat/completions")
    error = json.loads(text)["error"]
    assert answer.status == 400 and kind in error["message"] and error["param"] == "messages[0].content[1].type"


def test_embeddings_beside_a_stream(house):
    asked = {"model": "m", "input": ["one text", "another, longer text"], "encoding_format": "float", "dimensions": 8}
    answer, text = post(house[0], asked, "/v1/embeddings")
    data = json.loads(text)["data"]
    assert answer.status == 200 and [len(row["embedding"]) for row in data] == [8, 8]
    long = {"input": ["short", clients.prose(120_000)]}
    answer, text = post(house[0], long, "/v1/embeddings")
    assert answer.status == 400 and json.loads(text)["error"]["param"] == "input[1]"
    assert "32768" in json.loads(text)["error"]["message"]
