"""Prompts that begin like others are read from there on, and the answers are the same."""

import checkpoints
import checkpoints_lfm2
import checkpoints_nemotron_h
import checkpoints_qwen3_next
import pytest
from planted import Planted
from runner import Run, run
from smelt import models
from smelt.engine import scheduler as module
from smelt.engine.prefix_cache import LEAST, PATH
from smelt.engine.prefixes import TAIL
from smelt.engine.scheduler import ROOM_STEPS, Limits, Scheduler

PROMPT = [(7 * i * i + 3 * i) % 300 for i in range(400)]
OTHER = [(5 * i * i + 11 * i + 1) % 300 for i in range(400)]
DENSE = {"llama": checkpoints, "qwen3": checkpoints}
EXACT = {  # known at snapshots only: a sliding window that has moved on, or a recurrent layer
    "mistral_sliding": checkpoints,
    "gemma3": checkpoints,
    "lfm2": checkpoints_lfm2,
    "nemotron_h": checkpoints_nemotron_h,
    "qwen3_next": checkpoints_qwen3_next,
}
TWINS: dict = {}
SEEDED = {"temperature": 0.8, "top_p": 0.9, "seed": 5}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """The model of a kind, and, since a model has one memory, a second one that answers without what was kept."""
    folder, loaded = tmp_path_factory.mktemp("checkpoints"), {}

    def get(kind):
        if kind not in loaded:
            path = {**DENSE, **EXACT}[kind].make(folder / kind, kind)
            loaded[kind] = models.load(path)
            TWINS[id(loaded[kind])] = models.load(path)
        return loaded[kind]

    return get


def fresh(model, **limits):
    model.forget()
    return Scheduler(model, Limits(**{"rows": 4, "chunk": 64, "prefix_entries": 8, **limits}))


def answered(scheduler, prompt, count=12, borders=(), **fields):
    one = Run(prompt, count, **fields)
    one.sequence.borders = borders
    run(scheduler, one)
    return one


def cold(model, prompt, count=12, **fields):
    return answered(fresh(TWINS[id(model)], prefix_entries=0), prompt, count, **fields).tokens


def empty(scheduler):
    """Give all up that is kept; nothing may be left then."""
    while scheduler.prefixes.evict():
        pass
    assert scheduler.prefixes.nbytes == 0 and scheduler.prefixes.entries == 0
    for paging in scheduler.memory.paging.values():
        assert not paging.shares.pages and sum(n for _, n in paging.pool.free) == paging.pool.pages


@pytest.mark.parametrize("fields", [{}, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("kind", [*DENSE, *EXACT])
def test_the_next_turn_is_read_from_the_end_of_the_last_and_answers_the_same(load, kind, fields):
    model, scheduler = load(kind), fresh(load(kind))
    first = answered(scheduler, PROMPT[:200], **fields)
    assert first.sequence.cached == 0 and first.sequence.kept == 199
    turn = PROMPT[:200] + first.tokens + OTHER[:40]
    second = answered(scheduler, turn, **fields)
    assert second.sequence.cached >= 200 + len(first.tokens) - 1
    assert (first.tokens, second.tokens) == (cold(model, PROMPT[:200], **fields), cold(model, turn, **fields))
    empty(scheduler)


@pytest.mark.parametrize("kind", [*DENSE, *EXACT])
def test_an_answer_that_is_written_otherwise_in_the_next_prompt_is_read_from_the_message_before(load, kind):
    model, scheduler, border = load(kind), fresh(load(kind)), 190
    answered(scheduler, PROMPT[:200], borders=(100, border))
    turn = PROMPT[:border] + OTHER[:60]
    second = answered(scheduler, turn, borders=(100, 230))
    assert second.sequence.cached == border and second.tokens == cold(model, turn)
    assert f"from token {border} on the prompt goes on otherwise" in second.sequence.paths.prefix
    third = answered(scheduler, PROMPT[:100] + OTHER[100:180])
    assert third.sequence.cached == 100 and third.tokens == cold(model, PROMPT[:100] + OTHER[100:180])
    empty(scheduler)


def test_a_dense_model_goes_on_at_any_token(load):
    model, scheduler = load("llama"), fresh(load("llama"))
    answered(scheduler, PROMPT[:200])
    for matched in (1, 31, 32, 63, 64, 65, 150):
        prompt = PROMPT[:matched] + OTHER[200:230]
        one = answered(scheduler, prompt)
        assert one.sequence.cached == (0 if matched < LEAST else matched) and one.tokens == cold(model, prompt)


@pytest.mark.parametrize("kind", [*DENSE, *EXACT])
def test_the_same_prompt_again_reads_its_end_only(load, kind):
    model, scheduler = load(kind), fresh(load(kind))
    runs = [answered(scheduler, PROMPT[:200], seed=i, temperature=0.9) for i in range(3)]
    windowed = kind in ("mistral_sliding", "gemma3")  # where the last snapshot's first page reaches back that far
    assert all(r.sequence.cached in ({199} if kind in DENSE else {170, 199} if windowed else {200 - TAIL}) for r in runs[1:])
    assert [r.tokens for r in runs] == [cold(model, PROMPT[:200], seed=i, temperature=0.9) for i in range(3)]
    empty(scheduler)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "lfm2"])
