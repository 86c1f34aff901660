"""Edits of real functions: most of the answer repeats the prompt."""

import ast
import functools
import io
import keyword
import re
import tokenize
from collections import Counter

from .. import stdlib
from ..sample import ask
from . import invented

FENCES = ("```python\n{c}\n```", "```python\n{c}\n```", "```python\n{c}\n```", "```\n{c}\n```", "{c}")
FORMS = ("{i}\n\n{c}", "{i}\n{c}", "{c}\n\n{i}", "{i} Here is the code:\n\n{c}", "Here is a function:\n{c}\n{i}", "{i}\n\n{c}\n\nReturn the whole function.",
         "Edit this code. {i}\n\n{c}", "{i} Change nothing else.\n\n{c}", "{c}\n{i}")  # fmt: skip
CODE_FIRST = tuple(form for form in FORMS if form.index("{c}") < form.index("{i}"))


def _names(source):
    """[(name, start offset)] of all NAME tokens."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(t.string, starts[t.start[0] - 1] + t.start[1]) for t in tokens if t.type == tokenize.NAME]


def _tree_counts(tree):
    """How often each identifier is a plain variable, parameter or the function's own name."""
    counts = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    counts.update(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    counts[tree.body[0].name] += 1
    return counts


def _bound(tree):
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | {tree.body[0].name}


@functools.lru_cache(maxsize=20000)
def renamable(source):
    """name -> offsets. Only names whose every mention, also in strings and comments, is one and the same variable."""
    try:
        tree, names = ast.parse(source), _names(source)
    except (SyntaxError, tokenize.TokenError, IndentationError):
        return {}
    counts, places = _tree_counts(tree), {}
    for name, start in names:
        places.setdefault(name, []).append(start)
    return {
        name: places[name]
        for name in sorted(_bound(tree))
        if name in places and len(name) > 1 and name not in ("self", "cls") and not name.startswith("__")
        and len(places[name]) == counts[name] == len(re.findall(rf"\b{re.escape(name)}\b", source))
    }  # fmt: skip


def replace(source, places, old, new):
    for start in reversed(places):
        source = source[:start] + new + source[start + len(old) :]
    return source


def _style_of(name):
    return "camel" if name[0].islower() and any(c.isupper() for c in name) else "pascal" if name[0].isupper() else "snake"


def _fresh(world, source, old):
    new = world.ident(_style_of(old))
    return new if new not in source and not keyword.iskeyword(new) else _fresh(world, source, old)


def function(world, longest=1600):
    """A function's source. In training, a third is invented, and of the others half have other names first, so that code is read and not remembered."""
    if world.split == "train" and world.chance(0.33):
        return invented.function(world)
    found = world.pick(stdlib.functions(world.split))
    if len(found.source) > longest and not world.chance(0.1):
        return function(world, longest)
    return _scrambled(world, found.source) if world.split == "train" and world.chance(0.6) else found.source


def _scrambled(world, source):
    """Some names replaced, by new ones or by relatives of other names."""
    names = renamable(source)
    chosen = {}
    for old in world.sample(sorted(names), world.int(1, 5)):
        new = _relative(world, source, old) if world.chance(0.5) else _fresh(world, source, old)
        if new not in chosen.values():
            chosen[old] = new
    for start, old in sorted(((start, old) for old in chosen for start in names[old]), reverse=True):
        source = source[:start] + chosen[old] + source[start + len(old) :]
    return _with_neighbours(world, source) if world.chance(0.4) else source


def _with_neighbours(world, source):
    """Some numbers become relatives of others: a change must tell 5 from 50."""
    numbers = [(text, start) for text, start in _constants(source) if text.isdecimal()]
    for text, start in sorted(world.sample(numbers, 3), key=lambda found: -found[1]):
        near = int(world.pick(numbers)[0])
        source = source[:start] + str(world.pick((near * 10, near + 1, near // 10, near + 10, near * 100 + 1))) + source[start + len(text) :]
    return source


def _relative(world, source, old):
    """A name that begins, ends or goes on like another one of the function: renames must tell the two apart."""
    other = world.pick(sorted(set(re.findall(r"\b[A-Za-z_]\w*\b", source)) - {old}) or [old])
    word = world.rare()
    new = world.pick((f"{other}_{word}", f"{word}_{other}", f"{other}{word.capitalize()}", f"{other}s", f"{other}{world.int(0, 9)}", f"_{other}", f"{other[:-1]}", f"{other}{word[:2].upper()}"))
    return new if _usable(new, source) else _fresh(world, source, old)


def _usable(new, source):
    return new.isidentifier() and not keyword.iskeyword(new) and not re.search(rf"\b{re.escape(new)}\b", source)


def _edit(world, instruction, before, after, reasoning):
    fence = world.pick(FENCES)
    prompt = world.pick(FORMS).format(i=instruction, c=fence.format(c=before))
    return ask(prompt, f"```python\n{after}\n```", reasoning if world.chance(0.15) else "")


def _edited(world, change):
    """A sample of `change`: (world, source) -> (instruction, source after it, reasoning), or None where it cannot be done."""
    while True:
        source = function(world)
        if found := change(world, source):
            return _edit(world, found[0], source, *found[1:])


def _entangled(names, source):
    """Names that are part of another identifier, or have one as a part."""
    others = set(re.findall(r"\b[A-Za-z_]\w*\b", source))
    return [name for name in names if any(name != o and (name in o or len(o) > 2 and o in name) for o in others)]


def _old_and_new(world, source, names):
    """What to rename, and how. In training often a name that has relatives, to one that may have some."""
    old = world.pick(list(names))
    if world.split == "train" and world.chance(0.5):
        old = world.pick(_entangled(names, source) or [old])
    related = world.split == "train" and world.chance(0.15)
    return old, _relative(world, source, old) if related else _fresh(world, source, old)


def _renamed(world, source):
    names = renamable(source)
    if not names:
        return None
    old, new = _old_and_new(world, source, names)
    kind = "function" if re.search(rf"def {re.escape(old)}\b", source) else world.pick(("variable", "name"))
    form = world.pick(("Rename `{o}` to `{n}`.", "Rename {o} to {n}.", "Rename the {k} `{o}` to `{n}`.", "Rename the {k} {o} to {n} in this function.", "Change the name `{o}` to `{n}`.",
                       "Please rename {o} to {n}", "Replace the {k} name `{o}` with `{n}`.", "Call `{o}` `{n}` instead.", "rename `{o}` to `{n}` everywhere"))  # fmt: skip
    reasoning = f"Every {old} becomes {new}. All else stays."
    return form.format(o=old, n=new, k=kind), replace(source, names[old], old, new), reasoning


def rename(world):
    return _edited(world, _renamed)


def _parameter_end(source):
    """Where a further parameter goes, and whether a comma is needed; None for signatures that end in *, ** or break lines."""
    try:
        node = ast.parse(source).body[0]
    except SyntaxError:
        return None
    args = node.args
    if args.vararg or args.kwarg or args.kwonlyargs:
        return None
    head = re.match(r"((?:@.*\n)*(?:async )?def \w+\()", source)
    plain = [*args.posonlyargs, *args.args]
    if not head or not plain:
        return (head.end(), "") if head and source[head.end()] == ")" else None
    last = args.defaults[-1] if args.defaults else plain[-1]
    lines = source.splitlines(keepends=True)
    end = sum(map(len, lines[: last.end_lineno - 1])) + last.end_col_offset
    return (end, ", ") if source[end] == ")" else None


def _with_parameter(world, source):
    where = _parameter_end(source)
    name = _fresh(world, source, "x")
    if where is None:
        return None
    default = world.pick(("None", "True", "False", str(world.int(0, 99)), f'"{world.rare()}"', "()", "0"))
    form = world.pick(("Add a parameter `{n}` with default `{d}`.", "Add the parameter {n}={d}.", "Add a parameter {n} with the default {d} to this function.",
                       "Give the function a parameter `{n}={d}`.", "Add an argument `{n}` that defaults to {d}.", "add parameter {n} with default {d} at the end"))  # fmt: skip
    after = source[: where[0]] + f"{where[1]}{name}={default}" + source[where[0] :]
    return form.format(n=name, d=default), after, f"The signature gets {name}={default} at the end. All else stays."


def add_parameter(world):
    return _edited(world, _with_parameter)


def _constants(source):
    """Numbers and short strings that occur once: [(text, start)]."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return []
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = [(t.string, starts[t.start[0] - 1] + t.start[1]) for t in tokens
             if t.type == tokenize.NUMBER or (t.type == tokenize.STRING and re.fullmatch(r"""(['"])[\w .-]{1,30}\1""", t.string))]  # fmt: skip
    return [(text, start) for text, start in found if len(re.findall(rf"(?<![\w.]){re.escape(text)}(?![\w.])", source)) == 1]


def _mistakable(constants, source):
    """Those whose text is part of other text as well."""
    return [(text, start) for text, start in constants if source.count(text.strip("'\"")) > 1]


def _changed(world, source):
    constants = _constants(source)
    if not constants:
        return None
    if world.split == "train" and world.chance(0.4):
        constants = _mistakable(constants, source) or constants
    old, start = world.pick(constants)
    new = str(world.number()) if old[0] not in "'\"" else old[0] + world.pick((world.rare(), world.phrase(1, 3), world.code())) + old[0]
    if new == old:
        return None
    form = world.pick(("Change `{o}` to `{n}`.", "Change {o} to {n}.", "Replace {o} with {n}.", "Replace the constant {o} by {n}.", "Use {n} instead of {o}.",
                       "Set the value {o} to {n}.", "The constant {o} should be {n}."))  # fmt: skip
    after = source[:start] + new + source[start + len(old) :]
    return form.format(o=old, n=new), after, f"{old} becomes {new}. All else stays."


def change_constant(world):
    return _edited(world, _changed)


def _documented(world, source):
    if '"""' in source or "'''" in source:
        return None
    node = ast.parse(source).body[0]
    lines = source.split("\n")
    first = node.body[0]
    if first.lineno == node.lineno or isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return None
    text = world.phrase(3, 7).capitalize() + "."
    at = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", ()))]) - 1
    while lines[at - 1].strip().startswith("#"):  # the docstring comes before comments
        at -= 1
    after = "\n".join([*lines[:at], " " * first.col_offset + f'"""{text}"""', *lines[at:]])
    return world.pick(('Add the docstring "{}"', 'Give it the docstring "{}".', "Add this docstring: {}")).format(text), after, "The docstring goes below the signature."


def add_docstring(world):
    return _edited(world, _documented)


def unchanged(world):
    source = function(world, longest=2600)
    if world.split == "train" and world.chance(0.25):
        source = world.jumble(8, 90)
    elif world.chance(0.35):  # lines of several functions, shuffled: copying that no knowledge of code can help
        lines = [line for _ in range(world.int(1, 3)) for line in function(world).split("\n") if line.strip()]
        source = "\n".join(world.sample(lines, world.int(3, 40)))
    return _edit(world, world.pick(("Repeat this code exactly.", "Print this code unchanged.", "Copy the code.", "Return the code as it is.")), source, source, "I copy it.")


def _repeated(world, source):
    return "Repeat this code exactly.", source, "I copy it."


MIX = ((rename, 50), (add_parameter, 10), (change_constant, 28), (add_docstring, 3), (unchanged, 9))
CHANGES = ((_renamed, 56), (_changed, 32), (_with_parameter, 9), (_documented, 1), (_repeated, 2))
FAMILY = 4300  # characters of a function and its edits, so that they fit into one row


def several(world):
    """Edits of one function, which all prompts begin with; mostly of one where there is something to mistake."""
    source = function(world)
    if len(renamable(source)) + len(_constants(source)) < 4 and world.chance(0.8):
        return several(world)
    changes, weights = zip(*CHANGES, strict=True)
    count = min(8, max(2, FAMILY // (len(source) + 120) - 1))
    found = {}
    for change in world.rng.choices(changes, weights, k=2 * count):
        if made := change(world, source):
            found[made[1]] = made
    prompt = world.pick(CODE_FIRST).replace("{c}", world.pick(FENCES).format(c="{c}"))
    return [ask(prompt.format(i=instruction, c=source), f"```python\n{after}\n```", reasoning if world.chance(0.1) else "")
            for instruction, after, reasoning in list(found.values())[:count]] or several(world)  # fmt: skip


def make(world):
    if world.split == "train" and world.chance(0.55):
        return several(world)
    makers, weights = zip(*MIX, strict=True)
    return world.rng.choices(makers, weights)[0](world)
