"""Answers from tool results, and calls that need the result of an earlier call."""

from ..sample import Sample, call
from ..world import dumps, spoken
from . import common_tools, toolbox, tools

KINDS = ("word", "person", "city", "date", "time", "code", "integer", "integer", "number", "boolean", "text")
WEATHER = (("temperature", "temp", "temperature_c"), ("condition", "conditions", "sky"), ("humidity", "wind", "wind_kmh"))


def _shown(value):
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _field(world):
    p = toolbox.Param(world.styled([world.rare() for _ in range(world.pick((1, 1, 2)))], "snake"), world.pick(KINDS))
    return p.name, toolbox.value(world, p)


def record(world):
    if world.chance(0.15):
        keys = [world.pick(names) for names in WEATHER]
        return dict(zip(keys, (world.int(-10, 38), world.pick(("sunny", "cloudy", "rain", "snow", "clear", "fog")), world.int(0, 100)), strict=True))
    return dict(_field(world) for _ in range(world.pick((1, 1, 2, 2, 3, 4))))


def sentence(fields):
    return spoken([f"the {toolbox.spaced(k)} is {_shown(v)}" for k, v in fields.items()])


def _upper(text):
    return text[0].upper() + text[1:]


def result(world):
    """(what the tool returns, what the model says of it)."""
    kind = world.int(0, 9)
    if kind < 5:
        fields = record(world)
        text = dumps(fields) if world.chance(0.9) else "\n".join(f"{k}: {_shown(v)}" for k, v in fields.items())
        return text, _upper(sentence(fields)) + "."
    if kind == 5:
        text = f"{world.phrase(3, 9).capitalize()}."
        return text, text
    if kind == 6:
        message = world.pick((f"{world.word()} not found", f"no such {world.word()}", "timeout", "permission denied", world.phrase(2, 5)))
        return dumps({"error": message}), f"The tool failed: {message}."
    if kind == 7:
        items = world.list_of(world.pick((world.rare, world.person, world.path, world.city)), 1, 5)
        return dumps(items if world.chance(0.6) else {"results": items}), f"I found {len(items)}: {spoken(items)}."
    if kind == 8:
        return dumps([]) if world.chance(0.5) else dumps({"results": []}), "Nothing was found."
    number = world.pick((world.number(), world.decimal()))
    return str(number) if world.chance(0.5) else dumps({"result": number}), f"The result is {number}."


def _messages(prompt, calls, results, reasoning=""):
    history = [{"role": "user", "content": prompt}, tools.answer(calls, reasoning)]
    return history + [{"role": "tool", "content": text} for text in results]


def _job(world):
    """(prompt, specs, calls) of one call."""
    if world.chance(0.4):
        return common_tools.one(world)[:3]
    box = toolbox.boxful(world, world.pick((1, 1, 2, 3)))
    t = world.pick(box)
    args = toolbox.arguments(world, t)
    return toolbox.request(world, t, args), tools.specs(world, box), [call(t.name, args)]


def _final(world, history, specs, text, because):
    thinking = world.chance(0.25)
    message = {"role": "assistant", "content": text} | ({"reasoning_content": because} if thinking else {})
    return Sample([*history, message], specs, thinking)


def one(world):
    prompt, specs, calls = _job(world)
    returned, said = result(world)
    return _final(world, _messages(prompt, calls, [returned]), specs, said, "The tool has answered. I say what it returned.")


def one_field(world):
    """Only the field that was asked for."""
    prompt, specs, calls = _job(world)
    fields = {}
    while len(fields) < 2:
        fields = record(world)
    key = world.pick(list(fields))
    prompt += world.pick((" Tell me only the {k}.", " I only need the {k}.", " Just the {k}.", " What is the {k}?")).format(k=toolbox.spaced(key))
    said = _upper(sentence({key: fields[key]})) + "."
    return _final(world, _messages(prompt, calls, [dumps(fields)]), specs, said, f"The user asked for the {toolbox.spaced(key)}: {_shown(fields[key])}.")


def several(world):
    """Two results of one answer's parallel calls, told apart by their first argument."""
    prompt, specs, calls, _ = common_tools.parallel(world)
    labels = [str(next(iter(c["function"]["arguments"].values()), c["function"]["name"])) for c in calls]
    pairs = [result(world) for _ in calls]
    said = "\n".join(f"{label}: {text}" for label, (_, text) in zip(labels, pairs, strict=True))
    return _final(world, _messages(prompt, calls, [r for r, _ in pairs]), specs, said, "All tools have answered. I report each result.")


def then(world):
    """The second call takes a value that the first returned."""
    box = toolbox.boxful(world, world.pick((2, 2, 3)))
    first, second = box[0], box[1]
    linked = toolbox.Param(world.pick(toolbox.FAMILIES["code"]), "code")
    second = toolbox.Tool(second.name, second.verb, second.noun, second.about, (linked,))
    args = toolbox.arguments(world, first)
    prompt = toolbox.intent(world, first) + toolbox.details(world, first, args)
    prompt += world.pick((". Then ", ", then ", ". After that, ")) + f"{second.verb} the {second.noun} with the {linked.words} that you get."
    fields = record(world) | {linked.name: world.code()}
    returned = dumps({k: fields[k] for k in world.shuffled(fields)})
    history = _messages(prompt, [call(first.name, args)], [returned])
    because = f"The {linked.words} is {fields[linked.name]}. Now I call {second.name}."
    thinking = world.chance(0.25)
    final = tools.answer([call(second.name, {linked.name: fields[linked.name]})], because if thinking else "")
    return Sample([*history, final], tools.specs(world, [first, second, *box[2:]]), thinking, "calls")


MIX = ((one, 55), (one_field, 17), (several, 12), (then, 16))


def make(world):
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