def test_rows_that_run_together_share_their_beginning(load, kind):
    model, scheduler = load(kind), fresh(load(kind))
    cases = [(PROMPT[:200] + OTHER[i * 20 : i * 20 + 15 + i], 30 + i) for i in range(4)]
    runs = [Run(prompt, count) for prompt, count in cases]
    for one in runs:
        one.sequence.borders = (200,)
    run(scheduler, *runs)
    assert [r.sequence.cached for r in runs] == [0, 200, 200, 200]
    assert [r.tokens for r in runs] == [cold(model, *case) for case in cases]
    empty(scheduler)


def test_a_beginning_is_held_once(load):
    scheduler, runs = fresh(load("llama")), [Run(PROMPT[:320] + [i], 200) for i in range(4)]
    for one in runs:
        scheduler.add(one.sequence)
    while len(scheduler.running) < 4:
        scheduler.tick()
    memory = scheduler.memory
    alone, together = memory.row_bytes(321), scheduler.state_bytes()
    assert memory.repeated_bytes == 3 * memory.row_bytes(320)
    assert together < alone + 4 * memory.row_bytes(64)


@pytest.mark.parametrize("layers", [0, 1], ids=["between chunks", "within a chunk"])
@pytest.mark.parametrize("kind", ["llama", "lfm2", "mistral_sliding"])
def test_a_cancelled_prompt_keeps_the_chunks_that_were_read(load, kind, layers):
    model, scheduler, one = load(kind), fresh(load(kind), chunk=64), Run(PROMPT, 10)
    depth = len(model.blocks)
    scheduler.pace.work = lambda alone: 64 * (layers or depth)  # of a tick
    scheduler.add(one.sequence)
    while one.sequence.prefilled < 128 or layers and scheduler.chunk is None:
        scheduler.tick()
    assert layers == (one.sequence.row.length > one.sequence.prefilled)
    read, one.sequence.cancelled = one.sequence.prefilled, True
    scheduler.tick()
    again = answered(scheduler, PROMPT)
    assert again.sequence.cached == read == 128 and again.tokens == cold(model, PROMPT)
    empty(scheduler)


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_a_row_that_gave_way_goes_on_where_it_stood(load, kind, monkeypatch):
    model = load(kind)
    monkeypatch.setattr(module, "GROWTH_TOKENS", 8)
    cases = [(PROMPT[i * 20 : i * 20 + 300], 150) for i in range(3)]
    expected = [cold(model, *case) for case in cases]
    scheduler, read = fresh(model, state_bytes=3 * model.memory().row_bytes(390)), []
    border = scheduler.prefixes.border
    monkeypatch.setattr(scheduler.prefixes, "border", lambda s: read.append((len(s.generated), s.prefilled)) or border(s))
    runs = [Run(*case) for case in cases]
    run(scheduler, *runs)
    again = [start for generated, start in read if generated]
    assert again and (kind == "lfm2" or min(again) >= 64)  # a part of it; a recurrent state cannot be cut short
    assert [one.tokens for one in runs] == expected
    assert all(one.sequence.cached == 0 for one in runs)  # of the prompt as it came
    empty(scheduler)


