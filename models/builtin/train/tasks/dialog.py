"""Several turns: what was said before is remembered, and a new question is a new question."""

from .. import lexicon as lx
from ..sample import Sample, ask
from ..world import a
from . import arithmetic, chat, extract, passages, unknown

# what the user tells | the question later | the answer
MEMORIES = (
    ("My name is {p}.|I'm {p}.|Call me {p}.|Hi, I am {p}.|my name is {p}", "What is my name?|Who am I?|Do you remember my name?|what's my name", "Your name is {p}.", "Nice to meet you, {p}."),
    ("I live in {c}.|I'm from {c}.|My home is {c}.", "Where do I live?|Which city am I from?|Where am I from?", "You live in {c}.", "Noted: you live in {c}."),
    ("My favourite colour is {k}.|I love the colour {k}.", "What is my favourite colour?|Which colour do I like?", "Your favourite colour is {k}.", "Noted: {k}."),
    ("I work as {a_j}.|I'm {a_j}.", "What is my job?|What do I do for a living?", "You are {a_j}.", "Noted: you are {a_j}."),
    ("The password is {i}.|Remember the code {i}.|Please remember this: {i}", "What is the password?|What was the code?|What did I ask you to remember?", "It is {i}.", "I will remember {i}."),
    ("I have a {n} named {q}.|My {n} is called {q}.", "What is my {n} called?|What is the name of my {n}?", "Your {n} is called {q}.", "What a nice name, {q}."),
    ("The {t} is in the {w} box.|I put the {t} in the {w} box.", "Where is the {t}?|Where did I put the {t}?", "The {t} is in the {w} box.", "Noted: the {t} is in the {w} box."),
    ("My lucky number is {m}.|Remember the number {m}.", "What is my lucky number?|Which number did I give you?", "Your number is {m}.", "Noted: {m}."),
)  # fmt: skip


def _pair(prompt, answer):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _small(world):
    """A short exchange of another task, as history."""
    sample = world.pick((chat.fact, chat.identity, arithmetic.plain, chat.echo, unknown.make, chat.chosen, chat.fact))(world)
    return sample.messages


def memory(world):
    told, asked, answer, ack = world.pick(MEMORIES)
    job = world.pick(lx.JOBS)
    words = {"p": world.first(), "c": world.city(), "k": world.pick(lx.COLOURS), "a_j": a(job), "i": world.pick((world.code(), world.rare())), "n": world.pick(("dog", "cat", "horse", "bird", "parrot")),
             "q": world.first(), "t": world.thing(), "w": world.pick(lx.COLOURS), "m": world.number()}  # fmt: skip
    said = world.pick(told.split("|")).format(**words)
    if world.chance(0.15):
        return ask(f"{said} {world.pick(asked.split('|')).format(**words)}", answer.format(**words))
    first = _pair(said, ack.format(**words))
    if world.chance(0.25):
        return Sample(first)
    history = first
    for _ in range(world.pick((0, 0, 1, 1, 2, 3))):
        history = history + _small(world) if world.chance(0.7) else _small(world) + history
    final = ask(world.pick(asked.split("|")).format(**words), answer.format(**words), "The user told me this before." if world.chance(0.15) else "")
    return Sample(history + final.messages, thinking=final.thinking)


def again(world):
    """Repeat the last answer."""
    history = _small(world)
    prompt = world.pick(("Say that again.", "Repeat your last answer.", "Can you repeat that?", "again please", "What did you just say?", "Once more."))
    return Sample(history + _pair(prompt, history[-1]["content"]))


def about_before(world):
    """What did I ask?"""
    history = _small(world)
    asked = history[0]["content"]
    for _ in range(world.pick((0, 1))):
        history = history + _small(world)
    return Sample(history + _pair(world.pick(("What was my first question?", "What did I ask you first?", "Repeat my first message.")), f'You wrote: "{asked}"'))


def more_sums(world):
    """and plus 5? uses the last result."""
    first = arithmetic.plain(world)
    last = int(first.messages[-1]["content"].split()[-1])
    op, b = world.pick("+-"), world.int(1, 20)
    prompt = world.pick((("Now add {b}.", "and plus {b}?", "Add {b} to that.", "plus {b}") if op == "+" else ("Now subtract {b}.", "and minus {b}?", "Take away {b}.", "minus {b}")))
    return Sample(first.messages + _pair(prompt.format(b=b), f"{last} {op} {b} = {arithmetic.value(last, op, b)}"), check="number")


def more_questions(world):
    """A second question about the passage of the first turn."""
    found = passages.facts(world, world.int(2, 8))
    (s1, q1), (s2, q2) = world.sample(found, 2)
    text = " ".join(s for s, _ in found)
    first = _pair(passages.framed(world, text, world.pick(q1)[0]), passages.quoted(s1))
    return Sample(first + _pair(world.pick(("", "", "And ", "Next: ")) + world.pick(q2)[0], passages.quoted(s2)))


def after_others(world):
    """Any short exchanges, then a new task."""
    final = world.pick((chat.make, arithmetic.make, passages.make, extract.make, unknown.make))(world)
    history = [m for _ in range(world.int(1, 4)) for m in _small(world)]
    if final.messages[0]["role"] == "system":
        history = [final.messages.pop(0), *history]
    final.messages = history + final.messages
    return final


MIX = ((memory, 34), (again, 8), (about_before, 6), (more_sums, 8), (more_questions, 14), (after_others, 30))


def make(world):
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
