"""The submit-first loop on small random models, without a thread."""

import checkpoints
import mlx.core as mx
import pytest
from runner import Run, run
from smelt import models
from smelt.engine import filling
from smelt.engine import scheduler as module
from smelt.engine.filling import Pace
from smelt.engine.request import Sampling
from smelt.engine.scheduler import ROOM_STEPS, Limits, Scheduler
from smelt.engine.sequence import Prefilled

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def llama(folder):
    return models.load(checkpoints.make(folder / "llama", "llama"))


def fresh(model, **limits):
    model.forget()
    return Scheduler(model, Limits(**{"rows": 4, "chunk": 32, **limits}))


def greedy(model, prompt, count):
    """One token after another, each read before the next is asked for."""
    model.forget()
    memory = model.memory()
    row, tokens, feed = memory.open(), [], list(prompt)
    while len(tokens) < count:
        hidden = model(mx.array([feed]), memory.step([row], len(feed)))
        tokens.append(int(mx.argmax(model.logits(hidden[:, -1])[0])))
        feed = tokens[-1:]
    return tokens


MIXED = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.1, "top_k": 12, "top_logprobs": 2},
    {"temperature": 0.0, "repetition_penalty": 1.3, "repetition_window": 8},
    {"temperature": 0.9, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    {"temperature": 0.7, "min_p": 0.05, "logit_bias": {3: 2.0}},
]


@pytest.mark.parametrize("kind", ["llama", "mistral_sliding", "qwen3", "gemma3"])
def test_rows_of_different_lengths_in_one_batch_equal_the_rows_alone(folder, kind):
    model = models.load(checkpoints.make(folder / kind, kind))
    cases = [(PROMPT[:n], 20 + i, i, MIXED[i]) for i, n in enumerate((40, 150, 7, 90, 33, 300))]
    alone = []
    for prompt, count, seed, fields in cases:
        one = Run(prompt, count, seed=seed, **fields)
        run(fresh(model), one)
        alone.append(one.tokens)
    together = [Run(prompt, count, seed=seed, **fields) for prompt, count, seed, fields in cases]
    run(fresh(model), *together)
    assert [r.tokens for r in together] == alone


def test_greedy_equals_one_token_after_another(llama):
    one = Run(PROMPT[:50], 40)
    run(fresh(llama), one)
    assert one.tokens == greedy(llama, PROMPT[:50], 40)
    assert one.end.reason == "length"


def test_an_end_token_ends_and_is_not_handed_out(llama):
    expected = greedy(llama, PROMPT[:50], 40)
    end = expected[10]
    one = Run(PROMPT[:50], 40, end_ids=[end])
    run(fresh(llama), one)
    assert one.tokens == expected[: expected.index(end)] and one.end.reason == "stop"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_tokens(llama, count):
    one = Run(PROMPT[:5], count)
    run(fresh(llama), one)
    assert len(one.tokens) == count


def test_no_step_is_submitted_for_tokens_nobody_wants(llama, monkeypatch):
    scheduler = fresh(llama)
    run(scheduler, Run(PROMPT[:5], 10))
    assert scheduler.steps == 9  # the first token comes from the prompt


SYNCING = ["item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__", "__len__"][:-1]


@pytest.fixture
def syncs(monkeypatch):
    """Counts every way in which the host can wait for the device."""
    counted = {"read": 0, "other": 0, "submit": 0}
    inside = []

    def counting(original, kind):
        def call(*args, **kwargs):
            if not inside:
                counted[kind] += 1
            return original(*args, **kwargs)

        return call

    def reading(arrays, original=module.read):
        counted["read"] += 1
        inside.append(1)
        try:
            return original(arrays)
        finally:
            inside.pop()

    for name in SYNCING:
        if hasattr(mx.array, name):
            monkeypatch.setattr(mx.array, name, counting(getattr(mx.array, name), "other"))
    monkeypatch.setattr(mx, "eval", counting(mx.eval, "other"))
    monkeypatch.setattr(mx, "synchronize", counting(mx.synchronize, "other"))
    monkeypatch.setattr(mx, "async_eval", counting(mx.async_eval, "submit"))
    monkeypatch.setattr(module, "read", reading)
    return counted


@pytest.mark.parametrize("fields", [*MIXED, {"temperature": 1.0, "top_logprobs": 5}], ids=str)
def test_a_step_waits_once_and_only_after_the_next_was_submitted(llama, syncs, fields):
    scheduler, runs = fresh(llama), [Run(PROMPT[: 20 + i], 30, seed=i, **fields) for i in range(3)]
    for r in runs:
        scheduler.add(r.sequence)
    while not all(s.submitted > 3 for s in [r.sequence for r in runs]):
        scheduler.tick()
    for _ in range(10):
        syncs.update(read=0, other=0, submit=0)
        before = scheduler.pending[-1]
        scheduler.tick()
        assert syncs == {"read": 1, "other": 0, "submit": 1}
        assert scheduler.pending[0] is not before  # what was read is the step before the one just submitted


