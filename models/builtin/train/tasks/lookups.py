"""Many questions about one passage, for training: all prompts begin with the passage, so that each question costs little more than its answer."""

import re

from .. import stdlib
from ..sample import ask
from ..world import spoken
from . import passages

MOST = 9  # questions about one passage
HABITS = (("{p} drinks {t}.", "Who drinks {t}?"), ("{p} plays {t}.", "Who plays {t}?"), ("{p} has a {t} hat.", "Who has a {t} hat?"), ("{p} chose {t}.", "Who chose {t}?"))


def _asked(world, text, questions):
    """One sample for each (question, answer, reasoning) about the text."""
    form = world.pick(passages.PASSAGE_FIRST)
    return [ask(form.format(p=text, q=question), answer, reasoning) for question, answer, reasoning in questions]


def _facts(world, n):
    """As `passages.facts`, with names that come again and kinds of facts that do, but no question that two of them answer."""
    if world.chance(0.6):
        world.narrow()
    relations = world.sample(passages.RELATIONS, world.int(2, 6)) if world.chance(0.5) else passages.RELATIONS
    found, questions = [], set()
    for _ in range(3 * n):
        sentence, own = passages.fact(world, relations)
        if len(found) < n and questions.isdisjoint(q for q, _ in own):
            found.append((sentence, own))
            questions.update(q for q, _ in own)
    return found


def _about_fact(world, sentence, question, short, missing):
    brief = world.chance(0.3)
    answer = passages.NOT_SAID if missing else short if brief else passages.quoted(sentence)
    reasoning = ("No sentence tells this." if missing else f'The sentence is: "{sentence}"') if world.chance(0.1) else ""
    return question + world.pick(passages.SHORT if brief else passages.QUOTE), answer, reasoning


def entities(world):
    found = _facts(world, world.int(2, 14))
    missing = {found[0][0]} if len(found) > 2 and world.chance(0.4) else set()
    kept = world.shuffled([sentence for sentence, _ in found if sentence not in missing])
    questions = [(sentence, question, short, sentence in missing) for sentence, own in found for question, short in own]
    return _asked(world, passages.passage(world, kept), [_about_fact(world, *drawn) for drawn in world.sample(questions, MOST)])


def _bent(world, sentence):
    """With some of its words replaced: what is asked for has to be looked up, not remembered."""
    share = world.pick((0.1, 0.2, 0.5))
    return re.sub(r"(?<=[a-z ])\b[a-z]{3,}\b", lambda word: world.word() if world.chance(share) else word[0], sentence)


def _invented(world):
    return world.phrase(3, 14).capitalize() + "."


def _sentences(world):
    """From one docstring or several, as they are, bent or invented; now and then some that differ in a few words."""
    pool, n = stdlib.sentences(world.split), world.int(2, 10)
    start = world.int(0, len(pool) - n)
    found = world.pick((pool[start : start + n], world.sample(pool, n)))
    changed = world.chance(0.7)
    made = [_invented(world) if changed and world.chance(0.15) else _bent(world, s) if changed and world.chance(0.7) else s for s in found]
    twins = [_bent(world, world.pick(made)) for _ in range(world.pick((0, 0, 0, 1, 2)))]
    return world.shuffled(dict.fromkeys(made + twins)) if twins else list(dict.fromkeys(made))


def _words(sentence):
    return re.findall(r"[A-Za-z]{3,}", sentence)


def _only_here(sentences, i):
    """Words of sentence i that occur nowhere else, not as a part of a word either."""
    others = " ".join(sentences[:i] + sentences[i + 1 :]).lower()
    return [word for word in dict.fromkeys(_words(sentences[i])) if word.lower() not in others]


def _about_word(world, sentence, word):
    if world.chance(0.2):
        return f'How does the sentence with the word "{word}" begin?', " ".join(sentence.split()[:3]), ""
    return world.pick(passages.MENTIONS).format(word), passages.quoted(sentence), ""


def mentions(world):
    """Sentences asked for by a word, by their place, by how they begin."""
    sentences = _sentences(world)
    known = [(sentence, word) for i, sentence in enumerate(sentences) for word in world.sample(_only_here(sentences, i), 3)]
    if not known:
        return mentions(world)
    questions = [_about_word(world, *drawn) for drawn in world.sample(known, MOST)]
    if world.chance(0.25):
        questions += [(f"Quote the {place} sentence.", passages.quoted(sentences[i]), "") for place, i in (("first", 0), ("last", -1))]
    return _asked(world, " ".join(sentences), questions)


def habits(world):
    """Who of several does a thing."""
    sentence, question = HABITS[0] if world.chance(0.6) else world.pick(HABITS)
    things = ["tea", "coffee"] if world.chance(0.5) else world.list_of(world.word, 2, 3)
    of = {person: world.pick(things) for person in world.list_of(world.first, 3, 8)}
    text = " ".join(sentence.format(p=person, t=thing) for person, thing in of.items())
    asked = [(question.format(t=thing), f"{spoken(who)}.", "") for thing in things if (who := [p for p, t in of.items() if t == thing])]
    return _asked(world, text, asked)


def lines(world):
    """Lines of a small table, each asked for by its key."""
    column, rows = passages.cells(world)
    asked = [(passages.about_cell(world, column, key), passages.cell(column, key, rows[key]), "") for key in world.sample(list(rows), MOST)]
    return _asked(world, passages.table_text(world, column, rows), asked)


MIX = ((entities, 40), (mentions, 44), (habits, 12), (lines, 4))


def make(world):
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
