"""Requests in, events out: everything between a dialect's parser and the engine's thread."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import tiny
from smelt.engine.errors import BadRequest, ContextExceeded, EngineFailed, NotReady
from smelt.engine.events import FastPaths, Finished, Progress, Reasoning, Started, Text
from smelt.engine.options import Options
from smelt.engine.request import Request, Shape
from smelt.engine.service import Service, sampling_defaults
from smelt.kernels import launch

HELLO = [{"role": "user", "content": "Hello there, who are you?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("tiny"))


def started(folder, **options):
    service = Service(Options(model=str(folder), **options))
    service.start()
    service.wait_ready(60)
    return service


@pytest.fixture(scope="module")
def service(folder):
    service = started(folder, warmup=False)
    yield service
    service.close()


def ask(service, max_tokens=24, **fields):
    given = {} if {"text", "tokens"} & fields.keys() else {"messages": HELLO}
    sampling = {"temperature": 0.0, **fields.pop("sampling", {})}
    return list(service.submit(Request(**given, max_tokens=max_tokens, sampling=sampling, **fields)))


def text(events, index=0):
    return "".join(e.text for e in events if isinstance(e, Text) and e.index == index)


def end(events, index=0):
    return next(e for e in events if isinstance(e, Finished) and e.index == index)


def test_the_order_of_events(service):
    events = ask(service)
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert events[0].prompt_tokens == end(events).usage.prompt_tokens > 10
    kinds = [type(e) for e in events[1:-1]]
    assert kinds == sorted(kinds, key=[Progress, Text].index)
    assert end(events).usage.completion_tokens == 24 and end(events).reason == "length"
    timings = end(events).timings
    assert timings.prefill_s > 0 and timings.decode_s > 0 and timings.queue_s >= 0 and timings.template_s > 0


def test_which_fast_paths_an_answer_took(service):
    alone = end(ask(service)).timings.paths
    kernels = None if launch.unavailable("linear") else launch.machine()
    traced = service.engine.scheduler.traced.worthwhile
    assert replace(alone, prefix=None) == FastPaths(kernels, 23 if traced else 0, rows=1)
    assert end(ask(service, n=3), 2).timings.paths.rows == 3


def test_the_text_is_the_decoded_tokens(service):
    events = ask(service, sampling={"top_logprobs": 0})
    ids = [t.id for e in events if isinstance(e, Text) for t in e.logprobs]
    assert len(ids) == 24 and text(events) == service.tokenizer.decode(ids)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_stop_strings_end_the_text_and_are_not_in_it(service, temperature):
    sampling = {"temperature": temperature, "seed": 5, "top_logprobs": 0}
    whole = text(ask(service, 40, sampling=sampling))
    for begin in range(3, len(whole) - 6, 4):
        stop = whole[begin : begin + 5]
        events = ask(service, 40, stop=["\x00never", stop], sampling=sampling)
        assert text(events) == whole[: whole.index(stop)]
        assert (end(events).reason, end(events).stop) == ("stop", stop)
        told = "".join(t.text for e in events if isinstance(e, Text) for t in e.logprobs)
        assert told.startswith(text(events)) or "\ufffd" in told


def test_a_prefix_of_a_stop_string_comes_out_in_the_end(service):
    whole = text(ask(service))
    assert text(ask(service, stop=[whole[-3:] + "never"])) == whole


def test_choices_are_independent_and_repeatable(service):
    sampling = {"temperature": 1.2, "seed": 11}
    together = ask(service, n=3, sampling=sampling)
    alone = [ask(service, sampling=sampling | {"seed": 11 + i}) for i in range(3)]
    assert [text(together, i) for i in range(3)] == [text(events) for events in alone]
    assert len({text(together, i) for i in range(3)}) == 3


def test_without_a_seed_answers_differ(service):
    answers = {text(ask(service, sampling={"temperature": 1.5})) for _ in range(4)}
    assert len(answers) > 1


def test_logprobs_cover_every_token_once(service):
    events = ask(service, sampling={"top_logprobs": 3, "temperature": 0.0})
    told = [t for e in events if isinstance(e, Text) for t in e.logprobs]
    assert len(told) == 24
    for t in told:
        assert len(t.top) == 3 and t.top[0].logprob >= t.top[1].logprob >= t.top[2].logprob
        assert t.id == t.top[0].id and t.logprob == pytest.approx(t.top[0].logprob, abs=1e-5) and t.logprob <= 0


def test_a_prompt_as_text_and_as_tokens_is_the_same(service):
    ids = service.tokenizer.encode_prompt("once upon a time", rendered_by_template=False)
    assert text(ask(service, text="once upon a time")) == text(ask(service, tokens=ids))


def test_the_context_window_bounds_prompt_and_answer(folder):
    service = started(folder, ctx_size=64, warmup=False)
    try:
        with pytest.raises(ContextExceeded) as error:
            ask(service, tokens=[5] * 64)
        assert "64 tokens" in str(error.value) and "--ctx-size" in str(error.value)
        events = ask(service, max_tokens=None, tokens=[5] * 60)
        assert end(events).usage.completion_tokens == 4 and end(events).reason == "length"
    finally:
        service.close()


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"sampling": {"top_p": 1.5}}, "top_p"),
        ({"sampling": {"min_p": float("nan")}}, "min_p"),
        ({"sampling": {"logit_bias": {10**6: 1.0}}}, "logit_bias"),
        ({"sampling": {"top_logprobs": 21}}, "top_logprobs"),
        ({"tokens": [10**6]}, "prompt"),
        ({"tokens": []}, "prompt"),
        ({"n": 0}, "n"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO, "template_kwargs": {"tools": []}}, "tools"),
    ],
)
def test_what_is_wrong_is_named(service, fields, param):
    with pytest.raises(BadRequest) as error:
        ask(service, **fields) if "messages" not in fields else service.submit(Request(**fields))
    assert error.value.param == param


def test_cancel_from_another_thread_ends_the_stream(service):
    endless = {"logit_bias": dict.fromkeys(service.end_ids, -100.0)}
    stream = service.submit(Request(messages=HELLO, sampling={"temperature": 0.0, **endless}))
    while not isinstance(stream.next(), Text):
        pass
    stream.cancel()
    begin = time.monotonic()
    assert end(list(stream)).reason == "cancelled" and time.monotonic() - begin < 0.3
    stream.cancel()


def test_next_gives_the_caller_a_chance_to_look_away(service):
    stream = service.submit(Request(tokens=[7] * 900, max_tokens=1))
    seen = [stream.next(0) for _ in range(4)]
    assert isinstance(seen[0], Started) and None in seen
    assert isinstance(list(stream)[-1], Finished)


def test_time_runs_out(service):
    endless = {"logit_bias": dict.fromkeys(service.end_ids, -100.0)}
    events = ask(service, max_tokens=None, timeout_s=0.5, sampling=endless)
    assert end(events).reason == "length" and end(events).usage.completion_tokens > 0


def test_defaults_come_from_the_request_then_the_flags_then_the_checkpoint(folder, tmp_path):
    other = tiny.make(tmp_path)
    recommended = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1, "eos_token_id": [3]}
    (other / "generation_config.json").write_text(json.dumps(recommended))
    service = started(other, sampling={"top_k": 7}, warmup=False)
    try:
        s = service.sampling_of(Request(messages=HELLO, sampling={"top_p": 0.5}))
        assert (s.temperature, s.top_k, s.top_p, s.repetition_penalty, s.repetition_window) == (0.6, 7, 0.5, 1.1, 0)
        assert 3 in service.end_ids
    finally:
        service.close()
    assert sampling_defaults(folder) == {}
    (other / "generation_config.json").write_text('{"do_sample": false}')
    assert sampling_defaults(other) == {"temperature": 0.0}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A template that opens the reasoning, and a random model that never closes it."""
    folder = tiny.make(tmp_path_factory.mktemp("thinker"))
    template = folder / "chat_template.jinja"
    closed = "{%- if not (enable_thinking is defined and enable_thinking) %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    assert closed in template.read_text()
    template.write_text(template.read_text().replace(closed, "{{- '<think>\\n' }}"))
    service = started(folder, warmup=False, reasoning_budget=9)
    yield service
    service.close()


