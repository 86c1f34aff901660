"""Held-out cases by task, and what counts as right. Needs only the standard library."""

import json
import math
import re

from . import mixture
from .sample import answer_text
from .tasks import arithmetic, chat, code, dialog, extract, passages, results, summary, tools, unknown
from .world import World

SLOT = r"(?:St\\. )?[\\w-]+(?: [\\w-]+){0,3}"  # a name, a place or a thing in a story
LONGEST = 4200  # characters of a case, so that prompt and answer stay within 2048 tokens


def _sums(digits):
    def make(world):
        return arithmetic.finish(world, *arithmetic.problem(world, digits, "+-"), thinking=False)

    return make


def _answered_by_tool(world):
    return world.pick((results.one, results.one, results.one_field, results.several))(world)


# row -> (maker, the share that the card promises, or None)
ROWS = {
    "one-digit sums and differences": (_sums(1), 0.95),
    "two-digit sums and differences": (_sums(2), 0.95),
    "arithmetic with reasoning, up to four digits": (arithmetic.reasoned, None),
    "word problems": (arithmetic.story, None),
    "tool call, unseen tools": (tools.one, 0.95),
    "parallel tool calls, unseen tools": (tools.parallel, None),
    "tool call, everyday tools": (tools.common, None),
    "tools given, none needed": (tools.not_needed, None),
    "tools given, none fits": (tools.no_such_tool, None),
    "argument missing": (tools.missing_argument, None),
    "answer from tool results": (_answered_by_tool, None),
    "call from an earlier result": (results.then, None),
    "JSON extraction": (extract.make, 0.95),
    "passage questions": (passages.make, 0.90),
    "code: rename": (code.rename, 0.90),
    "code: add a parameter": (code.add_parameter, None),
    "code: change a constant": (code.change_constant, None),
    "code: repeat": (code.unchanged, None),
    "summary": (summary.make, None),
    "several turns": (dialog.make, None),
    "facts and small talk": (chat.make, None),
    "refusal to invent": (unknown.make, None),
}


def _length(sample):
    return sum(len(str(m)) for m in sample.messages) + len(json.dumps(sample.tools))


def cases(row, n, seed=0):
    """n held-out samples of one row, with system prompts and noise as in training."""
    maker = ROWS[row][0]
    found = []
    while len(found) < n:
        world = World(f"evaluation/{row}/{seed}/{len(found)}", "heldout")
        sample = mixture.dressed(world, maker(world), "code" if row.startswith("code") else row)
        while _length(sample) > LONGEST:
            sample = mixture.dressed(world, maker(world), "code" if row.startswith("code") else row)
        found.append(sample)
    return found


def all_cases(n, rows=tuple(ROWS)):
    """[(row, sample)]"""
    return [(row, sample) for row in rows for sample in cases(row, n)]


def visible(text):
    """The answer without its reasoning."""
    return text.split("</think>")[-1].strip()


def calls_in(text):
    """[(name, arguments)] of all call blocks; None if one is malformed."""
    try:
        blocks = [json.loads(b) for b in re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL)]
        return [(b["name"], b["arguments"]) for b in blocks]
    except (ValueError, KeyError, TypeError):
        return None


def _number(text):
    found = re.findall(r"-?\d+", text.replace("−", "-"))
    return found[-1] if found else None


def _json(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_story(prompt, text):
    """A prompt leaves open who meets whom where: a story is right that has the form and tells of the animal that was asked for."""
    forms = [re.sub(r"\\{\w+\\}", SLOT, re.escape(" ".join(lines))) for lines in (chat.STORY, chat.STORY[:2] + chat.STORY[-2:])]
    asked = re.search(r" about an? (\w+)", prompt)
    return any(re.fullmatch(form, text) for form in forms) and (not asked or asked[1] in text.split())


def right(sample, text):
    """Whether `text`, as generated (reasoning included), is the expected answer."""
    wanted, got = answer_text(sample.messages[-1]).strip(), visible(text)
    if sample.thinking and "</think>" not in text:
        return False
    if sample.check == "number":
        return _number(got) == _number(wanted)
    if sample.check == "calls":
        return calls_in(got) == calls_in(wanted)
    if sample.check == "story":
        return _is_story(sample.messages[-2]["content"], got)
    return _json(got) == _json(wanted) if sample.check == "json" else got == wanted


def interval(good, n):
    """The shares of right answers that `good` of n cases speak for, at 95% (Wilson's score interval)."""
    z, share = 1.96, good / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def table(counts):
    """Markdown of {row: (n, right, ended)}."""
    lines = ["| task | cases | right | 95% interval | wanted | turn ended |", "|---|---|---|---|---|---|"]
    for row, (n, good, ended) in counts.items():
        wanted = ROWS.get(row, (None, None))[1]
        low, high = (f"{100 * share:.1f}" for share in interval(good, n))
        lines.append(f"| {row} | {n} | {good} ({good / n:.1%}) | {low} to {high}% | {f'{wanted:.0%}' if wanted else ''} | {ended}/{n} |")
    return "\n".join(lines)
