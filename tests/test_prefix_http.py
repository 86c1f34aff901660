"""Conversations over HTTP, with models that keep what they read and with models that do not."""

import json
import shutil

import checkpoints
import checkpoints_lfm2
import falcon.testing
import pytest
import tiny
from smelt.api.app import create_app
from smelt.engine.options import Options
from smelt.engine.service import Service

SYSTEM = "You are asked about places. Answer briefly, in plain words, and say when you do not know. " * 4
HELLO = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Name three rivers of Europe, please."}]
MORE = {"role": "user", "content": "And which of them is the longest one?"}


def model(kind, folder):
    """The built-in model, or a random one with its tokenizer."""
    if kind == "builtin":
        return None
    tiny.make(folder / "text")
    vocab = json.loads((folder / "text" / "config.json").read_text())["vocab_size"]
    maker = checkpoints_lfm2 if kind == "lfm2" else checkpoints
    made = maker.make(folder / kind, kind, vocab_size=vocab, max_position_embeddings=4096)
    for name in tiny.TEXT_FILES:
        shutil.copy(tiny.BUILTIN / name, made / name)
    return str(made)


class House:
    def __init__(self, path, **options):
        self.service = Service(Options(model=path, ctx_size=2048, **options))
        self.service.start()
        self.service.wait_ready(120)
        self.client = falcon.testing.TestClient(create_app(self.service))

    def post(self, path, **fields):
        answer = self.client.simulate_post(path, json={"model": "m"} | fields)
        assert answer.status_code == 200, answer.text
        return answer.json

    def chat(self, messages, **fields):
        asked = {"messages": messages, "max_tokens": 24, "temperature": 0} | fields
        body = self.post("/v1/chat/completions", **asked)
        return body["choices"][0]["message"]["content"], body


@pytest.fixture(scope="module", params=["builtin", "lfm2", "gemma3"])
def houses(request, tmp_path_factory):
    """(with a prefix cache, without)"""
    path = model(request.param, tmp_path_factory.mktemp("models"))
    both = House(path), House(path, prefix_entries=0)
    yield both
    for house in both:
        house.service.close()


def cached(body):
    return body["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "seed": 7}], ids=["greedy", "seeded"])
def test_the_second_turn_reports_cached_tokens_and_answers_as_a_cold_server(houses, fields):
    warm, cold = houses
    said, _ = warm.chat(HELLO, **fields)
    assert said == cold.chat(HELLO, **fields)[0]
    turn = [*HELLO, {"role": "assistant", "content": said}, MORE]
    (again, body), (expected, other) = warm.chat(turn, **fields), cold.chat(turn, **fields)
    prompt = body["usage"]["prompt_tokens"]
    assert prompt / 2 < cached(body) < prompt and cached(other) == 0 and again == expected
    assert body["timings"]["cache_n"] == cached(body) and body["timings"]["prompt_n"] == prompt - cached(body)
    assert body["timings"]["fast_paths"]["prefix"].startswith(f"{cached(body)} of {prompt} tokens: ")
    assert other["timings"]["fast_paths"]["prefix"] is None


def test_another_conversation_begins_with_the_same_system_message(houses):
    warm, cold = houses
    warm.chat(HELLO)
    other = [HELLO[0], {"role": "user", "content": "How many people live in Oslo?"}]
    said, body = warm.chat(other)
    assert cached(body) > 60 and said == cold.chat(other)[0]


def test_every_dialect_tells_what_was_cached(houses):
    warm, cold = houses
    system, user = HELLO
    ask = {"messages": [user | {"content": "Name a lake."}], "max_tokens": 4}
    block = {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}
    for given, marked in (([block], True), (SYSTEM, False)):
        first, then = (warm.post("/v1/messages", system=given, **ask)["usage"] for _ in range(2))
        total = sum(first[name] for name in COUNTED)
        assert total == sum(then[name] for name in COUNTED) and then["cache_read_input_tokens"] > total / 2
        created = total - then["cache_read_input_tokens"] - 1 if marked else 0
        assert then["cache_creation_input_tokens"] == created and then["input_tokens"] >= 1
    told = warm.post("/v1/responses", instructions=SYSTEM, input="Name a lake.", max_output_tokens=4)["usage"]
    details = told["input_tokens_details"]
    assert details["cached_tokens"] > 60
    assert details["cached_tokens"] + details["cache_write_tokens"] + 1 == told["input_tokens"] == total
    plain = cold.post("/v1/responses", instructions=SYSTEM, input="Name a lake.", max_output_tokens=4)["usage"]
    assert plain["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}


COUNTED = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def test_completions_and_their_choices_share_a_prompt(houses):
    warm, cold = houses
    fields = {"prompt": SYSTEM, "n": 3, "max_tokens": 6, "temperature": 1.0, "seed": 3}
    texts = [[choice["text"] for choice in house.post("/v1/completions", **fields)["choices"]] for house in houses]
    assert texts[0] == texts[1]
    assert cached(warm.post("/v1/completions", **fields | {"n": 1})) > 60


def test_a_failed_step_leaves_nothing_behind_that_later_prompts_would_find(houses, monkeypatch):
    warm, cold = houses
    warm.chat(HELLO)
    scheduler = warm.service.engine.scheduler
    broken = lambda sequence, budget: (_ for _ in ()).throw(RuntimeError("broken"))  # noqa: E731
    monkeypatch.setattr(scheduler, "fill", broken)
    answer = warm.client.simulate_post("/v1/chat/completions", json={"model": "m", "messages": HELLO})
    assert answer.status_code == 500
    said, body = warm.chat(HELLO, max_tokens=12)
    assert cached(body) == 0 and said == cold.chat(HELLO, max_tokens=12)[0]
    assert cached(warm.chat(HELLO)[1]) > 0


def test_embeddings_have_no_part_in_it(houses):
    warm, _ = houses
    before = warm.service.stats()["prefix_entries"]
    first, again = (warm.post("/v1/embeddings", input=SYSTEM * 2) for _ in range(2))
    one, other = (body["data"][0]["embedding"] for body in (first, again))
    assert sum(a * b for a, b in zip(one, other, strict=True)) > 0.99
    assert warm.service.stats()["prefix_entries"] == before