@pytest.mark.parametrize("fields, most", [({}, 9), ({"reasoning_budget": 4}, 4), ({"reasoning_budget": -1}, None)])
def test_reasoning_that_the_prompt_opened_is_closed_by_the_budget(thinker, fields, most):
    shape = Shape("choice", ("red", "green"), "choice")
    events = ask(thinker, max_tokens=40, shape=shape, **fields)
    thought = "".join(e.text for e in events if isinstance(e, Reasoning))
    used = end(events).usage
    if most is None:
        assert (text(events), used.reasoning_tokens, end(events).reason) == ("", 40, "length")
    else:
        assert text(events) in ("red", "green") and used.reasoning_tokens == most and end(events).reason == "stop"
        assert thought and used.completion_tokens < most + 10
    off = ask(thinker, max_tokens=40, shape=shape, template_kwargs={"enable_thinking": False})
    assert text(off) in ("red", "green") and end(off).usage.reasoning_tokens == 0


def test_info_and_statistics(service, folder):
    info = service.info
    assert (info.architecture, info.context, info.layers) == ("qwen3", 1024, 3)
    assert info.disk_bytes > info.weight_bytes > 10_000 and info.created > 0 and info.chat_template
    assert service.stats()["running"] == 0
    assert service.memory()["peak_bytes"] >= service.memory()["active_bytes"] > 0


