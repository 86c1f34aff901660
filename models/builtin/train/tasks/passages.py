"""Questions about a passage in the prompt, answered by quoting it."""

from .. import lexicon as lx
from .. import stdlib
from ..sample import ask
from ..world import a, spoken

# sentence | question -> which slot is the short answer
RELATIONS = (
    ("{p} was born in {c} in {y}", (("Where was {p} born?", "c"), ("When was {p} born?", "y"), ("In what year was {p} born?", "y"), ("Who was born in {c}?", "p"))),
    ("{p} moved to {c} in {y}", (("Where did {p} move?", "c"), ("When did {p} move to {c}?", "y"), ("Who moved to {c}?", "p"))),
    ("{p} works as {a_j} in {c}", (("What does {p} do?", "j"), ("What is {p}'s job?", "j"), ("Where does {p} work?", "c"))),
    ("{o} was founded in {y} by {p}", (("When was {o} founded?", "y"), ("Who founded {o}?", "p"), ("What did {p} found?", "o"))),
    ("{o} has its head office in {c}", (("Where is {o} based?", "c"), ("Where is the head office of {o}?", "c"), ("Which company is based in {c}?", "o"))),
    ("{o} makes {t}s and sells them in {c}", (("What does {o} make?", "t"), ("Where does {o} sell its {t}s?", "c"))),
    ("{o} employs {n} people", (("How many people does {o} employ?", "n"), ("How many people work at {o}?", "n"))),
    ("{p} bought {a_t} for {n} euros", (("What did {p} buy?", "t"), ("How much did {p} pay?", "n"), ("Who bought {a_t}?", "p"))),
    ("{p} lost {a_k} {t} in {c}", (("What did {p} lose?", "t"), ("Where did {p} lose the {t}?", "c"), ("Who lost {a_k} {t}?", "p"))),
    ("{p} is married to {q}", (("Who is {p} married to?", "q"),)),
    ("{p} gave {q} {a_t}", (("What did {p} give {q}?", "t"), ("Who gave {q} {a_t}?", "p"))),
    ("{p} met {q} in {c}", (("Where did {p} meet {q}?", "c"), ("Whom did {p} meet in {c}?", "q"))),
    ("the favourite colour of {p} is {k}", (("What is {p}'s favourite colour?", "k"), ("What is the favourite colour of {p}?", "k"), ("Whose favourite colour is {k}?", "p"))),
    ("the {t} of {p} is {k}", (("What colour is the {t} of {p}?", "k"), ("What colour is {p}'s {t}?", "k"), ("Whose {t} is {k}?", "p"))),
    ("the {t} is kept in the {w} room", (("Where is the {t} kept?", "w"), ("In which room is the {t}?", "w"))),
    ("the code for the {w} door is {i}", (("What is the code for the {w} door?", "i"), ("Which code opens the {w} door?", "i"))),
    ("the train to {c} leaves at {h}", (("When does the train to {c} leave?", "h"), ("Where does the {h} train go?", "c"))),
    ("the {w} meeting is on {d} at {h}", (("When is the {w} meeting?", "d"), ("On which day is the {w} meeting?", "d"), ("At what time is the {w} meeting?", "h"))),
    ("{c} has {n} inhabitants", (("How many inhabitants does {c} have?", "n"), ("How many people live in {c}?", "n"), ("Which city has {n} inhabitants?", "c"))),
    ("the river {x} flows through {c}", (("Which river flows through {c}?", "x"), ("Where does the {x} flow?", "c"))),
    ("the {b} bridge in {c} is {n} metres long", (("How long is the {b} bridge?", "n"), ("Where is the {b} bridge?", "c"), ("Which bridge is in {c}?", "b"))),
    ("{p} wrote the book \"{s}\" in {y}", (("Who wrote \"{s}\"?", "p"), ("When was \"{s}\" written?", "y"), ("Which book did {p} write?", "s"), ("What did {p} write?", "s"))),
    ("order {i} was sent to {c} on {d}", (("Where was order {i} sent?", "c"), ("When was order {i} sent?", "d"), ("Which order went to {c}?", "i"))),
    ("the {w} of the {x} is {v}", (("What is the {w} of the {x}?", "v"),)),
    ("the {m} is in the {g}", (("Where is the {m}?", "g"), ("What is in the {g}?", "m"), ("In which room is the {m}?", "g"))),
    ("{p} is {z} years old", (("How old is {p}?", "z"), ("What is {p}'s age?", "z"), ("Who is {z} years old?", "p"))),
    ("{p} lives in {c}", (("Where does {p} live?", "c"), ("Who lives in {c}?", "p"))),
    ("{p} likes {t}s", (("What does {p} like?", "t"), ("Who likes {t}s?", "p"))),
    ("{p} called {q} at {h}", (("When did {p} call {q}?", "h"), ("Who called {q}?", "p"), ("Whom did {p} call?", "q"))),
    ("the price of the {t} is {n} euros", (("What is the price of the {t}?", "n"), ("How much is the {t}?", "n"), ("What does the {t} cost?", "n"))),
    ("{p} speaks {l}", (("Which language does {p} speak?", "l"), ("What does {p} speak?", "l"), ("Who speaks {l}?", "p"))),
    ("the {x} server runs on port {n}", (("On which port does the {x} server run?", "n"), ("What port does {x} use?", "n"))),
    ("{x} is a small village near {c}", (("What is {x}?", "x"), ("Where is {x}?", "c"), ("Which village is near {c}?", "x"))),
)  # fmt: skip
OPENERS = ("", "", "", "", "", "As everyone knows, ", "According to the report, ", "In the end ", "It is said that ", "Later we learned that ", "For the record, ")
FRAMES = ("{p}\n\n{q}", "Passage: {p}\n\nQuestion: {q}", "Passage:\n{p}\n\nQuestion: {q}", "{q}\n\n{p}", "Read this text:\n{p}\n\n{q}", "Text:\n\n{p}\n\n{q}",
          "Here is a passage.\n\n{p}\n\nAnswer from it: {q}", '"{p}"\n\n{q}', "{q}\n\nPassage: {p}", "<document>\n{p}\n</document>\n\n{q}", "{p}\n{q}",
          "Context: {p}\nQuestion: {q}", "Use the following text to answer.\n\n{p}\n\n{q}")  # fmt: skip