def test_the_sync_counter_counts(syncs):
    x = mx.array([1.0]) + 1
    mx.eval(x)
    x.item(), x.tolist(), float(x), bool(x)
    assert syncs["other"] == 5


def test_cancel_frees_a_row_while_it_waits_fills_and_decodes(llama):
    for ticks in (0, 1, 12):
        scheduler, one = fresh(llama, rows=1), Run(PROMPT, 1000)
        scheduler.add(one.sequence)
        for _ in range(ticks):
            scheduler.tick()
        one.sequence.cancelled = True
        for _ in range(3):
            scheduler.tick()
        while not one.queue.empty():
            one.take(one.queue.get())
        assert one.end.reason == "cancelled" and scheduler.idle
        assert all(sum(n for _, n in pool.free) == pool.pages for pool in (p.pool for p in scheduler.memory.paging.values()))


@pytest.mark.parametrize("read", [64, len(PROMPT)])
def test_pages_of_a_cancelled_prompt_are_free_when_its_last_part_is_done(llama, monkeypatch, read):
    """Others may write to them at once, and on a GPU would not wait for that part."""
    scheduler, one, events = fresh(llama, chunk=read), Run(PROMPT, 1000), []
    scheduler.pace.rate = float(read * len(llama.blocks))  # a tick reads so many tokens
    monkeypatch.setattr(scheduler.pace, "note", lambda *measured: None)
    scheduler.add(one.sequence)
    scheduler.tick()
    assert one.sequence.prefilled == read
    last = scheduler.ahead if read < len(PROMPT) else scheduler.first[one.sequence]
    evaluate, close = mx.eval, scheduler.memory.close
    monkeypatch.setattr(mx, "eval", lambda *arrays: events.append(arrays) or evaluate(*arrays))
    monkeypatch.setattr(scheduler.memory, "close", lambda row: events.append("free") or close(row))
    one.sequence.cancelled = True
    scheduler.drop_ended()
    assert events[-1] == "free" and events[-2][0] is last


def test_a_long_prompt_does_not_stop_the_streams(llama):
    scheduler = fresh(llama)
    short, long = Run(PROMPT[:4], 200), Run(PROMPT * 5, 3)
    scheduler.add(short.sequence)
    for _ in range(5):
        scheduler.tick()
    scheduler.add(long.sequence)
    while scheduler.filling or scheduler.waiting:
        before = len(short.sequence.generated)
        scheduler.tick()
        assert len(short.sequence.generated) == before + 1


def test_progress_tells_the_place_in_the_queue_and_the_tokens_read(llama):
    scheduler = fresh(llama, rows=1)
    runs = [Run(PROMPT[:100], 3) for _ in range(3)]
    run(scheduler, *runs)
    assert [r.progress[0] for r in runs] == [Prefilled(0, 100, ahead) for ahead in range(3)]
    done = [p.done for p in runs[0].progress]
    assert done == sorted(done) and done[-1] == 100 and len(done) > 3


def test_rows_give_way_when_memory_runs_out_and_lose_nothing(llama):
    """The youngest row is dropped and read again: the same tokens, later."""
    cases = [(PROMPT[:60], 120, i, MIXED[i]) for i in range(4)]
    expected = []
    for prompt, count, seed, fields in cases:
        one = Run(prompt, count, seed=seed, **fields)
        run(fresh(llama), one)
        expected.append(one.tokens)
    tight = fresh(llama, state_bytes=llama.memory().row_bytes(420))
    dropped = []
    original = tight.requeue
    tight.requeue = lambda: (dropped.extend(tight.preempted), original())
    module_growth, module.GROWTH_TOKENS = module.GROWTH_TOKENS, 8
    try:
        runs = [Run(prompt, count, seed=seed, **fields) for prompt, count, seed, fields in cases]
        run(tight, *runs)
    finally:
        module.GROWTH_TOKENS = module_growth
    assert dropped and [r.tokens for r in runs] == expected


def test_room_is_looked_for_every_few_steps_only(llama, monkeypatch):
    """With one token a step; a row that is drafted for may take many more."""
    scheduler, looks = fresh(llama), []
    make_room = scheduler.make_room
    monkeypatch.setattr(scheduler, "make_room", lambda: (looks.append(scheduler.steps), make_room()))
    run(scheduler, Run(PROMPT[:20], 4 * ROOM_STEPS))
    assert len(looks) <= 4 + 3  # the prompt's tick, the first step's, and one after the last
    steps = [step for step in looks if step]
    assert all(b - a >= ROOM_STEPS for a, b in zip(steps, steps[1:], strict=False) if b < 4 * ROOM_STEPS - 1)


def test_a_batch_has_room_for_the_steps_until_the_next_look(llama, monkeypatch):
    """Rows that together would outgrow the limit before that: one gives way first."""
    monkeypatch.setattr(module, "GROWTH_TOKENS", 8)
    limit = 2 * llama.memory().row_bytes(60)
    scheduler = fresh(llama, state_bytes=limit)
    runs = [Run(PROMPT[i : i + 40], 60) for i in range(2)]
    for one in runs:
        scheduler.add(one.sequence)
    most = 0
    while not scheduler.idle:
        scheduler.tick()
        most = max(most, len(scheduler.running))
        held = sum(llama.memory().row_bytes(s.row.length) for s in scheduler.running)
        assert len(scheduler.running) < 2 or held <= limit
    assert most == 2 and [len(one.sequence.generated) for one in runs] == [60, 60]


