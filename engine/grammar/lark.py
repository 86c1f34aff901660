"""Lark texts for llguidance, written rule by rule. Marks that are tokens of their own are named by their ids.

Source of the notation: llguidance, docs/syntax.md.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BadRequest
from ..request import Shape

# Between JSON's tokens as much white space as models write, and an end to it: a weak model would write nothing else.
SPACE = r"[\x20\x0A\x0D\x09]{1,40}"
ANYTHING = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Grammar:
    """text    in llguidance's JSON form
    param   what in the request asks for it
    places  grammars of the texts that stand in JSON strings, each at the place that its number gives
    """

    text: str
    param: str
    places: "tuple[Grammar, ...]" = ()


class Lark:
    """A grammar in the making.

    marks  text -> id of the tokens that are no part of any text
    first  id of the first place
    rules  name -> what it stands for
    parts  grammars of their own, by the names that rules call them by
    alone  the answer may be calls, and nothing else but free text
    """

    def __init__(self, marks: Mapping[str, int], first: int, alone: bool = True):
        self.marks, self.first, self.alone = marks, first, alone
        self.rules: dict[str, str] = {}
        self.parts: dict[str, str] = {}
        self.places: list[Grammar] = []
        self.split = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)")

    def rule(self, body: str, options: str = "", terminal: bool = False) -> str:
        """The name of a new rule."""
        name = f"{'T' if terminal else 'r'}{len(self.rules)}"
        self.rules[name + options] = body
        return name

    def text(self, written: str) -> str:
        """This very text, with its marks."""
        parts, at = [], 0
        for found in self.split.finditer(written):
            parts += [literal(written[at : found.start()]), f"<[{self.marks[found[0]]}]>"]
            at = found.end()
        return " ".join(part for part in (*parts, literal(written[at:])) if part)

    def until(self, end: str) -> str:
        """Any text, and the end, which comes as soon as it can."""
        begins = self.split.search(end)
        if begins is None:
            return self.rule(ANYTHING, f"[suffix={literal(end)}]")
        return f"{self.rule(ANYTHING, terminal=True)} {self.text(end[begins.start() :])}"

    def json(self, schema: Any, *, lenient: bool = False) -> str:
        """A value that the schema describes. lenient: what llguidance does not know is left out, not refused."""
        options = {"whitespace_pattern": SPACE} | ({"lenient": True} if lenient else {})
        if schema is False:
            raise BadRequest("the schema of an argument is false, which nothing fits", "tools")
        written = {**({} if schema is True else schema), "x-guidance": options}
        return self.rule("%json " + json.dumps(written))

    def shape(self, shape: Shape) -> str:
        if shape.kind == "json":
            return self.json(shape.value)
        if shape.kind == "regex":
            return self.rule(regex(shape.value), terminal=True)
        if shape.kind == "choice":
            return self.rule(" | ".join(map(literal, shape.value)), terminal=True)  # of rules llguidance takes 2000
        name = f"part{len(self.parts)}"
        self.parts[name] = shape.value
        return "@" + name

    def quoted(self, shape: Shape) -> str:
        """A text of this shape inside a JSON string; what follows has to begin with the quote."""
        inner = Lark({}, self.first)
        self.places.append(inner.grammar(inner.shape(shape), shape.param))
        return f"<[{self.first + len(self.places) - 1}]>"

    def grammar(self, start: str, param: str) -> Grammar:
        rules = "".join(f"{name}: {body}\n" for name, body in self.rules.items())
        parts = [{"name": name, "lark_grammar": text} for name, text in self.parts.items()]
        answer = {"name": "answer", "lark_grammar": f"start: {start}\n{rules}"}
        return Grammar(json.dumps({"grammars": [answer, *parts]}), param, tuple(self.places))


def literal(text: str) -> str:
    """In quotes; nothing for no text."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def regex(pattern: str) -> str:
    """Between slashes."""
    slashed = re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", pattern, flags=re.S)
    return "/" + slashed.replace("\n", r"\n") + "/"


def without(texts: Collection[str]) -> str:
    """A terminal: any text that none of these is a part of."""
    inside = "|".join(re.escape(text).replace("/", r"\/") for text in texts)
    return f"{ANYTHING} & ~/(?s:.*)({inside})(?s:.*)/" if texts else ANYTHING