PASSAGE_FIRST = tuple(form for form in FRAMES if form.index("{p}") < form.index("{q}"))
MENTIONS = ('Quote the sentence that mentions "{}".', "Which sentence contains the word {}?", "Find the sentence with the word '{}'.")
NOT_SAID = "The passage does not say."
SHORT = (" Answer in a few words.", " Answer briefly.", " Short answer.", " Just the answer, no sentence.", " In one or two words.")
QUOTE = ("", "", "", "", " Quote the passage.", " Answer with the sentence that says so.", " Quote the sentence.")


def _slots(world):
    thing, colour, job = world.thing(), world.pick(lx.COLOURS), world.pick(lx.JOBS)
    return {
        "p": world.person(), "q": world.person(), "c": world.city(), "y": str(world.int(1700, 2030)), "t": thing, "a_t": a(thing), "k": colour, "a_k": a(colour),
        "j": job, "a_j": a(job), "o": world.company(), "n": str(world.int(2, 99999)), "i": world.code(), "w": world.word(), "x": world.pseudo().capitalize(),
        "h": world.time(), "d": world.pick((world.date(), world.pick(lx.DAYS), f"{world.int(1, 28)} {world.pick(lx.MONTHS)}")), "b": world.rare().capitalize(),
        "s": world.title(), "v": world.rare(), "l": world.pick(lx.LANGUAGES),
        "m": world.pick((*lx.ANIMALS, "cat", "dog")), "g": world.pick(("kitchen", "garden", "attic", "hall", "garage", "office", "cellar", world.word())),
        "z": str(world.int(1, 99)),
    }  # fmt: skip


def _opener(world):
    """How a sentence begins. In training also with words that no other one begins with."""
    return f"{world.phrase(1, 3).capitalize()}, " if world.split == "train" and world.chance(0.2) else world.pick(OPENERS)


def fact(world, relations=RELATIONS):
    """(sentence, [(question, short answer)])"""
    form, questions = world.pick(relations)
    slots = _slots(world)
    text = _opener(world) + form.format(**slots)
    sentence = text[0].upper() + text[1:] + "."
    return sentence, [(q.format(**slots), slots[key]) for q, key in questions if key != "x" or "village" not in q]