def test_the_least_recently_used_are_given_up(load):
    scheduler = fresh(load("llama"), prefix_entries=2)
    prompts = [[100 + i] + PROMPT[:80] for i in range(3)]
    answered(scheduler, prompts[0])
    answered(scheduler, prompts[1])
    assert answered(scheduler, prompts[0]).sequence.cached == 80
    answered(scheduler, prompts[2])  # of two entries the second was used longest ago
    assert scheduler.prefixes.entries == 2
    assert [answered(scheduler, p).sequence.cached for p in (prompts[0], prompts[2], prompts[1])] == [80, 80, 0]


def test_kept_bytes_stay_below_their_limit(load):
    model = load("llama")
    limit = 3 * model.memory().row_bytes(128)
    scheduler = fresh(model, prefix_bytes=limit, prefix_entries=100)
    for i in range(6):
        answered(scheduler, [i] + PROMPT[:100])
        assert 0 < scheduler.prefixes.nbytes <= limit
    assert answered(scheduler, [5] + PROMPT[:100]).sequence.cached == 100
    assert answered(scheduler, [0] + PROMPT[:100]).sequence.cached < 100


def test_snapshots_of_recurrent_states_are_counted(load):
    scheduler = fresh(load("lfm2"))
    answered(scheduler, PROMPT, borders=(100, 200, 300))
    nodes = scheduler.prefixes.cache.tree.values()
    assert [node.end for node in sorted(nodes, key=lambda n: n.end)][:3] == [100, 200, 300]
    state = sum(s.row_bytes for s in scheduler.memory.recurrent)
    assert scheduler.prefixes.nbytes == scheduler.memory.snapshot_bytes + len(nodes) * state
    limited = fresh(load("lfm2"), prefix_bytes=2 * state)
    answered(limited, PROMPT, borders=(100, 200, 300))
    assert limited.prefixes.nbytes <= 2 * state


def test_a_sequence_has_a_bounded_number_of_snapshots(load):
    scheduler, prompt = fresh(load("lfm2")), PROMPT[:40]
    for turn in range(PATH + 4):
        prompt = prompt + answered(scheduler, prompt, 2).tokens + OTHER[turn : turn + 40]
    assert 1 < len(scheduler.prefixes.cache.tree.values()) <= PATH


def test_where_the_state_of_a_prompt_is_kept(load):
    scheduler = fresh(load("lfm2"))
    one = Run(PROMPT[:300], 1)
    one.sequence.borders = (LEAST - 1, 120, 130, 290)
    assert scheduler.prefixes.wanted(one.sequence) == [120, 130, 290]
    one.sequence.borders = ()
    assert scheduler.prefixes.wanted(one.sequence) == [300 - TAIL]
    long = Run(PROMPT * 30, 1)
    assert scheduler.prefixes.wanted(long.sequence) == [2048, 4096, 6144, 8192, 10240, 12000 - TAIL]
    assert fresh(load("llama")).prefixes.wanted(long.sequence) == []


