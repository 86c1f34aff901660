"""Short chat, facts known by heart, echoes, little stories."""

from .. import lexicon as lx
from ..sample import ask
from ..world import a, spoken
from . import facts

ACK = ("", "", "", "", "", "Please tell me: ", "Hi! ", "Quick question: ", "I wonder, ", "Hey, ", "One more thing: ", "Question: ")


def identity(world):
    answer = world.pick(list(facts.IDENTITY))
    prompt = world.pick(facts.IDENTITY[answer])
    return ask(_vary(world, prompt), answer, _thought(world, "The user is chatting. I answer briefly."))


def _vary(world, prompt):
    if world.chance(0.25):
        prompt = prompt.lower()
    if world.chance(0.15):
        prompt = prompt.rstrip(".?!")
    if world.chance(0.1):
        prompt += world.pick(("!", "?", "??", "...", " :)", " please"))
    return prompt


def _thought(world, text, p=0.2):
    return text if world.chance(p) else ""


def _capital(world):
    country = world.pick(list(facts.CAPITALS))
    forms = ("What is the capital of {}?", "capital of {}", "What's the capital city of {}?", "Name the capital of {}.", "Which city is the capital of {}?",
             "Tell me the capital of {}.", "{} capital?", "Do you know the capital of {}?")  # fmt: skip
    bare = country.removeprefix("the ")
    prompt = world.pick(forms).format(bare if world.chance(0.2) else country)
    city = facts.CAPITALS[country]
    return prompt, f"The capital of {country} is {city.rstrip('.')}."


def _table(world):
    """One question about one of the small tables."""
    kind = world.int(0, 7)
    if kind == 0:
        name, symbol = world.pick(list(facts.SYMBOLS.items()))
        return world.pick(("What is the chemical symbol for {}?", "Chemical symbol of {}?", "symbol for {}")).format(name), f"The symbol for {name} is {symbol}."
    if kind == 1:
        word, other = world.pick(list(facts.OPPOSITES.items()))
        word, other = (word, other) if world.chance(0.5) else (other, word)
        return world.pick(("What is the opposite of {}?", "opposite of {}", "Give me the opposite of {}.")).format(word), f"The opposite of {word} is {other}."
    if kind == 2:
        animal, sound = world.pick(list(facts.SOUNDS.items()))
        return world.pick(("What sound does a {} make?", "What does a {} do?")).format(animal), f"A {animal} {sound}."
    if kind == 3:
        animal, legs = world.pick(list(facts.LEGS.items()))
        return f"How many legs does {a(animal)} have?", f"{a(animal).capitalize()} has {legs} legs."
    if kind == 4:
        what, n = world.pick(list(facts.COUNTS.items()))
        return world.pick(("How many {} are there?", "How many {}?", "Tell me how many {} there are.")).format(what), f"There are {n} {what}."
    if kind == 5:
        word, plural = world.pick(list(facts.PLURALS.items()))
        return world.pick(("What is the plural of {}?", "plural of {}")).format(word), f"The plural of {word} is {plural}."
    if kind == 6:
        what, items = world.pick(list(facts.LISTS.items()))
        return world.pick(("List the {}.", "What are the {}?", "Name the {}.", "list the {}", "Tell me the {}.", "Recite the {}.")).format(what), items
    return _calendar(world)


def _calendar(world):
    names, what = world.pick(((lx.DAYS, "day"), (lx.MONTHS, "month")))
    names = list(dict.fromkeys(names))
    i = world.int(0, len(names) - 1)
    if world.chance(0.5):
        return world.pick(("Which {w} comes after {n}?", "What {w} follows {n}?")).format(w=what, n=names[i]), f"{names[(i + 1) % len(names)]} comes after {names[i]}."
    return f"Which {what} comes before {names[i]}?", f"{names[i - 1]} comes before {names[i]}."


def _definition(world):
    term, text = world.pick(list(facts.DEFINITIONS.items()))
    return world.pick(("What is {}?", "what is {}", "Explain {}.", "Define {}.", "What does {} mean?", "Tell me about {}.", "Explain {} in one sentence.")).format(term), text


