"""What was never given is not invented: "I don't know that." """

from ..sample import ask
from . import facts

ANSWER = "I don't know that."
ABOUT_PEOPLE = ("What is {p}'s phone number?", "Where does {p} live?", "When was {p} born?", "How old is {p}?", "What did {p} say yesterday?",
                "Who is {p}?", "Who is {p} married to?", "What is {p}'s favourite colour?", "Why is {p} famous?", "What is {p}'s job?",
                "Tell me about {p}.", "Give me {p}'s email address.")  # fmt: skip
ABOUT_PLACES = ("How many people live in {c}?", "What is the population of {c}?", "Who is the mayor of {c}?", "What is the weather in {c}?",
                "When was {c} founded?", "What is the best restaurant in {c}?", "How far is {c} from here?", "What is the time in {c}?",
                "What river flows through {c}?", "How tall is the highest building in {c}?")  # fmt: skip
ABOUT_THINGS = ("What does {w} mean?", "Who invented the {t}?", "How much does {o} cost?", "When did {o} open?", "Who wrote {b}?", "Who directed {b}?",
                "Who runs {o}?", "What is the stock price of {o}?", "Who won the {t} contest of {y}?", "What happened on {d}?", "Explain {w}.",
                "What is a {w}?", "Summarise the book {b}.", "What is in the file {f}?", "Who won the world cup in {y}?", "What is the news today?",
                "What is the latest version of {w}?", "What is the capital of {n}?", "Where is {n}?", "Who was president in {y}?",
                "What time is it?", "What day is it today?", "What is the date?", "What is the meaning of life?", "Who discovered {w}?",
                "How do I cook {w}?", "How does a {t} work?", "Why is {w} important?", "What is the best {t}?", "How do I fix my {t}?")  # fmt: skip


def make(world):
    words = {"p": world.person(), "c": world.city(), "w": world.pseudo() if world.chance(0.7) else f"{world.word()} {world.word()}", "t": world.thing(),
             "o": world.company(), "b": f'"{world.title()}"', "y": world.int(1900, 2030), "d": world.date(), "f": world.path(),
             "n": world.pseudo().capitalize()}  # fmt: skip
    if words["n"] in facts.CAPITALS:
        return make(world)
    prompt = world.pick(world.pick((ABOUT_PEOPLE, ABOUT_PLACES, ABOUT_THINGS))).format(**words)
    reasoning = "This is not something I know, and nothing in the conversation tells it." if world.chance(0.2) else ""
    return ask(prompt, ANSWER, reasoning)
