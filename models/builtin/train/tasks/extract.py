"""JSON that follows a given schema, filled from a text."""

from .. import lexicon as lx
from ..sample import ask
from ..world import dumps, spoken
from .toolbox import spaced

# field -> (json type, how a sentence says it). {v} is the value, {n} the subject of the record.
PERSON = {
    "name": ("string", ()),
    "age": ("integer", ("{n} is {v} years old", "{n} turned {v}", "{n}, aged {v}, was there", "{n}'s age is {v}")),
    "city": ("string", ("{n} lives in {v}", "{n} comes from {v}", "{n} moved to {v}", "home is {v}")),
    "job": ("string", ("{n} works as a {v}", "{n} is a {v} by trade", "{n}'s job is {v}")),
    "email": ("string", ("{n} can be reached at {v}", "write to {v}", "the e-mail address is {v}")),
    "company": ("string", ("{n} works for {v}", "the employer is {v}", "{n} joined {v}")),
    "phone": ("string", ("call {v}", "the phone number is {v}", "phone: {v}")),
    "married": ("boolean", ("{n} is {not}married",)),
    "hobbies": ("array", ("{n} likes {v}", "the hobbies are {v}", "{n} enjoys {v}")),
}
ORDER = {
    "order_id": ("string", ("the order number is {v}", "order {v} was placed", "this is about order {v}")),
    "item": ("string", ("they bought a {v}", "the item is a {v}", "one {v} was sold")),
    "quantity": ("integer", ("{v} pieces were ordered", "the quantity is {v}", "they took {v} of them")),
    "price": ("number", ("it costs {v} euros", "the price is {v}", "they paid {v} dollars")),
    "date": ("string", ("it was sent on {v}", "the date is {v}", "delivery is on {v}")),
    "paid": ("boolean", ("it is {not}paid",)),
    "colour": ("string", ("the colour is {v}", "it is {v}", "it comes in {v}")),
    "customer": ("string", ("the customer is {v}", "{v} ordered it", "it goes to {v}")),
}
EVENT = {
    "title": ("string", ('the event is called "{v}"', 'it is named "{v}"', 'the title is "{v}"')),
    "date": ("string", ("it takes place on {v}", "it is on {v}", "the date is {v}")),
    "time": ("string", ("it starts at {v}", "doors open at {v}", "the time is {v}")),
    "place": ("string", ("it is held in {v}", "we meet in {v}", "the place is {v}")),
    "speaker": ("string", ("{v} will speak", "the speaker is {v}", "there is a talk by {v}")),
    "seats": ("integer", ("there are {v} seats", "{v} people can come", "seats: {v}")),
    "free": ("boolean", ("entry is {not}free",)),
    "topics": ("array", ("the topics are {v}", "it covers {v}")),
}
FILLER = ("It was a quiet day.", "Nobody expected that.", "The rest is in the attachment.", "Please keep this note.", "More will follow soon.",
          "The coffee was cold again.", "Thanks for reading.", "This was written in a hurry.")  # fmt: skip
ASKS = ("Extract the data as JSON.", "Return JSON that follows the schema.", "Extract the fields into JSON.", "Fill this schema from the text.",
        "Give me the information as JSON.", "Answer with JSON only.", "Parse the text into JSON.", "Turn the text into JSON.", "Extract JSON:")  # fmt: skip


def _value(world, field, kind):
    makers = {
        "name": world.person, "age": lambda: world.int(1, 99), "city": world.city, "job": lambda: world.pick(lx.JOBS), "email": world.email,
        "company": world.company, "phone": lambda: f"+{world.int(10, 99)} {world.int(100, 999)} {world.int(1000, 999999)}", "order_id": world.code,
        "hobbies": lambda: world.list_of(world.word, 1, 4), "item": world.thing, "quantity": lambda: world.int(1, 99), "price": world.decimal,
        "date": world.date, "colour": lambda: world.pick(lx.COLOURS), "customer": world.person, "title": world.title, "time": world.time,
        "place": world.city, "speaker": world.person, "seats": lambda: world.int(5, 500), "topics": lambda: world.list_of(world.word, 1, 4),
    }  # fmt: skip
    return world.chance(0.5) if kind == "boolean" else makers[field]()


def _text_of(value):
    return spoken(value) if isinstance(value, list) else str(value)


def _sentence(world, forms, value, subject):
    negation = "" if value else "not "
    text = world.pick(forms).format_map({"v": _text_of(value), "n": subject, "not": negation})
    return text[0].upper() + text[1:]


