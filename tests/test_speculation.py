"""What is drafted never shows in the answer, but for the time that it takes."""

import checkpoints
import checkpoints_gemma4
import checkpoints_lfm2
import checkpoints_nemotron_h
import checkpoints_qwen3_next
import pytest
from msl.accuracy import kernels_run
from planted import Planted, lookup
from runner import Run, run, until_drawn
from smelt import models
from smelt.engine import rounds, speculation
from smelt.engine import scheduler as module
from smelt.engine.lookup import Lookup
from smelt.engine.scheduler import ROOM_STEPS, Limits, Scheduler
from smelt.engine.sequence import Token
from smelt.engine.speculation import Speculation
from smelt.engine.step import TracedStep
from test_models_on_kernels import load as kernel_model
from test_scheduler import MIXED, PROMPT, fresh, syncs  # noqa: F401
from test_scheduler_guided import Stairs, climbs

MAKERS = {
    "llama": checkpoints, "mistral_sliding": checkpoints, "gemma3": checkpoints, "lfm2": checkpoints_lfm2,
    "qwen3_next": checkpoints_qwen3_next, "nemotron_h_moe": checkpoints_nemotron_h, "gemma4_all": checkpoints_gemma4,
}  # fmt: skip
FIELDS = [*MIXED, {"temperature": 1.0, "top_logprobs": 3, "presence_penalty": 0.4}]
CASES = [(PROMPT[: 20 + 23 * i], 26 + i, i, fields) for i, fields in enumerate(FIELDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("speculation")


@pytest.fixture(scope="module")
def llama(folder):
    return models.load(checkpoints.make(folder / "plain", "llama"))


def make(case, guided=False, drafts=None):
    prompt, count, seed, fields = case
    return Run(prompt, count, seed=seed, guide=Stairs() if guided else None, speculation=drafts, **fields)


def plain(model, guided=lambda i: False):
    runs = [make(case, guided(i)) for i, case in enumerate(CASES)]
    for one in runs:
        run(fresh(model), one)
    return runs


def said(r):
    return [item for item in r.items if isinstance(item, Token)]


def same(found, expected):
    """The same tokens and, but for the rounding of a product of another shape, the same logprobs."""
    assert found.tokens == expected.tokens and found.end.reason == expected.end.reason
    for ours, theirs in zip(said(found), said(expected), strict=True):
        assert (ours.logprob is None) == (theirs.logprob is None)
        if ours.logprob is not None:
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert [i for i, _ in ours.top] == [i for i, _ in theirs.top]


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", MAKERS)
def test_right_and_wrong_drafts_change_nothing(folder, kind, wrong):
    """Alone, and beside rows with other drafts or none; greedy, drawn, with penalties, bias, logprobs and grammars."""
    model = models.load(MAKERS[kind].make(folder / f"{kind}-{wrong}", kind))
    expected = plain(model, lambda i: i % 3 == 2)
    for rows in (1, 3):
        runs = [
            make(case, i % 3 == 2, Planted(expected[i].tokens, wrong, seed=i, gaps=0.2) if i % 4 != 3 else None)
            for i, case in enumerate(CASES)
        ]
        run(fresh(model, rows=rows), *runs)
        for found, before in zip(runs, expected, strict=True):
            same(found, before)
        paths = [r.sequence.paths for r in runs if r.sequence.speculation]
        assert all(p.drafted for p in paths)
        assert wrong == 1.0 or all(p.accepted > 3 for p in paths)


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_traced_verify_steps_draw_the_same(folder, kind, wrong, monkeypatch):
    model = models.load(MAKERS[kind].make(folder / f"{kind}-traced-{wrong}", kind))
    expected = plain(model, lambda i: i % 3 == 2)
    monkeypatch.setattr(TracedStep, "worthwhile", True)
    runs = [make(case, i % 3 == 2, Planted(expected[i].tokens, wrong, 3, i, 0.1)) for i, case in enumerate(CASES)]
    run(fresh(model, rows=2), *runs)
    for found, before in zip(runs, expected, strict=True):
        same(found, before)
        assert found.sequence.speculation.accepted


@pytest.mark.parametrize("kind, least", [("llama", 20), ("mistral_sliding", 0), ("qwen3_next", 0)])
def test_lookup_changes_nothing_and_pays(folder, kind, least):
    """Some small random models soon repeat themselves."""
    model = models.load(MAKERS[kind].make(folder / f"{kind}-lookup", kind))
    cases = [(PROMPT[:n], 120, 0, {"temperature": 0.0}) for n in (20, 63)]
    expected = []
    for case in cases:
        one = make(case)
        scheduler = fresh(model)
        run(scheduler, one)
        expected.append(one.tokens)
        assert scheduler.steps == 119
        again, scheduler = make(case, drafts=lookup(case[0])), fresh(model)
        run(scheduler, again)
        paths = again.sequence.paths
        assert again.tokens == one.tokens and paths.accepted == 119 - scheduler.steps >= least
    together = [make(case, drafts=lookup(case[0])) for case in cases]
    run(fresh(model), *together)
    assert [r.tokens for r in together] == expected


@pytest.mark.parametrize("name", ["lfm2", "nemotron_h"])
def test_on_kernels_the_bits_are_the_same(tmp_path, name):
    """Of logprobs, which are the sums of everything before; with penalties, whose table the kernel writes in place."""
    model = kernel_model(tmp_path, name)
    fields = [{"temperature": 0.9, "top_logprobs": 1, "presence_penalty": 0.5, "repetition_penalty": 1.2}, {"top_logprobs": 1}]
    with kernels_run():
        plain = [Run(PROMPT[: 9 + i], 10, seed=i, **each) for i, each in enumerate(fields)]
        for one in plain:
            run(fresh(model), one)
        for wrong in (0.0, 0.4):
            found = [
                Run(PROMPT[: 9 + i], 10, seed=i, speculation=Planted(plain[i].tokens, wrong, seed=i), **each)
                for i, each in enumerate(fields)
            ]
            run(fresh(model), *found)
            assert [said(r) for r in found] == [said(r) for r in plain]
            assert all(r.sequence.paths.drafted for r in found)


def test_an_end_inside_a_draft_ends_there(llama):
    """An end token, the limit of tokens, the end of a grammar."""
    one = Run(PROMPT[:50], 40)
    run(fresh(llama), one)
    for end in one.tokens[3:9]:
        expected = one.tokens[: one.tokens.index(end)]
        found = Run(PROMPT[:50], 40, end_ids=[end], speculation=Planted(one.tokens))
        run(fresh(llama), found)
        assert found.tokens == expected and found.end.reason == "stop"
    for count in range(1, 12):
        found, scheduler = Run(PROMPT[:50], count, speculation=Planted(one.tokens)), fresh(llama)
        run(scheduler, found)
        assert found.tokens == one.tokens[:count] and found.end.reason == "length" and scheduler.idle
    whole = Run(PROMPT[:50], 40, guide=Stairs())
    run(fresh(llama), whole)
    for count in (1, 2, 5, 6, 7):
        found = Run(PROMPT[:50], 40, guide=Stairs(until=count), speculation=Planted(whole.tokens))
        run(fresh(llama), found)
        assert found.tokens == whole.tokens[:count] and found.end.reason == "stop"


def test_nothing_is_drafted_behind_an_end(llama):
    one = Run(PROMPT[:20], 9, end_ids=[13], speculation=Planted([4, 13, 5, 6, 7]))
    assert rounds.draft_of(one.sequence, 7) == [4]
    one.sequence.max_tokens = 2  # one that is drawn behind the draft
    one.sequence.end_ids = frozenset()
    assert rounds.draft_of(one.sequence, 7) == [4]


def test_where_nothing_fits_behind_a_draft_the_row_fails_as_without(llama):
    whole = Run(PROMPT[:20], 30, guide=Stairs())
    run(fresh(llama), whole)
    for after in range(1, 10):
        lost = Run(PROMPT[:20], 30, guide=Stairs(empty_after=after), speculation=Planted(whole.tokens))
        run(fresh(llama), lost)
        assert lost.tokens == whole.tokens[:after] and "nothing fits" in str(lost.end.error)


def test_a_rule_that_begins_inside_a_draft(llama):
    expected = Run(PROMPT[:20], 30, guide=Stairs(free=12))
    run(fresh(llama), expected)
    found = Run(PROMPT[:20], 30, guide=Stairs(free=12), speculation=Planted(expected.tokens))
    run(fresh(llama), found)
    assert found.tokens == expected.tokens and climbs(found.tokens[11:]) and found.sequence.speculation.accepted > 15


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_cancelling_and_joining_in_the_middle(folder, kind):
    model = models.load(MAKERS[kind].make(folder / f"{kind}-cancel", kind))
    expected = plain(model)
    for ticks in range(2, 9):
        scheduler = fresh(model, rows=3)
        leaving = Run(PROMPT[:40], 1000, speculation=Planted([5] * 1000))
        runs = [make(case, drafts=Planted(e.tokens, 0.2)) for case, e in zip(CASES, expected, strict=True)]
        scheduler.add(leaving.sequence)
        scheduler.add(runs[0].sequence)
        for _ in range(ticks):
            scheduler.tick()
        leaving.sequence.cancelled = True
        run(scheduler, *runs[1:])
        assert leaving.wait().end.reason == "cancelled" and runs[0].wait().tokens == expected[0].tokens
        assert [r.tokens for r in runs[1:]] == [e.tokens for e in expected[1:]]
        assert all(sum(n for _, n in p.pool.free) == p.pool.pages for p in scheduler.memory.paging.values())


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_a_row_that_leaves_holds_what_was_drawn_for_sure(folder, kind):
    model = models.load(MAKERS[kind].make(folder / f"{kind}-leave", kind))
    scheduler, one = fresh(model), Run(PROMPT[:20], 100, speculation=Planted([5] * 100))
    closed, close = [], scheduler.memory.close
    scheduler.memory.close = lambda row: (closed.append(row.length), close(row))
    scheduler.add(one.sequence)
    while not any(pending.round for pending in scheduler.pending):
        scheduler.tick()
    certain = len(one.sequence.context)
    one.sequence.cancelled = True
    scheduler.tick()
    assert closed == [certain + 1] or closed == [certain]  # the newest token may be forwarded as well


@pytest.mark.parametrize("kind", ["llama", "qwen3_next"])
def test_rows_give_way_when_memory_runs_out_and_lose_nothing(folder, kind, monkeypatch):
    monkeypatch.setattr(module, "GROWTH_TOKENS", 8)
    model = models.load(MAKERS[kind].make(folder / f"{kind}-tight", kind))
    cases = [(PROMPT[:60], 120, i, MIXED[i]) for i in range(4)]
    expected = [make(case) for case in cases]
    for one in expected:
        run(fresh(model), one)
    memory = model.memory()
    enough = 3 * memory.row_bytes(130) + memory.kept_bytes(rounds.positions())
    tight = Scheduler(model, Limits(rows=4, chunk=32, state_bytes=enough))
    dropped, requeue = [], tight.requeue
    tight.requeue = lambda: (dropped.extend(tight.preempted), requeue())
    runs = [make(case, drafts=Planted(e.tokens, 0.2, gaps=0.3)) for case, e in zip(cases, expected, strict=True)]
    run(tight, *runs)
    assert dropped and [r.tokens for r in runs] == [e.tokens for e in expected]


def test_prompts_that_are_read_between_a_draft_and_its_verdict(folder):
    """The states of the rows that may go back are not lost to another row's prompt."""
    model = models.load(checkpoints_lfm2.make(folder / "between", "lfm2"))
    expected = plain(model)
    scheduler = fresh(model, rows=8, chunk=8)
    first = make(CASES[0], drafts=Planted(expected[0].tokens, 0.3))
    scheduler.add(first.sequence)
    while not any(pending.round for pending in scheduler.pending):
        scheduler.tick()
    others = [make(case) for case in CASES[1:]]
    run(scheduler, *others)
    assert first.wait().tokens == expected[0].tokens and [r.tokens for r in others] == [e.tokens for e in expected[1:]]


@pytest.mark.parametrize("fields", [*MIXED, {"temperature": 1.0, "top_logprobs": 5}], ids=str)
@pytest.mark.parametrize("guided", [False, True])
def test_a_step_waits_once(llama, syncs, fields, guided):  # noqa: F811
    """For the verdict on the last draft, before it is submitted; with a grammar, too, whose masks are then known at once."""
    runs = [
        Run(PROMPT[: 20 + i], 200, seed=i, guide=Stairs() if guided else None, speculation=Planted([7] * 500), **fields)
        for i in range(2)
    ]
    scheduler = fresh(llama)
    until_drawn(scheduler, runs, 3)
    for _ in range(10):
        syncs.update(read=0, other=0, submit=0)
        scheduler.tick()
        assert syncs == {"read": 1, "other": 0, "submit": 1 + guided} and scheduler.pending[-1].round


def test_the_first_verify_step_goes_before_the_token_that_it_begins_with_is_read(llama):
    one = Run(PROMPT[:20], 30)
    run(fresh(llama), one)
    found, scheduler = Run(PROMPT[:20], 30, speculation=Planted(one.tokens)), fresh(llama)
    scheduler.add(found.sequence)
    while not scheduler.running:
        scheduler.tick()
    assert found.sequence.generated == []
    scheduler.tick()  # submits the drafts behind the first token, and reads that
    assert len(found.sequence.generated) == 1 and scheduler.pending[-1].round.drafts == [one.tokens[1:7]]


def test_steps_are_as_wide_as_all_rows_together_allow(llama):
    widths = []
    scheduler = fresh(llama, rows=8)
    step = scheduler.memory.step
    scheduler.memory.step = lambda rows, new, **more: (widths.append((len(rows), new)), step(rows, new, **more))[1]
    run(scheduler, *[Run(PROMPT[: 20 + i], 40 + 6 * i, speculation=Planted([7] * 500)) for i in range(8)])
    most = rounds.positions()
    assert {rows * new for rows, new in widths if new < 9} <= set(range(1, max(most, 8) + 1))
    assert (1, most) in widths and (3, most // 3) in widths and (8, 1) in widths


def test_what_a_draft_keeps_counts_as_memory(folder):
    """The states after each of its tokens, in models that have such."""
    model = models.load(checkpoints_lfm2.make(folder / "kept", "lfm2"))
    scheduler, one = fresh(model), Run(PROMPT[:20], 40, speculation=Planted([7] * 40))
    scheduler.add(one.sequence)
    while not any(pending.round for pending in scheduler.pending):
        scheduler.tick()
    kept = sum(array.nbytes for state in scheduler.memory.recurrent for array in state.trail.values())
    rows = scheduler.memory.row_bytes(one.sequence.row.length + ROOM_STEPS)
    assert kept and scheduler.state_bytes() == rows + kept
    one.sequence.speculation = None
    assert scheduler.state_bytes() == rows


def test_a_model_that_needs_the_host_is_not_drafted(tmp_path):
    """Its rotation follows the length of a row, which a draft would change for the tokens before."""
    model = models.load(checkpoints.make(tmp_path, "llama_dynamic"))
    one = Run(PROMPT[:20], 12, speculation=Planted([7] * 500))
    run(fresh(model), one)
    assert one.sequence.paths.drafted == 0 and len(one.tokens) == 12


# The gate


def fed(drafts, tokens):
    for token in tokens:
        drafts.take(token)


def test_drafts_that_do_not_pay_end_and_begin_again():
    drafts = Speculation(Lookup([1, 2, 3, 4, 1, 2, 3, 4], 2), 5)
    for _ in range(speculation.TRIAL - 1):
        drafts.judge("pld", 5, 0)
        assert drafts.draft(5, 0)
    drafts.judge("pld", 5, 1)
    assert not drafts.looks and drafts.draft(5, 0) == []
    fed(drafts, range(100, 100 + speculation.RETRIAL))  # nothing repeats
    assert not drafts.looks
    fed(drafts, [1, 2, 3, 4] * (speculation.RETRIAL // 4))
    assert drafts.looks and drafts.draft(3, 0) == [1, 2, 3]


def test_drafts_that_pay_go_on():
    drafts = Speculation(Lookup([1, 2, 1, 2], 2), 5)
    for _ in range(20 * speculation.TRIAL):
        drafts.judge("pld", 5, 0)
        drafts.judge("pld", 5, 1)
    assert drafts.looks


def test_what_was_drafted_is_told(llama):
    one = Run(PROMPT[:20], 40)
    run(fresh(llama), one)
    paths = one.sequence.paths
    assert (paths.speculation, paths.drafts, paths.drafted, paths.accepted) == (None, 0, 0, 0)
    found, scheduler = Run(PROMPT[:20], 40, speculation=Planted(one.tokens, 0.3, most=3)), fresh(llama)
    run(scheduler, found, Run(PROMPT[:9], 40))
    paths, drafts = found.sequence.paths, found.sequence.speculation
    assert (paths.speculation, paths.accepted) == ("pld", drafts.accepted)
    assert 0 < paths.drafts <= scheduler.steps and 0 < paths.accepted < paths.drafted <= 3 * paths.drafts


def test_steps_of_other_rows_do_not_count(llama):
    """A row that has no draft in them is not judged by them."""
    never = Speculation(Lookup([], 99), 5)
    run(fresh(llama), Run(PROMPT[:20], 60, speculation=never), Run(PROMPT[:30], 60, speculation=Planted([7] * 60)))
    assert never.looks and never.gates["pld"].tried == 0


def test_where_positions_cost_more_must_be_right():
    """0.4 of a plain step each: of five, two must be right in the mean."""
    for right, on in ((1, False), (2, True)):
        drafts = Speculation(Lookup([1, 2, 1, 2], 2), 5, price=0.4)
        for _ in range(speculation.TRIAL):
            drafts.judge("pld", 5, right)
        assert drafts.looks == on


def test_a_draft_is_never_longer_than_a_step_is_wide():
    assert len(Speculation(Lookup([1, 2, 1, 2], 2), 15).draft(99, 0)) == speculation.MOST_DRAFTED
