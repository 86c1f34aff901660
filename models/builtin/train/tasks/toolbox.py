"""Tools that never existed: names, parameters, and the ways in which a user mentions their values."""

from dataclasses import dataclass

from ..world import a, spoken

# kind -> parameter names that tell the kind without further words
FAMILIES = {
    "city": ("city", "location", "place", "town", "destination"),
    "person": ("name", "person", "user", "customer", "recipient", "owner", "author"),
    "date": ("date", "day", "start_date", "due_date", "when"),
    "time": ("time", "at", "start_time", "hour"),
    "email": ("email", "to", "address", "recipient_email", "email_address"),
    "path": ("path", "file", "filename", "file_path", "source"),
    "code": ("id", "code", "order_id", "user_id", "reference", "ticket", "key"),
    "integer": ("count", "limit", "quantity", "number", "amount", "size", "minutes", "max_results"),
    "text": ("text", "message", "query", "title", "subject", "note", "content", "description"),
}
NATURAL = {
    "city": ("in {v}", "for {v}", "at {v}"), "person": ("for {v}", "by {v}"), "date": ("on {v}", "for {v}"), "time": ("at {v}",),
    "email": ("to {v}",), "path": ("in {v}", "from {v}"), "code": ("with id {v}", "number {v}", "{v}"), "integer": ("{v} of them", "{v} times"),
}  # fmt: skip
EXPLICIT = ("{p} {v}", "{p} {v}", "{p}: {v}", "{p} = {v}", "{p}={v}", "{v} as the {p}", "{v} as {p}", "the {p} {v}", "{p} set to {v}", "a {p} of {v}",
            "the {p} is {v}", "{p} should be {v}", "the {p} should be {v}")  # fmt: skip
KINDS = ("word", "word", "person", "city", "date", "time", "email", "path", "code", "code", "text", "text", "integer", "integer", "integer", "number",
         "boolean", "enum", "enum", "list")  # fmt: skip
TYPES = {"integer": "integer", "number": "number", "boolean": "boolean", "list": "array"}
ON = {True: ("true", "on", "yes", "enabled"), False: ("false", "off", "no", "disabled")}


@dataclass(frozen=True)
class Param:
    name: str
    kind: str
    options: tuple = ()
    required: bool = True
    about: str = ""

    @property
    def words(self):
        return spaced(self.name)

    def schema(self):
        out = {"type": TYPES.get(self.kind, "string")}
        if self.kind == "list":
            out["items"] = {"type": "string"}
        if self.options:
            out["enum"] = list(self.options)
        if self.about:
            out["description"] = self.about
        return out


@dataclass(frozen=True)
class Tool:
    name: str
    verb: str
    noun: str
    about: str
    params: tuple


def spaced(name):
    """max_depth, max-depth and maxDepth as a user says them: max depth."""
    return "".join(" " + c.lower() if c.isupper() else c for c in name).replace("_", " ").replace("-", " ").replace(".", " ").strip()


def spec(world, tool):
    """The JSON of one tool, in the variants that clients send."""
    properties = {p.name: p.schema() for p in tool.params}
    parameters = {"type": "object", "properties": properties}
    required = [p.name for p in tool.params if p.required]
    if required or world.chance(0.5):
        parameters["required"] = required
    if world.chance(0.15):
        parameters["additionalProperties"] = False
    function = {"name": tool.name, "description": tool.about, "parameters": parameters}
    if not tool.about:
        del function["description"]
    if world.chance(0.1):
        function["strict"] = True
    return {"type": "function", "function": function}


def _param_name(world, kind, taken):
    """A name that tells the kind, or any; in training also one that shares a word with a parameter before it."""
    if taken and world.split == "train" and world.chance(0.15):
        parts = [world.pick(list(taken)), world.rare()]
        return "_".join(world.shuffled(parts))
    family = FAMILIES.get(kind)
    if family and world.chance(0.45):
        return world.pick(family)
    return world.styled([world.rare() for _ in range(world.pick((1, 1, 2)))], world.pick(("snake", "snake", "snake", "camel")))


def param(world, taken):
    kind = world.pick(KINDS)
    name = _param_name(world, kind, taken)
    if name in taken:
        return param(world, taken)
    options = tuple(world.list_of(world.rare, 2, 4)) if kind == "enum" else ()
    about = world.pick(("", f"The {spaced(name)}", f"The {spaced(name)} to use.", world.phrase(3, 7).capitalize() + "."))
    return Param(name, kind, options, world.chance(0.7), about)


def params(world):
    found = {}
    count = world.pick((0, 1, 1, 2, 2, 2, 3, 3, 4, 5))
    if world.split == "train" and world.chance(0.08):
        count = world.int(5, 8)
    for _ in range(count):
        p = param(world, found)
        found[p.name] = p
    return tuple(found.values())


def tool(world, verb=None, noun=None):
    verb, noun = verb or world.verb(), noun or " ".join(world.rare() for _ in range(world.pick((1, 1, 1, 2))))
    name = world.styled([verb, *noun.split()], world.pick(("snake", "snake", "snake", "snake", "camel", "kebab", "pascal", "dotted")))
    about = world.pick((f"{verb.capitalize()} {a(noun)}", f"{verb.capitalize()} the {noun}.", f"{verb.capitalize()}s {a(noun)}.",
                        f"Use this to {verb} {a(noun)}. {world.phrase(3, 8).capitalize()}.", ""))  # fmt: skip
    if about and world.chance(0.2 if world.split == "train" else 0.08):
        name = world.pick((f"fn_{world.int(1, 99)}", world.ident("snake"), f"tool{world.int(1, 30)}"))  # only the description tells
    return Tool(name, verb, noun, about, params(world))


