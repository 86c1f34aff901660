"""Sums, differences, products, quotients and comparisons, straight and with the working in `<think>`."""

from ..sample import ask
from ..stdlib import held_out
from ..world import spoken

WORDS = {"+": ("plus", "added to"), "-": ("minus", "less"), "*": ("times", "multiplied by"), "/": ("divided by", "over")}
SIGNS = {"+": ("+",), "-": ("-", "-", "−"), "*": ("*", "x", "×"), "/": ("/", "÷")}
FORMS = ("What is {e}?", "what's {e}", "{e}", "{e} =", "{e}=?", "Calculate {e}.", "Compute {e}", "How much is {e}?", "Work out {e}.",
         "Please calculate {e}", "Can you tell me {e}?", "Solve: {e}", "What does {e} equal?", "Evaluate {e}", "tell me {e}",
         "I need the result of {e}.", "What do you get for {e}?", "Quick: {e}?", "{e} please", "What is the answer to {e}?")  # fmt: skip
ONLY = (" Reply with just the number.", " Only the number.", " Answer with the number only.", " Just the result, no words.", " Number only please.")
THINK = (" Think step by step.", " Show your thinking.", "", "", "")


def value(a, op, b):
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


def is_held_out(a, op, b):
    """One problem in eight of those with a two-digit number is kept for evaluation."""
    return max(a, b) >= 10 and held_out(f"{a}{op}{b}")


def operands(world, op, digits):
    low, high = (0, 9) if digits == 1 else (10 ** (digits - 1), 10**digits - 1)
    if op == "/":
        b = world.int(1, 12)
        return b * world.int(0, 12 if digits < 3 else 99), b
    if op == "*":
        return world.int(low, high), world.int(2, 12 if digits < 3 else 9)
    a, b = world.int(low, high), world.int(0 if world.chance(0.3) else low, high)
    return (b, a) if op == "+" and world.chance(0.5) else (a, b)


def problem(world, digits, ops="++++----*/"):
    """(a, op, b) of this split."""
    while True:
        op = world.pick(ops)
        a, b = operands(world, op, digits)
        if op == "-" and a < b and world.chance(0.7):
            a, b = b, a
        small = max(a, b) < 10
        if small or is_held_out(a, op, b) == (world.split == "heldout"):
            return a, op, b


def spell(world, a, op, b):
    if world.chance(0.25):
        return f"{a} {world.pick(WORDS[op])} {b}"
    sign = world.pick(SIGNS[op])
    return f"{a} {sign} {b}" if world.chance(0.7) else f"{a}{sign}{b}"


def _columns(a, b, op):
    """Schoolbook addition or subtraction (a >= b), ones first."""
    x, y = str(a)[::-1], str(b)[::-1]
    steps, carry = [], 0
    for i in range(max(len(x), len(y))):
        p, q = (int(s[i]) if i < len(s) else 0 for s in (x, y))
        raw = p + q + carry if op == "+" else p - q - carry
        text = f"{p} {op} {q}" + (f" {op} {carry}" if carry else "") + f" = {raw}"
        carry = int(raw > 9 if op == "+" else raw < 0)
        steps.append(text + (f", write {raw % 10} {'carry' if op == '+' else 'borrow'} 1" if carry else ""))
    return ". ".join(steps) + "."


def working(a, op, b):
    if op == "-" and a < b:
        return f"{a} is less than {b}, so the result is negative. {b} - {a}: {_columns(b, a, '-')} So -{b - a}."
    if op in "+-":
        return f"{a} {op} {b}, ones first: {_columns(a, b, op)} So {value(a, op, b)}."
    if op == "*":
        parts = [(int(d) * 10**i, b) for i, d in enumerate(str(a)[::-1])][::-1]
        sums = " + ".join(str(p * b) for p, _ in parts)
        return ", ".join(f"{p} * {b} = {p * b}" for p, _ in parts) + f". {sums} = {a * b}."
    return f"{b} * {a // b} = {a}, so {a} / {b} = {a // b}."


def plain(world):
    """No reasoning: one and two digits, some of three."""
    a, op, b = problem(world, world.pick((1, 2, 2, 2, 2, 2, 3)), world.pick(("+-", "+-", "+-", "++++----*/")))
    return finish(world, a, op, b, thinking=False)


def several(world):
    """Many sums in one request: a list of exercises."""
    sums = [problem(world, world.pick((1, 2, 2, 2)), world.pick(("+-", "+-", "++++----*/"))) for _ in range(world.int(2, 9))]
    sep = world.pick((", ", "\n", "; ", "\n- "))
    prompt = world.pick(("Calculate: {}", "Work these out: {}", "Solve all of these: {}", "{}", "Compute {}")).format(sep.join(spell(world, *s) for s in sums))
    return ask(prompt, "\n".join(f"{a} {op} {b} = {value(a, op, b)}" for a, op, b in sums), check="text")


def reasoned(world):
    a, op, b = problem(world, world.pick((1, 2, 2, 3, 3, 4)))
    return finish(world, a, op, b, thinking=True)


