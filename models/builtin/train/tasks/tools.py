"""Tool calls: one, several at once, none, and the question for what is missing."""

from ..sample import Sample, ask, call
from . import arithmetic, chat, common_tools, toolbox, unknown

NO_TOOL = "None of my tools can do that."


def answer(calls, reasoning=""):
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    return message | ({"reasoning_content": reasoning} if reasoning else {})


def _sample(prompt, tools, calls, reasoning=""):
    return Sample([{"role": "user", "content": prompt}, answer(calls, reasoning)], tools, bool(reasoning), "calls")


def specs(world, tools):
    return [toolbox.spec(world, t) for t in world.shuffled(tools)]


def boxed(world, size=None):
    """(tools, their JSON in another order)"""
    tools = toolbox.boxful(world, size)
    return tools, specs(world, tools)


def one(world, box=None):
    tools, listed = box or boxed(world)
    t = world.pick(tools)
    args = toolbox.arguments(world, t)
    reasoning = toolbox.why(t, args) if world.chance(0.3) else ""
    return _sample(toolbox.request(world, t, args), listed, [call(t.name, args)], reasoning)


def parallel(world, box=None):
    """Two or three calls in one answer, of one tool or of several, in the order of the request."""
    tools, listed = box or boxed(world, world.pick((1, 2, 3, 4)))
    n = world.pick((2, 2, 2, 3))
    same = world.chance(0.5)
    first = world.pick(tools)
    chosen = [first] * n if same and first.params else [world.pick(tools) for _ in range(n)]
    jobs = [(t, toolbox.arguments(world, t)) for t in chosen]
    links = world.pick(((". Then ", ". Then "), (", and ", ", and "), ("; also ", "; and "), (". Also ", ". And "), ("\n- ", "\n- ")))
    said = [toolbox.intent(world, t) + toolbox.details(world, t, args) for t, args in jobs]
    prompt = said[0] + "".join(links[min(i, 1)] + s[0].lower() + s[1:] for i, s in enumerate(said[1:]))
    reasoning = " ".join(toolbox.why(t, args) for t, args in jobs) if world.chance(0.25) else ""
    return _sample(prompt + world.pick((".", "")), listed, [call(t.name, args) for t, args in jobs], reasoning)


def common(world):
    return _sample(*common_tools.one(world))


def common_parallel(world):
    return _sample(*common_tools.parallel(world))


def not_needed(world):
    """Tools are there, the question is not for them."""
    sample = world.pick((arithmetic.plain, arithmetic.reasoned, chat.identity, chat.fact, chat.echo, chat.identity))(world)
    own = toolbox.boxful(world) if world.chance(0.6) else common_tools.harmless(world)
    sample.tools = specs(world, own) if isinstance(own[0], toolbox.Tool) else own
    return sample


def _missing_tool(world, tools):
    """A tool that does something that none of `tools` does, and says so in its name or description."""
    while True:
        missing = toolbox.tool(world)
        said = missing.about.lower() + missing.name.lower()
        if missing.verb in said and not any(missing.noun == t.noun or missing.verb == t.verb for t in tools):
            return missing


def no_such_tool(world, box=None):
    """An action for which no tool is given."""
    tools, listed = box or boxed(world, world.pick((1, 2, 3, 4)))
    missing = _missing_tool(world, tools)
    prompt = toolbox.request(world, missing, toolbox.arguments(world, missing))
    if any(word in prompt for word in ("Call ", "Use ", "call `", "Run ")):
        return no_such_tool(world, (tools, listed))
    reasoning = f"The user wants to {missing.verb} {missing.noun}. No tool does that." if world.chance(0.2) else ""
    return ask(prompt, NO_TOOL, reasoning, tools=listed)


def missing_argument(world, box=None):
    """A required value was not said: ask for it."""
    tools, listed = box or boxed(world)
    able = [t for t in tools if any(p.required for p in t.params)]
    if not able:
        return missing_argument(world)
    t = world.pick(able)
    gone = world.pick([p for p in t.params if p.required])
    args = {k: v for k, v in toolbox.arguments(world, t).items() if k != gone.name}
    reasoning = f"The tool is {t.name}. The {gone.words} is missing." if world.chance(0.2) else ""
    return ask(toolbox.request(world, t, args), f"What {gone.words} should I use?", reasoning, tools=listed)


IN_FAMILY = ((one, 62), (parallel, 16), (missing_argument, 15), (no_such_tool, 7))


def family(world):
    """Several requests to the same tools: packed as branches of one prompt, they cost little more than one."""
    box = boxed(world)
    makers, weights = zip(*IN_FAMILY, strict=True)
    made = [make(world, box) for make in world.rng.choices(makers, weights, k=world.pick((2, 3, 3, 4, 5)))]
    return [one(world, box), *(sample for sample in made if sample.tools is box[1])]


def unknown_with_tools(world):
    sample = unknown.make(world)
    sample.tools = specs(world, toolbox.boxful(world))
    return sample


MIX = ((family, 60), (common, 18), (common_parallel, 8), (not_needed, 10), (unknown_with_tools, 4))


def make(world):
    """A sample, or several that share their tools."""
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
