"""The mixture of tasks, system prompts and noise: `family(seed, split)` is the whole data set."""

from . import lexicon as lx
from .tasks import arithmetic, chat, code, dialog, extract, lookups, passages, results, summary, tools, unknown
from .world import World

# Shares of samples, not of tokens: code and tools are long, sums are short.
TASKS = {
    "chat": (chat.make, 10), "arithmetic": (arithmetic.make, 26), "tools": (tools.make, 23), "results": (results.make, 7), "extract": (extract.make, 12),
    "passages": (passages.make, 20), "lookups": (lookups.make, 28), "code": (code.make, 24), "summary": (summary.make, 4), "dialog": (dialog.make, 7),
    "unknown": (unknown.make, 4),
}  # fmt: skip
SYSTEM = ("You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful AI assistant.", "You are Smelt, a small model.", "Be brief.", "Answer shortly and clearly.",
          "You are a careful assistant that never invents facts.", "You are a coding assistant.", "You are an assistant with access to tools. Use them when they help.", "Be concise.",
          "You help users with short answers.", "Answer in English.", "You are a friendly chatbot.", "Follow the user's instructions exactly.", "You are a local model on the user's machine.",
          "Today is {date}. You are a helpful assistant.", "The user is {person} from {city}.", "You are the assistant of {company}. Be polite.", "Current time: {time}.",
          "You are an expert {job}.", "Answer as well as you can. {words}", "{words}.")  # fmt: skip
BEFORE = ("Hi! ", "Hello. ", "Hey, ", "OK. ", "So, ", "Hi there, ", "Good morning! ", "Sorry to bother you. ", "I hope you are well. ", "Thanks for before. ", "Right, ", "Well, ", "Um, ")
AFTER = (" Thanks!", " Thank you.", " please", " Thanks in advance.", " It's urgent.", " :)", " Cheers", "\n", "  ", " Take your time.", "\n\nThanks,\n{first}")


def system_prompt(world):
    text = world.pick(SYSTEM)
    return text.format(date=world.date(), person=world.person(), city=world.city(), company=world.company(), time=world.time(), job=world.pick(lx.JOBS), words=world.phrase(3, 20).capitalize())


def noise(world, task):
    """Politeness and slips, (before, after) a request. Not inside: what has to be copied stays as it is."""
    before = world.pick(BEFORE) if world.chance(0.12) else ""
    after = world.pick(AFTER).format(first=world.first()) if world.chance(0.1) and task != "code" else ""
    space = world.pick(("\n", " ", "  ", "\n\n")) if world.chance(0.04) else ""
    return space + before, after


def thought(world, sample):
    """Thinking may be on for any request, also where there is nothing to think about."""
    if not sample.thinking and sample.check != "calls" and world.chance(0.06):
        sample.messages[-1]["reasoning_content"] = "I can answer this directly."
        sample.thinking = True
    return sample


def _noised(world, samples, task):
    """Noise around the requests: before them the same for all, so that they still begin alike."""
    opening = None
    for sample in samples:
        first = thought(world, sample).messages[0]
        if len(sample.messages) == 2 and first["role"] == "user":
            before, after = noise(world, task)
            opening = before if opening is None else opening
            first["content"] = opening + first["content"] + after


def dressed_alike(world, samples, task):
    """The samples with some noise around their requests and, often, one system prompt for all."""
    _noised(world, samples, task)
    if samples[0].messages[0]["role"] != "system" and world.chance(0.4):
        system = {"role": "system", "content": system_prompt(world)}
        for sample in samples:
            sample.messages = [dict(system), *sample.messages]
    return samples


def dressed(world, sample, task):
    return dressed_alike(world, [sample], task)[0]


def family(seed, split="train"):
    """(task, samples) number `seed`: the same in every run of one Python version. Several samples begin with the same prompt."""
    world = World(f"{split}/{seed}", split)
    names = list(TASKS)
    name = world.rng.choices(names, [TASKS[n][1] for n in names])[0]
    made = TASKS[name][0](world)
    return name, dressed_alike(world, made if isinstance(made, list) else [made], name)


def sample(seed, split="train"):
    """(task, the first sample of its family)"""
    name, samples = family(seed, split)
    return name, samples[0]