def _near_noun(world, near):
    """The noun of another tool; in training sometimes one with a word more or less."""
    if world.split == "train" and world.chance(0.3):
        return near.noun.split()[0] if " " in near.noun else f"{near.noun} {world.rare()}"
    return near.noun


def boxful(world, size=None):
    """Tools with different names; some share a verb or a noun, so that both must be read."""
    size = size or world.pick((1, 2, 2, 3, 3, 4, 4, 5, 6))
    found = {}
    while len(found) < size:
        near = world.pick(list(found.values())) if found and world.chance(0.35) else None
        verb = near.verb if near and world.chance(0.5) else None
        new = tool(world, verb, _near_noun(world, near) if near and not verb else None)
        if all((new.verb, new.noun) != (t.verb, t.noun) for t in found.values()):
            found[new.name] = new
    return list(found.values())


def value(world, p):
    if p.kind == "enum":
        return world.pick(p.options)
    makers = {
        "word": world.rare, "person": world.person, "city": world.city, "date": world.date, "time": world.time, "email": world.email,
        "path": world.path, "code": world.code, "text": lambda: world.phrase(2, 6), "integer": world.number, "number": world.decimal,
        "boolean": lambda: world.chance(0.5), "list": lambda: world.list_of(world.rare, 2, 3),
    }  # fmt: skip
    if world.split == "train" and p.kind in ("word", "code", "text") and world.chance(0.15):
        return world.odd()
    return makers[p.kind]()


def _shown(world, p, v):
    """The value as a user writes it."""
    if p.kind == "boolean":
        return world.pick(ON[v])
    if p.kind == "list":
        return spoken(v)
    if p.kind == "text" or (isinstance(v, str) and " " in v and world.chance(0.5)):
        return world.pick(('"{}"', '"{}"', "'{}'")).format(v)
    if isinstance(v, str) and world.chance(0.12):
        return f'"{v}"'
    return str(v)


def mention(world, t, p, v):
    """One value in words. Without its parameter's name only where no other parameter is of its kind."""
    alone = sum(q.kind == p.kind for q in t.params) == 1
    if alone and p.kind in NATURAL and p.name in FAMILIES[p.kind] and world.chance(0.6):
        return world.pick(NATURAL[p.kind]).format(v=_shown(world, p, v))
    said = p.name if world.chance(0.2) else p.words
    return world.pick(EXPLICIT).format(p=f"`{said}`" if world.chance(0.04) else said, v=_shown(world, p, v))


def arguments(world, t):
    """Values for the required parameters and some of the optional ones, in the order of the signature."""
    return {p.name: value(world, p) for p in t.params if p.required or world.chance(0.4)}


def _begun(said, args):
    """With a capital at the start of a sentence, but not where a value stands there: its case is part of it."""
    starts = [str(v[0] if isinstance(v, list) else v) for v in args.values()]
    return said if any(said.startswith(start) for start in starts) else said[0].upper() + said[1:]


def details(world, t, args):
    """' with depth 5, owner "Anna" and mode fast'; natural forms first."""
    said = [mention(world, t, p, args[p.name]) for p in t.params if p.name in args]
    if not said:
        return ""
    if world.chance(0.3):
        said = world.shuffled(said)
    if world.chance(0.15):
        return ". " + ". ".join(_begun(s, args) for s in said)
    joined = spoken(said) if world.chance(0.6) else ", ".join(said)
    bare = said[0].split()[0] in ("in", "for", "at", "by", "on", "to", "from", "with")
    return (" " if bare else world.pick((" with ", " with ", ", ", " using ", ": "))) + joined


def intent(world, t):
    if world.chance(0.12):
        return world.pick(("Call {n}", "Use {n}", "call `{n}`", "Run {n}", "Use the {n} tool")).format(n=t.name)
    article = world.pick(("the", "the", "a", "my", "our", "this", ""))
    said = f"{t.verb} {a(t.noun) if article == 'a' else f'{article} {t.noun}'.strip()}"
    form = world.pick(("{s}", "{S}", "{S}", "Please {s}", "Can you {s}", "I want to {s}", "I need you to {s}", "Could you {s}", "please {s}", "Go and {s}", "Help me {s}",
                       "I'd like to {s}", "We need to {s}", "Let's {s}"))  # fmt: skip
    return form.format(s=said, S=said[0].upper() + said[1:])


def request(world, t, args):
    text = intent(world, t) + details(world, t, args)
    return text + world.pick((".", "", "", "!", " please.", ", thanks.", "?" if text.startswith(("Can", "Could")) else "."))


def why(t, args):
    """The reasoning before a call: the tool, then each argument."""
    listed = ", ".join(f"{k} = {v}" for k, v in args.items()) or "no arguments"
    return f"The user wants to {t.verb} {t.noun}. The tool is {t.name} with {listed}."