def facts(world, n):
    found = [fact(world) for _ in range(n)]
    return found if len({q for _, qs in found for q, _ in qs}) == sum(len(qs) for _, qs in found) else facts(world, n)


def passage(world, sentences):
    """One paragraph or several, sometimes with sentences of other texts between."""
    sentences = list(sentences)
    for _ in range(world.pick((0, 0, 0, 1, 2, 4))):
        sentences.insert(world.int(0, len(sentences)), world.pick(stdlib.sentences(world.split)))
    cut = world.int(2, 5)
    groups = [sentences[i : i + cut] for i in range(0, len(sentences), cut)] if world.chance(0.3) else [sentences]
    return world.pick(("\n\n", "\n")).join(" ".join(g) for g in groups)


def framed(world, passage, question):
    return world.pick(FRAMES).format(p=passage, q=question)


def quoted(sentence):
    return f'The passage says: "{sentence}"'


def entity(world):
    found = facts(world, world.pick((1, 2, 3, 4, 5, 6, 8, 10, 14)))
    i = world.int(0, len(found) - 1)
    sentence, questions = found[i]
    missing = world.chance(0.1)
    if missing:
        del found[i]
        if not found:
            return entity(world)
    question, short = world.pick(questions)
    brief = world.chance(0.3)
    prompt = framed(world, passage(world, [s for s, _ in found]), question + world.pick(SHORT if brief else QUOTE))
    answer = NOT_SAID if missing else short if brief else quoted(sentence)
    reasoning = ("No sentence tells this." if missing else f'The sentence is: "{sentence}"') if world.chance(0.2) else ""
    return ask(prompt, answer, reasoning)


def mentions(world):
    """Quote the sentence in which a word occurs."""
    pool = stdlib.sentences(world.split)
    start = world.int(0, len(pool) - 12)
    sentences = list(dict.fromkeys(world.pick((pool[start : start + world.int(2, 9)], world.sample(pool, world.int(2, 9))))))
    i = world.int(0, len(sentences) - 1)
    others = set(" ".join(sentences[:i] + sentences[i + 1 :]).lower().replace(".", " ").replace(",", " ").split())
    own = [w for w in sentences[i].strip(".").split() if w.isalpha() and len(w) > 4 and w.lower() not in others]
    if not own:
        return mentions(world)
    word = world.pick(own)
    question = world.pick(MENTIONS).format(word)
    return ask(framed(world, " ".join(sentences), question), quoted(sentences[i]))


def positions(world):
    """The first or the last sentence."""
    sentences = world.sample(stdlib.sentences(world.split), world.int(2, 7))
    which = world.pick((0, -1))
    question = f"Quote the {'first' if which == 0 else 'last'} sentence."
    return ask(framed(world, " ".join(sentences), question), quoted(sentences[which]))


def cells(world):
    """(column, {key: value}) of a small table or log."""
    keys = world.list_of(world.pick((world.person, world.code, world.rare)), 3, 9)
    column = world.pick(("price", "status", "score", "room", "port", world.word()))
    return column, {k: str(world.pick((world.number(), world.rare(), world.decimal()))) for k in keys}


def table_text(world, column, rows):
    sep = world.pick((": ", ", ", " | ", " = ", "\t"))
    return "\n".join(f"{k}{sep}{v}" for k, v in {"name": column, **rows}.items())


def about_cell(world, column, key):
    return world.pick((f"What is the {column} of {key}?", f"Which {column} does {key} have?", f"Tell me the {column} of {key}."))


def cell(column, key, value):
    return f"The {column} of {key} is {value}."


def table(world):
    column, rows = cells(world)
    key = world.pick(list(rows))
    text = table_text(world, column, rows)
    return ask(framed(world, text, about_cell(world, column, key)), cell(column, key, rows[key]))


def several(world):
    """A question to one of two passages, or the list of those who..."""
    people = world.list_of(world.first, 3, 7)
    things = [world.pick(("tea", "coffee")) for _ in people]
    wanted = world.pick(things)
    text = " ".join(f"{p} drinks {t}." for p, t in zip(people, things, strict=True))
    who = [p for p, t in zip(people, things, strict=True) if t == wanted]
    return ask(framed(world, text, f"Who drinks {wanted}?"), f"{spoken(who)}.")


MIX = ((entity, 62), (mentions, 20), (positions, 4), (table, 11), (several, 3))


def make(world):
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
