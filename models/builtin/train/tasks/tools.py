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


def one(world):
    tools = toolbox.boxful(world)
    t = world.pick(tools)
    args = toolbox.arguments(world, t)
    reasoning = toolbox.why(t, args) if world.chance(0.3) else ""
    return _sample(toolbox.request(world, t, args), specs(world, tools), [call(t.name, args)], reasoning)


def parallel(world):
    """Two or three calls in one answer, of one tool or of several, in the order of the request."""
    tools = toolbox.boxful(world, world.pick((1, 2, 3, 4)))
    n = world.pick((2, 2, 2, 3))
    same = world.chance(0.5)
    first = world.pick(tools)
    chosen = [first] * n if same else [world.pick(tools) for _ in range(n)]
    if same and not first.params:
        return parallel(world)
    jobs = [(t, toolbox.arguments(world, t)) for t in chosen]
    links = world.pick(((". Then ", ". Then "), (", and ", ", and "), ("; also ", "; and "), (". Also ", ". And "), ("\n- ", "\n- ")))
    said = [toolbox.intent(world, t) + toolbox.details(world, t, args) for t, args in jobs]
    prompt = said[0] + "".join(links[min(i, 1)] + s[0].lower() + s[1:] for i, s in enumerate(said[1:]))
    reasoning = " ".join(toolbox.why(t, args) for t, args in jobs) if world.chance(0.25) else ""
    return _sample(prompt + world.pick((".", "")), specs(world, tools), [call(t.name, args) for t, args in jobs], reasoning)


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


def no_such_tool(world):
    """An action for which no tool is given."""
    tools = toolbox.boxful(world, world.pick((2, 3, 4, 5)))
    missing = tools.pop()
    while any(missing.noun == t.noun or missing.verb == t.verb for t in tools) or missing.verb not in missing.about.lower() + missing.name.lower():
        tools = toolbox.boxful(world, world.pick((2, 3, 4)))
        missing = tools.pop()
    prompt = toolbox.request(world, missing, toolbox.arguments(world, missing))
    if any(word in prompt for word in ("Call ", "Use ", "call `", "Run ")):
        return no_such_tool(world)
    reasoning = f"The user wants to {missing.verb} {missing.noun}. No tool does that." if world.chance(0.2) else ""
    return ask(prompt, NO_TOOL, reasoning, tools=specs(world, tools))


def missing_argument(world):
    """A required value was not said: ask for it."""
    tools = toolbox.boxful(world)
    t = world.pick(tools)
    required = [p for p in t.params if p.required]
    if not required:
        return missing_argument(world)
    gone = world.pick(required)
    args = {k: v for k, v in toolbox.arguments(world, t).items() if k != gone.name}
    reasoning = f"The tool is {t.name}. The {gone.words} is missing." if world.chance(0.2) else ""
    return ask(toolbox.request(world, t, args), f"What {gone.words} should I use?", reasoning, tools=specs(world, tools))


def unknown_with_tools(world):
    sample = unknown.make(world)
    sample.tools = specs(world, toolbox.boxful(world))
    return sample


MIX = ((one, 46), (parallel, 14), (common, 14), (common_parallel, 6), (not_needed, 8), (no_such_tool, 6), (missing_argument, 6), (unknown_with_tools, 3))


def make(world):
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
