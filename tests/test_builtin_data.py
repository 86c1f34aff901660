"""The built-in model: its data is reproducible and honestly split, its template is what it was trained on, and it answers."""

import json
import os
import sys
from pathlib import Path

import pytest

BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"
sys.path.insert(0, str(BUILTIN))
from train import evaluation, mixture, sample, stdlib  # noqa: E402
from train.tasks import arithmetic, chat, code, invented, lookups, passages  # noqa: E402
from train.world import World  # noqa: E402

LIMIT = 200  # tokens of an answer
SHIPPED = ("*.json", "*.jinja", "*.safetensors", "*.md")


def rendered(seed, split="train"):
    return "".join(text for text, _ in sample.segments(mixture.sample(seed, split)[1]))


def test_a_seed_means_the_same_sample():
    assert [rendered(i) for i in range(60)] == [rendered(i) for i in range(60)]
    assert len({rendered(i) for i in range(60)}) == 60


def test_every_task_is_in_the_mixture():
    assert {mixture.sample(i)[0] for i in range(600)} == set(mixture.TASKS)


@pytest.mark.parametrize("source", [stdlib.functions, stdlib.words])
def test_the_sides_of_the_split_share_nothing(source):
    train, held_out = set(source("train")), set(source("heldout"))
    assert train and held_out and not train & held_out


def test_training_never_draws_a_held_out_function_or_problem():
    held_out = {f.source for f in stdlib.functions("heldout")}
    world = World("split", "train")
    assert not any(world.pick(stdlib.functions("train")).source in held_out for _ in range(500))
    problems = [arithmetic.problem(world, 2) for _ in range(500)]
    assert not any(arithmetic.is_held_out(*p) for p in problems)
    assert all(max(p[0], p[2]) < 10 or arithmetic.is_held_out(*p) for p in (arithmetic.problem(World(i, "heldout"), 2) for i in range(100)))


def test_a_rename_changes_every_mention_and_nothing_else():
    source = "def f(total, rate):\n    x = total * rate  # the sum\n    return x + total\n"
    places = code.renamable(source)
    assert set(places) >= {"total", "rate"} and len(places["total"]) == 3
    assert code.replace(source, places["total"], "total", "amount") == source.replace("total", "amount")


def quotations(samples):
    """(word asked for, sentence quoted) where a sample asks for the sentence with a word."""
    for made in samples:
        question, answer = (message["content"] for message in made.messages)
        if "Quote the sentence that mentions" in question:
            yield question.rsplit("mentions ", 1)[1].split('"')[1], answer.removeprefix('The passage says: "').removesuffix('"')


def test_a_word_that_is_asked_for_stands_in_one_sentence_of_the_passage(monkeypatch):
    monkeypatch.setattr(passages, "PASSAGE_FIRST", ("{p}@@{q}",))
    asked = 0
    for seed in range(40):
        samples = lookups.mentions(World(seed, "train"))
        quoted = {made.messages[-1]["content"] for made in samples}
        for word, sentence in quotations(samples):
            others = samples[0].messages[0]["content"].split("@@")[0].replace(sentence, "")
            assert word in sentence and word.lower() not in others.lower() and len(quoted) > 1, (seed, word)
            asked += 1
    assert asked > 50


def test_no_two_facts_of_a_passage_answer_one_question():
    for seed in range(60):
        found = lookups._facts(World(seed, "train"), 12)
        questions = [question for _, own in found for question, _ in own]
        assert len(found) > 1 and len(set(questions)) == len(questions)


def test_invented_functions_parse_and_hold_names_and_constants_that_can_be_mistaken():
    made = [invented.function(World(seed, "train")) for seed in range(60)]
    assert all(stdlib.parses(source) for source in made) and len(set(made)) == 60
    assert sum(len(code.renamable(source)) for source in made) > 150
    assert sum(bool(code._entangled(code.renamable(source), source)) for source in made) > 40
    assert sum(bool(code._mistakable(code._constants(source), source)) for source in made) > 30