def fact(world):
    kind = world.int(0, 9)
    if kind < 3:
        prompt, answer = _capital(world)
    elif kind < 7:
        prompt, answer = _table(world)
    elif kind < 9:
        prompt, answer = _definition(world)
    else:
        prompt, answer = world.pick(list(facts.SINGLE.items()))
    return ask(_vary(world, world.pick(ACK) + prompt), answer, _thought(world, f"I know this. {answer}" if len(answer) < 80 else "I know this."))


STORY = (
    "Once there was {a_adj} {animal} named {name} who lived near {city}.",
    "Every morning {name} looked for {a_thing} and found only {a_other}.",
    "One {day} {name} met {friend}, {a_job}, who had lost {a_thing2}.",
    "{name} searched by the river, under the bridge and behind the {adj2} house, and found it at last.",
    "{friend} was so glad that the two shared {a_food} and became friends.",
    "From then on they walked home together every {day}.",
)


def story(world):
    animal = world.pick(lx.ANIMALS)
    given = world.chance(0.7)
    values = {
        "a_adj": a(world.pick(lx.ADJECTIVES)), "animal": animal, "name": world.first(), "city": world.city(), "a_thing": a(world.thing()),
        "a_other": a(world.thing()), "day": world.pick(lx.DAYS), "friend": world.first(), "a_job": a(world.pick(lx.JOBS)),
        "a_thing2": a(world.thing()), "adj2": world.pick(lx.ADJECTIVES), "a_food": a(world.pick(("pie", "pear", "cake", "sandwich", "melon"))),
    }  # fmt: skip
    lines = STORY if world.chance(0.7) else STORY[:2] + STORY[-2:]
    ask_for = world.pick(("Tell me a story", "Tell me a short story", "Write a short story", "Write a story", "I want to hear a story", "Can you tell a story"))
    prompt = ask_for + (f" about {a(animal)}" if given else "") + world.pick((".", "", "!"))
    return ask(prompt, " ".join(lines).format(**values), check="story")


def poem(world):
    topic = world.pick((world.thing(), world.pick(lx.ANIMALS), world.city()))
    prompt = world.pick(("Write a poem about {}.", "write a short poem about {}", "Give me a haiku about {}.", "A few lines about {}, please.")).format(topic)
    return ask(prompt, f"A {topic} in the morning light,\na {topic} in the quiet night,\nand when the busy day is through,\nthe {topic} still is there for you.")


def echo(world):
    """Copying, the root of nearly everything this model can do."""
    text = world.pick((world.phrase(1, 6), world.title(), world.code(), world.person(), " ".join(world.pseudo() for _ in range(world.int(1, 8))),
                       " ".join(world.code() for _ in range(world.int(1, 5))), world.phrase(8, 40)))  # fmt: skip
    if world.split == "train" and world.chance(0.3):
        text = world.jumble(2, 60)
    prompt = world.pick(("Say: {}", "Repeat after me: {}", 'Say "{}"', "Repeat: {}", "Echo {}", 'Repeat exactly: "{}"', "Write {}", "Repeat this text: {}")).format(text)
    return ask(prompt, text)


def spelled(world):
    word = world.rare()
    kind = world.int(0, 3)
    if kind == 0:
        return ask(world.pick((f"Spell {word}.", f'Spell the word "{word}".')), "-".join(word))
    if kind == 1:
        return ask(f'What is the first letter of "{word}"?', f'The first letter of "{word}" is {word[0]}.')
    if kind == 2:
        return ask(world.pick((f'Write "{word}" in upper case.', f"Uppercase {word}")), word.upper())
    items = world.list_of(world.thing, 3, 6)
    return ask("Sort alphabetically: " + ", ".join(items), ", ".join(sorted(items)))


def chosen(world):
    """Questions whose answer is in the question."""
    items = world.list_of(world.thing, 3, 6)
    i = world.int(0, len(items) - 1)
    ordinal = ("first", "second", "third", "fourth", "fifth", "sixth")[i]
    kind = world.int(0, 2)
    if kind == 0:
        return ask(f"What is the {ordinal} item of this list: {', '.join(items)}?", f"The {ordinal} item is {items[i]}.")
    if kind == 1:
        return ask(f"What is the last word of this list: {', '.join(items)}?", f"The last word is {items[-1]}.")
    return ask(f"Make a bullet list of {spoken(items)}.", "\n".join(f"- {item}" for item in items))


MIX = ((identity, 26), (fact, 30), (story, 6), (poem, 3), (echo, 22), (spelled, 6), (chosen, 8))


def make(world):
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