def test_kept_prefixes_give_way_before_a_row_waits_or_is_dropped(load, monkeypatch):
    model = load("llama")
    monkeypatch.setattr(module, "GROWTH_TOKENS", 8)
    scheduler = fresh(model, state_bytes=model.memory().row_bytes(1000))
    for i in range(4):
        answered(scheduler, [i] + PROMPT[:180], 4)
    assert scheduler.prefixes.nbytes > model.memory().row_bytes(400)
    runs = [Run(OTHER[i : i + 250], 60) for i in range(3)]
    monkeypatch.setattr(scheduler, "requeue", lambda: None if not scheduler.preempted else pytest.fail("a row gave way"))
    for one in runs:
        scheduler.add(one.sequence)
    most = 0
    while not all(one.sequence.finished for one in runs):
        scheduler.tick()
        assert scheduler.state_bytes() <= scheduler.limits.state_bytes + model.memory().row_bytes(4 * ROOM_STEPS)  # till the next look
        most = max(most, len(scheduler.running))
    assert most == 3 and [one.sequence.generated for one in runs] == [cold(model, OTHER[i : i + 250], 60) for i in range(3)]


def test_a_prompt_is_let_in_for_what_it_does_not_share(load, monkeypatch):
    """Three rows of 310 tokens do not fit; they do where 300 of them are the same."""
    model = load("llama")
    monkeypatch.setattr(module, "GROWTH_TOKENS", 8)
    scheduler = fresh(model, state_bytes=model.memory().row_bytes(600))
    runs = [Run(PROMPT[:300] + OTHER[i : i + 10], 20) for i in range(3)]
    for one in runs:
        scheduler.add(one.sequence)
    for _ in range(20):
        scheduler.tick()
    assert len(scheduler.running) == 3 and [r.sequence.cached for r in runs] == [0, 300, 300]


def test_no_cache_keeps_nothing(load):
    scheduler = fresh(load("llama"), prefix_entries=0)
    runs = [answered(scheduler, PROMPT[:100]) for _ in range(2)]
    assert [(r.sequence.cached, r.sequence.kept, r.sequence.paths.prefix) for r in runs] == [(0, 0, None)] * 2
    assert scheduler.memory.snapshot_bytes == 0


def test_keys_that_turn_with_the_length_are_not_kept(tmp_path):
    scheduler = fresh(models.load(checkpoints.make(tmp_path, "llama_dynamic")))
    runs = [answered(scheduler, PROMPT[:100]) for _ in range(2)]
    assert [r.sequence.cached for r in runs] == [0, 0] and scheduler.prefixes.nbytes == 0


def test_what_is_told_of_a_match(load):
    scheduler = fresh(load("lfm2"))
    tell = lambda prompt, **fields: answered(scheduler, prompt, **fields).sequence.paths.prefix  # noqa: E731
    assert tell(PROMPT[:200], borders=(150,)) == "0 of 200 tokens: nothing that is kept begins like the prompt"
    assert tell(PROMPT[:180] + OTHER[:40]) == (
        "150 of 220 tokens: from token 180 on the prompt goes on otherwise; the last state before is at 150"
    )
    dense = fresh(load("llama"))
    answered(dense, PROMPT[:100], 1)
    assert answered(dense, PROMPT[:101], 1).sequence.paths.prefix == "100 of 101 tokens: the whole prompt is kept"
    assert answered(dense, PROMPT[:150], 1).sequence.paths.prefix == "101 of 150 tokens: from token 101 on what is kept ends there"


@pytest.mark.parametrize("kind", ["llama", "lfm2", "mistral_sliding"])
def test_drafts_leave_a_state_that_later_prompts_can_go_on_from(load, kind):
    """Wrong drafts are forwarded, taken back, and never kept."""
    model, scheduler = load(kind), fresh(load(kind))
    known = cold(model, PROMPT[:200], 24)
    first = answered(scheduler, PROMPT[:200], 24, speculation=Planted(known, 0.3))
    turn = [*PROMPT[:200], *first.tokens, *OTHER[:40]]
    second = answered(scheduler, turn, 12)
    assert first.tokens == known and first.sequence.paths.drafted
    assert second.sequence.cached >= 200 and second.tokens == cold(model, turn)
    empty(scheduler)