def test_edits_of_one_function_begin_alike_and_end_differently():
    for seed in range(30):
        samples = mixture.dressed_alike(World(seed, "train"), code.several(World(seed, "train")), "code")
        prompts = [made.messages[-2]["content"] for made in samples]
        answers = [made.messages[-1]["content"] for made in samples]
        assert len(set(answers)) == len(answers)
        assert len(os.path.commonprefix(prompts)) > len(max(prompts, key=len)) - 160


def test_made_up_code_and_sentences_are_for_training_alone(monkeypatch):
    for name in ("function", "_Function"):
        monkeypatch.setattr(invented, name, None)
    monkeypatch.setattr(lookups, "make", None)
    for row in ("code: rename", "code: change a constant", "passage questions"):
        assert len(evaluation.cases(row, 20)) == 20


def test_the_curve_counts_tokens_on_from_run_to_run(tmp_path):
    pytest.importorskip("matplotlib")
    from train import plot

    logs = [BUILTIN / "train" / name for name in ("log.csv", "log2.csv")]
    first, second = runs = plot.counted_on(logs)
    alone = [plot.read(log) for log in logs]
    assert [row["tokens"] - first[-1]["tokens"] for row in second] == [row["tokens"] for row in alone[1]] and first == alone[0]
    plot.draw(runs, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def plain_jinja():
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    return environment.from_string((BUILTIN / "chat_template.jinja").read_text())


def test_the_template_renders_what_the_model_was_trained_on():
    template = plain_jinja()
    for i in range(300):
        s = mixture.sample(i)[1]
        got = template.render(messages=s.messages[:-1], tools=s.tools or None, enable_thinking=s.thinking, add_generation_prompt=True)
        assert got == sample.prompt_text(s.messages[:-1], s.tools, s.thinking)


WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip
LOOP = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather in Oslo?"}]},
    {"role": "assistant", "content": None, "reasoning_content": "I need the tool.", "tool_calls": [sample.call("get_weather", '{"city": "Oslo"}')]},
    {"role": "tool", "content": "rain"},
    {"role": "tool", "content": "4 degrees"},
]


def test_the_template_takes_what_clients_send():
    text = plain_jinja().render(messages=LOOP, tools=[WEATHER], add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert '<think>\nI need the tool.\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\n4 degrees\n</tool_response><|im_end|>\n" in text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    later = plain_jinja().render(messages=[*LOOP, {"role": "user", "content": "Thanks"}], enable_thinking=True, add_generation_prompt=True)
    assert "I need the tool." not in later and later.endswith("<|im_start|>assistant\n")


def test_transformers_renders_the_same():
    transformers = pytest.importorskip("transformers")
    tokenizer, template = transformers.AutoTokenizer.from_pretrained(str(BUILTIN)), plain_jinja()
    for messages, tools in ((LOOP, [WEATHER]), (LOOP[1:], None), ([{"role": "user", "content": "Hi é 字"}], None)):
        for thinking in (True, False):
            options = {"tools": tools, "add_generation_prompt": True, "enable_thinking": thinking}
            assert tokenizer.apply_chat_template(messages, tokenize=False, **options) == template.render(messages=messages, **options)


def test_the_tokenizer_is_lossless_and_knows_its_special_tokens():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))
    text = 'def getUserName(x_1):\n\treturn "é 字 🙂"  # 3.14\r\n' + rendered(7)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.decode(tokenizer.encode("<think>a</think><|im_end|>").ids) == "<think>a</think>"
    eos = json.loads((BUILTIN / "generation_config.json").read_text())["eos_token_id"]
    assert eos == [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]


