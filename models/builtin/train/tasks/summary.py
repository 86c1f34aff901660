"""Summaries by template: which sentences matter is told by the form of the text."""

from .. import lexicon as lx
from ..sample import ask
from ..world import spoken
from . import passages

ASKS = ("Summarize this text.", "Summarise the following:", "Give me a summary.", "Write a short summary.", "Please summarize:", "tl;dr", "Sum this up.", "What are the main points?",
        "Shorten this text.", "Summarize the following text.")  # fmt: skip


def paragraphs(world):
    """Several paragraphs: the first sentence of each."""
    blocks = [[s for s, _ in passages.facts(world, world.int(1, 4))] for _ in range(world.int(1, 5))]
    text = "\n\n".join(" ".join(block) for block in blocks)
    return text, "Summary: " + " ".join(block[0] for block in blocks)


def minutes(world):
    """A meeting: who came, what was decided."""
    people = world.list_of(world.first, 2, 5)
    topic = world.phrase(1, 3)
    tasks = [(world.pick(people), world.verb(), world.rare(), world.pick(lx.DAYS)) for _ in range(world.int(1, 4))]
    noise = [s for s, _ in passages.facts(world, world.int(0, 3))]
    lines = [f"{p} will {v} the {n} by {d}." for p, v, n, d in tasks]
    text = f"Meeting about {topic}. Present: {spoken(people)}. " + " ".join(world.shuffled(noise) + lines)
    return text, f"Summary: {spoken(people)} met about {topic}. " + " ".join(lines)


def messages(world):
    """A chat log: who wrote, and the last message."""
    people = world.list_of(world.first, 2, 3)
    lines = [(world.pick(people), world.phrase(2, 8)) for _ in range(world.int(3, 10))]
    seen = list(dict.fromkeys(p for p, _ in lines))
    text = "\n".join(f"{p}: {t}" for p, t in lines)
    return text, f"Summary: {spoken(seen)} wrote {len(lines)} messages. The last is from {lines[-1][0]}: {lines[-1][1]}"


def make(world):
    text, summary = world.pick((paragraphs, paragraphs, minutes, minutes, messages))(world)
    prompt = world.pick(("{a}\n\n{t}", "{t}\n\n{a}", "{a}\n{t}", "Text:\n{t}\n\n{a}")).format(a=world.pick(ASKS), t=text)
    return ask(prompt, summary, "I keep the sentences that matter." if world.chance(0.12) else "")