def test_loading_in_the_background(folder):
    seen = []
    service = Service(Options(model=str(folder)), progress=lambda *args: seen.append(args))
    assert service.state == "loading"
    with pytest.raises(NotReady):
        service.submit(Request(messages=HELLO))
    service.start()
    service.wait_ready(60)
    assert service.state == "ready" and seen[-1][1] == seen[-1][2] and seen[0][0] == "weights"
    service.close()
    assert service.state == "closed"
    with pytest.raises(NotReady):
        service.submit(Request(messages=HELLO))


def test_a_model_that_is_not_there(tmp_path):
    service = Service(Options(model=str(tmp_path / "nowhere")))
    service.start()
    with pytest.raises(Exception, match="nowhere"):
        service.wait_ready(30)
    assert service.state == "failed"
    with pytest.raises(EngineFailed, match="nowhere"):
        service.submit(Request(messages=HELLO))


def test_a_context_that_does_not_fit_is_refused_with_the_numbers(folder):
    service = Service(Options(model=str(folder), ctx_size=1 << 40))
    service.start()
    with pytest.raises(MemoryError, match="at most"):
        service.wait_ready(30)


def test_the_users_tuning_table_is_read(folder, tmp_path, monkeypatch):
    from smelt.kernels import launch, table

    monkeypatch.setenv("SMELT_HOME", str(tmp_path))
    table.write(table.path_in(tmp_path, "cpu"), table.stamp(launch.chip()), {"off": {"linear": "slower here"}})
    try:
        service = started(folder, warmup=False)
        service.close()
        assert launch.chip_table()["off"] == {"linear": "slower here"}
        assert service.tuning() == {
            "chip": "cpu", "table": str(table.path_in(tmp_path, "cpu")), "ignored": None, "pinned": None,
            "ops": {"off": {"linear": "slower here"}},
        }  # fmt: skip
    finally:
        launch.use_table(None)


UNCLOSED = """
import sys
from smelt.engine.options import Options
from smelt.engine.request import Request
from smelt.engine.service import Service
service = Service(Options(model=sys.argv[1]))
service.start()
service.wait_ready(60)
service.submit(Request(text="Hello " * 40, max_tokens=100))
print("left")
"""


def test_a_program_may_end_without_closing(folder):
    """A thread that computes when Python ends would abort the process: one time in three."""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", UNCLOSED, str(folder)], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
