"""Drafts from a request to its answer, with the model that ships inside: what speculates, what is told, the same text."""

import re
from types import SimpleNamespace

import pytest
from smelt.engine.drafting import PACKED_PRICE, price_of
from smelt.engine.errors import BadRequest
from smelt.engine.events import Finished, Reasoning, Text, ToolArguments, ToolOpened
from smelt.engine.lookup import repetition
from smelt.engine.options import Options
from smelt.engine.request import Request, Shape, ToolUse
from smelt.engine.service import Service
from smelt.kernels import launch

CODE = '''def total(values, limit):
    count = 0
    for value in values:
        if value > limit:
            count += value
    return count
'''
EDIT = [{"role": "user", "content": f"Rename count to amount.\n\n```python\n{CODE}\n```"}]
QUOTE = [{"role": "user", "content": "Say: the red fox and the red hen and the red fox and the red hen met the red cow"}]
HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "country": {"type": "string"}}, "required": ["city"]}}}]
SHELL = [{"role": "user", "content": 'Run this: ls home, then "ls home and ls home and ls home"'}]
BASH = {"type": "function", "function": {"name": "bash", "parameters": {
    "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}}}
WEATHER = [{"role": "user", "content": "What is the weather in Oslo?"}]  # fmt: skip


@pytest.fixture(scope="module")
def service():
    made = Service(Options(ctx_size=2048, warmup=False))
    made.start()
    made.wait_ready(120)
    yield made
    made.close()


def ask(service, messages=EDIT, max_tokens=60, **fields):
    sampling = {"temperature": 0.0, "seed": 5, **fields.pop("sampling", {})}
    return list(service.submit(Request(messages=messages, max_tokens=max_tokens, sampling=sampling, **fields)))


def ends(events):
    return [event for event in events if isinstance(event, Finished)]


def paths(events):
    return ends(events)[0].timings.paths


def content(events):
    """What was said, by choice, whatever pieces it came in."""
    said = {}
    for event in events:
        if isinstance(event, (Text, Reasoning, ToolArguments)):
            key = event.index, type(event).__name__, getattr(event, "call", None)
            said[key] = said.get(key, "") + event.text
        elif isinstance(event, ToolOpened):
            said[event.index, "tool", event.call] = event.name
    return said, [(end.index, end.reason, end.usage.completion_tokens, end.stop) for end in ends(events)]


ASKED = {
    "greedy": {},
    "drawn": {"sampling": {"temperature": 0.8, "top_p": 0.95}},
    "penalties": {"sampling": {"repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.1}},
    "logprobs": {"sampling": {"temperature": 0.5, "top_logprobs": 2}},
    "three answers": {"n": 3, "sampling": {"temperature": 0.7}},
    "a stop string": {"stop": ("value >",)},
    "no reasoning": {"template_kwargs": {"enable_thinking": False}},
    "a budget": {"reasoning_budget": 5},
    "a choice": {"messages": QUOTE, "shape": Shape("choice", ["the red fox and the red fox", "the red hen and the red hen"], "choice")},
    "json": {"messages": QUOTE, "shape": Shape("json", {"type": "object", "properties": {
        "first": {"type": "string", "maxLength": 24}, "second": {"type": "string", "maxLength": 24}},
        "required": ["first", "second"], "additionalProperties": False}, "response_format")},
    "tools": {"messages": WEATHER, "tools": TOOLS},
    "a tool that must be called": {"messages": WEATHER, "tools": TOOLS, "tool_use": ToolUse(required=True, name="get_weather")},
    "a tool whose input has a grammar": {"messages": SHELL, "tools": [BASH], "tool_use": ToolUse(
        required=True, name="bash", inputs={"bash": Shape("regex", r"(ls|cat) [a-z]+\\n\"[a-z ]{1,20}\"", "tools")})},
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED)
def test_the_answer_is_the_same(service, asked):
    plain, drafted = (ask(service, **{**ASKED[asked], "enable_pld": pld}) for pld in (False, True))
    assert content(plain) == content(drafted)
    assert paths(plain).speculation is None and paths(plain).drafts == 0
    if asked in ("greedy", "json", "no reasoning", "three answers"):
        assert paths(drafted).speculation == "pld" and 0 < paths(drafted).accepted <= paths(drafted).drafted


def test_drafts_save_steps_where_the_prompt_comes_again(service, monkeypatch):
    monkeypatch.setattr(service.drafting, "price", 0.0)  # as on a GPU
    steps = []
    for pld in (False, True):
        before = service.stats()["steps"]
        events = ask(service, enable_pld=pld, template_kwargs={"enable_thinking": False})
        steps.append(service.stats()["steps"] - before)
    assert steps[0] >= ends(events)[0].usage.completion_tokens - 1 and steps[1] < 0.6 * steps[0]


def test_a_prediction_is_drafted_from(service):
    """Of the whole answer, as editors send it; wrong ones cost nothing but time."""
    plain = ask(service, HELLO, enable_pld=False)
    answer = content(plain)[0][0, "Text", None]
    right = ask(service, HELLO, prediction=answer)
    wrong = ask(service, HELLO, prediction="def f(x):\n    return x")
    refused = ask(service, HELLO, prediction=answer, enable_pld=False)
    assert content(right) == content(plain) == content(wrong) == content(refused)
    used = ends(right)[0].usage
    assert used.accepted_prediction_tokens >= used.completion_tokens // 2 > 0
    assert ends(wrong)[0].usage.accepted_prediction_tokens <= ends(wrong)[0].usage.rejected_prediction_tokens
    assert paths(refused).drafts == 0 and ends(refused)[0].usage.accepted_prediction_tokens == 0


def test_who_is_drafted(service):
    """The request's word, then the server's, then the prompt's."""
    make = service.drafting.make
    repeats, not_so = list(range(50)) * 2, list(range(100))
    assert repetition(repeats) > 0.5 and repetition(not_so) == 0
    on = {pld: [make(Request(tokens=prompt, enable_pld=pld), prompt)[0] is not None for prompt in (repeats, not_so)]
          for pld in (None, True, False)}  # fmt: skip
    assert on == {None: [True, False], True: [True, True], False: [False, False]}
    service.drafting.options = Options(pld=False, pld_draft_len=2, pld_key_len=4)
    try:
        assert make(Request(tokens=repeats), repeats) == [None]
        (made,) = make(Request(tokens=repeats, enable_pld=True), repeats)
        assert (made.most, made.lookup.size) == (2, 4)
    finally:
        service.drafting.options = service.options


def test_what_a_drafted_token_costs_is_known(service, monkeypatch):
    """On a CPU much, the more with packed weights; where the kernels run nothing."""
    monkeypatch.setattr(launch, "machine", lambda: "cpu")
    plain = SimpleNamespace(embedding=SimpleNamespace(packed=False))
    assert price_of(service.engine.model) == PACKED_PRICE > price_of(plain) > 0
    monkeypatch.setattr(launch, "machine", lambda: "metal")
    assert price_of(service.engine.model) == price_of(plain) == 0


def test_where_drafts_would_change_the_answer_they_are_refused(service, monkeypatch):
    repeats = [1, 2, 3, 4] * 5
    monkeypatch.setattr(service.drafting, "possible", False)
    for fields in ({}, {"enable_pld": False}, {"prediction": "abc"}):
        assert service.drafting.make(Request(tokens=repeats, **fields), repeats) == [None]
    with pytest.raises(BadRequest, match="follows the length of the text") as refused:
        ask(service, enable_pld=True)
    assert refused.value.param == "enable_pld"


def test_answers_to_one_prompt_share_its_index(service):
    one, two = service.drafting.make(Request(tokens=[1, 2, 3, 4] * 5, n=2, enable_pld=True), [1, 2, 3, 4] * 5)
    assert one.lookup.shared is two.lookup.shared and one.lookup.tokens is not two.lookup.tokens


def test_the_log_tells_it(service, caplog):
    import logging

    from smelt.api.answer import log_drafts

    with caplog.at_level(logging.INFO, logger="smelt"):
        log_drafts(paths(ask(service, enable_pld=False)), "a")
        log_drafts(paths(ask(service, enable_pld=True)), "b")
    (line,) = [text for record in caplog.records if "[spec-stats]" in (text := record.getMessage())]
    found = re.fullmatch(
        r"\[spec-stats\] mode=pld attempts=(\d+) accepts=(\d+) avg_per_round=([\d.]+) per_draft_pct=([\d.]+)"
        r" runtime_disabled=(true|false) b", line,
    )  # fmt: skip
    assert found and int(found[2]) > 0 and float(found[3]) == round(int(found[2]) / int(found[1]), 2)