def test_time_runs_out(llama):
    one = Run(PROMPT[:10], 10_000, deadline=0.0)
    run(fresh(llama), one)
    assert one.end.reason == "length" and len(one.tokens) == 0


def test_pace_fits_what_is_read_to_the_time():
    pace = Pace(2048, 40)
    assert pace.chunk(alone=True) == filling.FIRST_CHUNK
    assert (pace.work(alone=True), pace.work(alone=False), pace.layers(2048)) == (2048 * 40, 1, 5)
    pace.note(64, 40, 0.0128)  # 5,000 tokens a second
    assert (pace.chunk(alone=False), pace.chunk(alone=True)) == (256, 2048)
    assert (pace.work(alone=False), pace.work(alone=True)) == (500 * 40, 5000 * 40)
    assert pace.layers(2048) == 1 and pace.layers(256) == 3 and pace.layers(16) == 40
    pace.note(8, 40, 1.0)  # too short to tell
    assert pace.work(alone=True) == 5000 * 40
    for _ in range(20):
        pace.note(64, 40, 1.0)
    assert (pace.chunk(alone=False), pace.chunk(alone=True)) == (filling.LEAST_CHUNK, 64)
    assert pace.layers(64) == 1
    assert Pace(8, 4).chunk(alone=True) == 8


def recorded_chunks(scheduler, monkeypatch):
    """(first position, tokens) of every chunk that this scheduler reads."""
    chunks = []

    class Recorded(filling.Chunk):
        def __init__(self, *given):
            super().__init__(*given)
            chunks.append((self.start, self.tokens))

    monkeypatch.setattr(module, "Chunk", Recorded)
    return chunks


@pytest.mark.parametrize("rate", [None, 50.0, 2000.0, 1e9])
def test_a_prompt_is_read_in_the_same_chunks_whatever_runs_beside_it(llama, monkeypatch, rate):
    """Their borders decide how products round."""
    scheduler = fresh(llama, chunk=64)
    chunks = recorded_chunks(scheduler, monkeypatch)
    others = [Run(PROMPT[:n], 40) for n in (5, 70, 33)]
    one = Run(PROMPT[:150], 3)
    for other in others:
        scheduler.add(other.sequence)
        scheduler.tick()
    scheduler.pace.rate = rate
    run(scheduler, one)
    assert [c for c in chunks if c in ((0, 64), (64, 64), (128, 22))][-3:] == [(0, 64), (64, 64), (128, 22)]
    assert sorted(chunks) == sorted([(0, 5), (0, 64), (64, 6), (0, 33), (0, 64), (64, 64), (128, 22)])


def test_streams_go_on_between_the_layers_of_a_chunk(llama, monkeypatch):
    scheduler, short, long = fresh(llama, chunk=256), Run(PROMPT[:4], 200), Run(PROMPT[:200], 3)
    scheduler.add(short.sequence)
    for _ in range(4):
        scheduler.tick()
    scheduler.pace.rate = 1.0  # a layer takes longer than a tick may
    monkeypatch.setattr(scheduler.pace, "note", lambda *measured: None)
    scheduler.add(long.sequence)
    before = len(short.sequence.generated)
    while scheduler.filling or scheduler.waiting:
        scheduler.tick()
    assert len(short.sequence.generated) - before >= len(llama.blocks)
    while not long.queue.empty():
        long.take(long.queue.get())
    assert [p.done for p in long.progress] == [0, *(200 * i // len(llama.blocks) for i in range(1, len(llama.blocks) + 1))]


def test_a_cancelled_prompt_is_left_in_the_middle_of_a_chunk(llama):
    scheduler, one, two = fresh(llama, chunk=256), Run(PROMPT, 10), Run(PROMPT[:40], 12)
    expected = greedy(llama, PROMPT[:40], 12)
    llama.forget()
    scheduler.pace.rate = 20.0 * len(llama.blocks)  # slow: a look after every layer
    seen = []
    stages = type(llama).stages

    def cancelling(tokens, step, last=False):
        for hidden in stages(llama, tokens, step, last):
            seen.append(hidden)
            one.sequence.cancelled = True
            yield hidden

    object.__setattr__(llama, "stages", cancelling)
    try:
        scheduler.add(one.sequence)
        scheduler.tick()
    finally:
        object.__delattr__(llama, "stages")
    assert len(seen) == 1 and one.sequence.prefilled == 0
    scheduler.tick()
    assert scheduler.idle
    run(scheduler, two)
    assert two.tokens == expected


def test_sampling_defaults_are_neutral():
    s = Sampling()
    assert (s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty) == (1.0, 0, 1.0, 0.0, 1.0)