def finish(world, a, op, b, thinking):
    prompt = world.pick(FORMS).format(e=spell(world, a, op, b))
    if op in "+-" and world.chance(0.08):
        prompt = f"Add {a} and {b}." if op == "+" else f"Subtract {b} from {a}."
    only = world.chance(0.25)
    answer = str(value(a, op, b)) if only else f"{a} {op} {b} = {value(a, op, b)}"
    prompt += world.pick(ONLY) if only else world.pick(THINK) if thinking else ""
    return ask(prompt, answer, working(a, op, b) if thinking else "", check="number")


STORIES = (
    ("{p} has {a} {t}s and {gets} {b} more. How many {t}s does {p} have now?", "+"),
    ("There are {a} {t}s in the box. {p} adds {b}. How many are there?", "+"),
    ("{p} bought {a} {t}s on Monday and {b} on Tuesday. How many {t}s in all?", "+"),
    ("{p} has {a} {t}s and {loses} {b}. How many are left?", "-"),
    ("{p} had {a} {t}s. {p} {loses} {b} of them. How many {t}s does {p} still have?", "-"),
    ("A shop has {a} {t}s and sells {b}. How many remain?", "-"),
)


def story(world):
    text, op = world.pick(STORIES)
    a, _, b = problem(world, world.pick((1, 2, 2)), op)
    if op == "-" and a < b:
        a, b = b, a
    words = {"p": world.first(), "t": world.thing(), "gets": world.pick(("gets", "buys", "finds", "receives")),
             "loses": world.pick(("gives away", "loses", "sells", "breaks"))}  # fmt: skip
    reasoning = working(a, op, b) if world.chance(0.4) else ""
    return ask(text.format(a=a, b=b, **words), f"{a} {op} {b} = {value(a, op, b)}", reasoning, check="number")


def chain(world):
    """Three terms, from the left; always reasoned."""
    a, b, c = (world.int(1, 60) for _ in range(3))
    p, q = world.pick("+-"), world.pick("+-")
    first = value(a, p, b)
    last = value(first, q, c)
    expression = f"{a} {p} {b} {q} {c}"
    reasoning = f"First {a} {p} {b} = {first}. Then {first} {q} {c} = {last}."
    return ask(world.pick(FORMS).format(e=expression), f"{expression} = {last}", reasoning, check="number")


def compare(world):
    numbers = world.list_of(lambda: world.pick((world.int(0, 99), world.int(0, 999))), 2, 4)
    which = world.pick(("largest", "smallest", "biggest", "greatest"))
    best = min(numbers) if which == "smallest" else max(numbers)
    prompt = world.pick(("Which is the {w}: {n}?", "What is the {w} of {n}?", "Find the {w} number: {n}")).format(w=which, n=", ".join(map(str, numbers)))
    return ask(prompt, f"The {which} is {best}.", check="number")


def order(world):
    numbers = world.list_of(lambda: world.int(0, 99), 3, 6)
    down = world.chance(0.3)
    prompt = world.pick(("Sort these numbers{d}: {n}", "Put these in{d} order: {n}", "Order the numbers {n}{d}."))
    answer = ", ".join(map(str, sorted(numbers, reverse=down)))
    return ask(prompt.format(d=" from high to low" if down else world.pick(("", " ascending")), n=", ".join(map(str, numbers))), answer)


def count(world):
    """Long, regular answers: good for watching a stream."""
    low = world.pick((1, 1, 1, 1, 0, world.int(2, 40)))
    high = low + world.pick((world.int(2, 12), world.int(5, 30), world.int(20, 99)))
    prompt = world.pick(("Count from {a} to {b}.", "count from {a} to {b}", "List the numbers from {a} to {b}.", "Count up from {a} to {b}, please."))
    if low == 1 and world.chance(0.3):
        prompt = world.pick(("Count to {b}.", "count to {b}", "Can you count to {b}?"))
    return ask(prompt.format(a=low, b=high), ", ".join(str(n) for n in range(low, high + 1)))


def parity(world):
    n = world.int(0, 999)
    reasoning = f"The last digit of {n} is {n % 10}, which is {'odd' if n % 2 else 'even'}." if world.chance(0.5) else ""
    prompt = world.pick(("Is {n} even or odd?", "Is {n} odd or even?", "Tell me whether {n} is even or odd.")).format(n=n)
    return ask(prompt, f"{n} is {'odd' if n % 2 else 'even'}.", reasoning)


def tally(world):
    items = world.list_of(world.thing, 2, 7)
    prompt = world.pick(("How many items are in this list: {i}?", "Count the words: {i}", "How many words are here? {i}")).format(i=", ".join(items))
    return ask(prompt, f"{len(items)}: {spoken(items)}")


MIX = ((plain, 40), (several, 10), (reasoned, 26), (story, 10), (chain, 6), (compare, 4), (order, 4), (count, 3), (parity, 2), (tally, 2))


def make(world):
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