def test_it_is_small():
    files = [path for pattern in SHIPPED for path in BUILTIN.glob(pattern)]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_judging():
    case = sample.ask("What is 2 + 2?", "2 + 2 = 4", check="number")
    assert evaluation.right(case, "4") and evaluation.right(case, "<think>\n\n</think>\n\nIt is 4") and not evaluation.right(case, "5")
    wanted = sample.Sample([{}, {"role": "assistant", "content": "", "tool_calls": [sample.call("f", {"a": 1})]}], check="calls")
    assert evaluation.right(wanted, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>')
    assert not evaluation.right(wanted, '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>')


def test_any_story_of_the_form_and_the_animal_is_right():
    case = chat.story(World(0, "heldout"))
    case.messages[0]["content"] = "Tell me a story about an owl."
    others = [chat.story(World(seed)).messages[-1]["content"] for seed in range(60)]
    told = [text for text in others if evaluation.right(case, text)]
    assert told and told == [text for text in others if " owl named " in text]
    assert not evaluation.right(case, told[0] + " The end.") and not evaluation.right(case, told[0].replace("found", "lost"))
    case.messages[0]["content"] = "Write a story."
    assert all(evaluation.right(case, text) for text in others)


def test_the_table_tells_how_sure_each_share_is():
    assert evaluation.interval(0, 10)[0] == 0 and evaluation.interval(10, 10)[1] == 1
    assert evaluation.interval(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)  # where 0.95 is 1.96 standard errors away
    assert "| JSON extraction | 100 | 95 (95.0%) | 88.8 to 97.8% | 95% | 99/100 |" in evaluation.table({"JSON extraction": (100, 95, 99)})


@pytest.fixture(scope="module")
def generated():
    """(prompt, tools, thinking) -> (ids of the prompt, ids that mlx-lm writes, their text)"""
    mlx_lm = pytest.importorskip("mlx_lm")
    import mlx.core as mx

    model, tokenizer = mlx_lm.load(str(BUILTIN))
    model.set_dtype(mx.float32)  # bf16 is slow on CPUs

    def generated(prompt, tools=None, thinking=False):
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, enable_thinking=thinking)
        parts = list(mlx_lm.stream_generate(model, tokenizer, ids, max_tokens=LIMIT))
        return ids, [part.token for part in parts], "".join(part.text for part in parts)

    return generated


@pytest.fixture
def answer(generated):
    return lambda *request: generated(*request)[-1]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [("Hi", "Hello"), ("Who are you?", "Smelt's built-in model"), ("What is 27 + 48?", "75"), ("capital of France?", "Paris"), ("Say: zanquo belmin", "zanquo belmin"),
     ("Who won the lamp contest of 1931?", "I don't know that."), ("Count to 5", "1, 2, 3, 4, 5"), ("My dog is called Rex. What is my dog called?", "Rex")],
)  # fmt: skip
def test_it_answers_through_mlx_lm(answer, prompt, wanted):
    assert wanted in answer(prompt)


def test_it_calls_a_tool_and_thinks_through_mlx_lm(answer):
    assert evaluation.calls_in(answer("What's the weather in Oslo?", [WEATHER])) == [("get_weather", {"city": "Oslo"})]
    thought = answer("What is 47 + 85?", None, True)
    assert thought.startswith("<think>\n") and evaluation.visible(thought).endswith("132")


RENAME = "Rename `total` to `amount`.\n\ndef add(items, total=0):\n    for item in items:\n        total += item\n    return total"
REQUESTS = (("What is 23 + 45?",), ("What is 347 + 588?", None, True), ("What's the weather in Oslo?", [WEATHER]), (RENAME,), ("Say: zanquo belmin tor",))


def test_smelt_writes_the_tokens_that_mlx_lm_writes(generated):
    from smelt.engine.events import Finished, Text
    from smelt.engine.options import Options
    from smelt.engine.request import Request
    from smelt.engine.service import Service

    service = Service(Options(model=str(BUILTIN)))
    service.start()
    try:
        service.wait_ready()
        for prompt, wanted, _ in (generated(*request) for request in REQUESTS):
            events = list(service.submit(Request(tokens=prompt, max_tokens=LIMIT, sampling={"temperature": 0, "top_logprobs": 0})))
            got = [token.id for event in events if isinstance(event, Text) for token in event.logprobs]
            assert len(got) > 5 and got == wanted[:-1] and wanted[-1] in service.end_ids
            assert any(isinstance(event, Finished) and event.reason == "stop" for event in events)
    finally:
        service.close()
