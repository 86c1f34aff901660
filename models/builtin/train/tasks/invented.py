"""Invented functions, dense with what edits get wrong: names, attributes and constants that resemble each other."""

import keyword

from .. import stdlib

LINES = ("self._{a} = {a}", "self._{a} = {b}", "self.{w} = {a}", "self.{w} = {b}", "self.{w} = {c}", "self.{w} = {s}", "{a} = {b}.{w}({c}, {v}={a})", "{a} = {b} + {c}",
         "{a} = {a} * {c} - {b}", "{a}[{s}] = {b}", "{b} = {a}[{c}:{d}]", "{a} = '%s {w} %d' % ({b}, {a})", "self.{w}({a}, {b})", "{w}.{v}({a}, {s}, {b})", "assert {a} != {c}",
         "yield {a}, {b}", "{a}.append({b})", "{a}, {b} = {b}, {a}", "# {w} {a} {v}", "# {w}, {v}", "{w}({a}.{v} or {b}, {c})", "{a} = {b} if {a} else {s}", "{a} |= {c} << {d}",
         "{w} = {{{s}: {a}, {t}: {b}}}", "return {a}", "raise {w}({s}, {a})", "{a} = {w}({b}={b}, {v}={a})", "del {b}[{c}]")  # fmt: skip
BLOCKS = ("if {a} is not None:", "if not {a}:", "for {a} in {b}:", "while {a} < {c}:", "with {w}({b}) as {a}:", "if {a} == {s} and {b}:", "if {a} in ({s}, {t}):")
INNER = tuple(form for form in LINES if not form.startswith("#"))
DEFAULTS = ("", "", "", "=None", "={c}", "={s}", "=False")


def _related(world, words):
    """A name of one or two of the words, or with something before or behind."""
    first, second = world.pick(words), world.pick(words)
    return world.pick((first, first, f"{first}_{second}", f"{first}{second.capitalize()}", f"{first}s", f"{first}{world.int(0, 9)}", f"_{first}", first[:-1], f"{second}_{first}", world.rare()))


def _several(world, make, n):
    """n different ones, or a few less where `make` has no more."""
    return list(dict.fromkeys(made for made in (make() for _ in range(4 * n)) if made))[:n]


def _names(world, n):
    words = [world.rare() for _ in range(world.int(1, 3))]
    found = _several(world, lambda: _related(world, words), n)
    usable = [name for name in found if name.isidentifier() and not keyword.iskeyword(name) and name != "self"]
    return usable if len(usable) > 1 else _names(world, n + 1)


def _number(world, seed):
    return str(world.pick((seed, seed * 10, seed + 1, seed // 10, world.number(), world.number(), f"0o{world.int(8, 511):o}", f"0x{seed:x}", f"{seed}.{world.int(1, 9)}")))


def _string(world, words):
    first, second = world.pick(words), world.pick(words)
    quote = world.pick(("'", "'", '"'))
    return quote + world.pick((first, f"{first} {second}", f"_{first}", f"{first}s", f"{first}: {world.word()}", f"{first}-{second}", f"__{first}__", f"%s {first}", world.code())) + quote


class _Function:
    """Draws the parts of one function's lines."""

    def __init__(self, world):
        self.world, self.names = world, _names(world, world.int(2, 8))
        seed, words = world.int(2, 99), [world.word() for _ in range(3)]
        self.numbers = _several(world, lambda: _number(world, seed), 12)
        self.strings = _several(world, lambda: _string(world, words), 10)

    def _next(self, values):
        """The first of them, which goes to the end: most constants stand once."""
        values.append(values.pop(0))
        return values[-1]

    def filled(self, form):
        world, draws = self.world, {}
        if "{a}" in form or "{b}" in form:
            draws["a"], draws["b"] = world.sample(self.names, 2)
        draws |= {k: world.pick(self.names) if world.chance(0.15) else world.rare() for k in ("w", "v") if f"{{{k}}}" in form}
        draws |= {k: self._next(self.numbers) for k in ("c", "d") if f"{{{k}}}" in form}
        draws |= {k: self._next(self.strings) for k in ("s", "t") if f"{{{k}}}" in form}
        return form.format(**draws)

    def head(self):
        world = self.world
        plain = [name + self.filled(world.pick(DEFAULTS)) for name in self.names[: world.int(1, len(self.names))]]
        given = [*(["self"] if world.chance(0.7) else []), *sorted(plain, key=lambda p: "=" in p)]
        start = f"def {world.pick((world.ident('snake'), '_' + world.rare(), world.pick(self.names) + '_' + world.rare()))}("
        cut = world.int(2, 4) if len(given) > 4 or world.chance(0.15) else len(given)
        return start + ", ".join(given[:cut]) + "".join(",\n" + " " * len(start) + ", ".join(given[i : i + cut]) for i in range(cut, len(given), cut)) + "):"

    def body(self):
        lines = []
        for _ in range(self.world.int(2, 9)):
            if self.world.chance(0.25):
                lines.append(self.filled(self.world.pick(BLOCKS)))
                lines += ["    " + self.filled(self.world.pick(INNER)) for _ in range(self.world.int(1, 3))]
            else:
                lines.append(self.filled(self.world.pick(LINES)))
        return [*lines, self.filled("return {a}")] if lines[-1].lstrip().startswith("#") else lines


def function(world):
    """The source of a function that parses; its names are new in every sample."""
    made = _Function(world)
    doc = [f'"""{world.pick(stdlib.sentences(world.split))}"""'] if world.chance(0.25) else []
    source = "\n".join([made.head(), *("    " + line for line in doc + made.body())])
    return source if stdlib.parses(source) else function(world)