def known(world):
    """(types, values, text): a person, an order or an event in free sentences."""
    fields = world.pick((PERSON, ORDER, EVENT))
    names = [f for f in fields if f != "name"]
    chosen = world.sample(names, world.int(1, min(5, len(names))))
    types = {f: fields[f][0] for f in chosen}
    values = {f: _value(world, f, types[f]) for f in chosen}
    subject = "it"
    if fields is PERSON:
        types, subject = {"name": "string"} | types, world.person()
        values = {"name": subject} | values
        if world.chance(0.1):
            return types, values, f"{subject} ({', '.join(f'{f}: {_shown(values[f])}' for f in chosen)})"
    said = [_sentence(world, fields[f][1], values[f], subject) for f in world.shuffled(chosen)]
    if fields is PERSON and subject not in " ".join(said):
        said.insert(0, world.pick(("This is {}", "I met {}", "Here is {}", "{} wrote to us")).format(subject))
    return types, values, _joined(world, said)


def _shown(value):
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else _text_of(value)


def _joined(world, said):
    lines = [s + "." for s in said]
    for _ in range(world.pick((0, 0, 1, 2))):
        lines.insert(world.int(0, len(lines)), world.pick(FILLER))
    return " ".join(lines)


NEW = {"string": ("rare", "person", "city", "code", "date", "phrase"), "integer": ("number",), "number": ("decimal",)}


def _new_field(world):
    name = world.styled([world.rare() for _ in range(world.pick((1, 1, 2)))], world.pick(("snake", "snake", "camel")))
    kind = world.pick(("string", "string", "string", "integer", "integer", "number", "boolean", "array"))
    if kind == "boolean":
        return name, kind, world.chance(0.5)
    value = world.list_of(world.rare, 1, 4) if kind == "array" else getattr(world, world.pick(NEW[kind]))()
    return name, kind, value


def invented(world):
    """Fields that nobody has seen, said by name."""
    rows = [_new_field(world) for _ in range(world.int(1, 6))]
    types = {name: kind for name, kind, _ in rows}
    values = {name: value for name, _, value in rows}
    forms = ("The {f} is {v}", "{f}: {v}", "{f} = {v}", "We noted {v} as the {f}", "Its {f} is {v}", "The {f} was set to {v}", "with {v} for the {f}")
    said = [world.pick(forms).format(f=spaced(f), v=_shown(values[f])) for f in world.shuffled(types)]
    if world.chance(0.2):
        return types, values, "\n".join(f"{spaced(f)}: {_shown(values[f])}" for f in world.shuffled(types))
    return types, values, _joined(world, [s[0].upper() + s[1:] for s in said])


def _property(kind):
    return {"type": "array", "items": {"type": "string"}} if kind == "array" else {"type": kind}


def schema_text(world, types):
    """The schema as JSON Schema, as a list of fields, or as an example."""
    style = world.int(0, 5)
    if style < 3:
        schema = {"type": "object", "properties": {f: _property(k) for f, k in types.items()}}
        if world.chance(0.7):
            schema["required"] = list(types)
        if world.chance(0.3):
            schema["additionalProperties"] = False
        return world.pick(("Schema: ", "Schema:\n", "JSON schema: ", "Use this schema: ")) + dumps(schema)
    if style == 3:
        return world.pick(("Fields: ", "Use the fields ", "Keys: ")) + ", ".join(f"{f} ({k})" for f, k in types.items())
    if style == 4:
        return world.pick(("Format: ", "Use this form: ")) + "{" + ", ".join(f'"{f}": {_blank(k)}' for f, k in types.items()) + "}"
    return world.pick(("Fields:\n", "Keys:\n")) + "\n".join(f"- {f}: {k}" for f, k in types.items())


def _blank(kind):
    return {"string": '"..."', "integer": "0", "number": "0.0", "boolean": "true", "array": '["..."]'}[kind]


def make(world):
    types, values, text = (known if world.chance(0.5) else invented)(world)
    if world.chance(0.15):  # a field the text does not tell
        extra, kind, _ = _new_field(world)
        if extra not in types:
            types[extra], values[extra] = kind, None
    order = world.shuffled(types)
    types = {f: types[f] for f in order}
    answer = dumps({f: values[f] for f in order})
    wanted, schema, ask_for = world.pick(("Text: {}", "Text:\n{}", "{}", '"{}"')).format(text), schema_text(world, types), world.pick(ASKS)
    parts = world.pick(((ask_for, schema, wanted), (ask_for, wanted, schema), (wanted, ask_for, schema), (schema, wanted, ask_for)))
    reasoning = f"The fields are {spoken(order)}. I take each from the text." if world.chance(0.12) else ""
    system = world.chance(0.15)
    sample = ask(world.pick(("\n\n", "\n")).join(parts), answer, reasoning, check="json")
    if system:
        sample.messages = [{"role": "system", "content": f"{ask_for} {schema}"}, {"role": "user", "content": text}, sample.messages[-1]]
    return sample
