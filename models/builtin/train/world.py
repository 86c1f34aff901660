"""`World`: one seeded source of words, names, numbers and ids for one split. Everything random goes through it."""

import json
import random
import string

from . import lexicon as lx
from . import stdlib

STYLES = ("snake", "snake", "snake", "camel", "kebab", "dotted", "pascal")


class World:
    def __init__(self, seed, split="train"):
        self.rng = random.Random(seed)
        self.split = split
        self.few = None

    def narrow(self):
        """From here on names, places and things are a few of each: they come again and have to be told apart."""
        self.few = {}

    def _few(self, items):
        if id(items) not in self.few:
            self.few[id(items)] = self.sample([item for item in items if stdlib.side(item) == self.split], self.int(2, 6))
        return self.few[id(items)]

    def pick(self, items):
        return items[int(self.rng.random() * len(items))]

    def chance(self, p):
        return self.rng.random() < p

    def int(self, low, high):
        return self.rng.randint(low, high)

    def sample(self, items, k):
        return self.rng.sample(items, min(k, len(items)))

    def shuffled(self, items):
        return self.sample(list(items), len(items))

    def mine(self, items):
        """One of the items on this side of the split."""
        if self.few is not None:
            return self.pick(self._few(items))
        while True:
            item = self.pick(items)
            if stdlib.side(item) == self.split:
                return item

    # words and names
    def word(self):
        """A word of the split. In training half of them are made up, so that copying is learned for any letters, not for some thousand words."""
        if self.split == "train" and self.chance(0.5):
            return self.bent(self.pick(stdlib.words("train"))) if self.chance(0.6) else self.letters()
        return self.pick(stdlib.words(self.split))

    def letters(self):
        """Letters without any order, or syllables."""
        if self.chance(0.4):
            return self.pseudo()
        return "".join(self.pick(string.ascii_lowercase) for _ in range(self.int(2, 9)))

    def bent(self, word):
        """Two words joined, or letters changed, dropped, added, swapped."""
        if self.chance(0.4):
            other = self.pick(stdlib.words(self.split))
            return word[: self.int(1, len(word))] + other[self.int(0, len(other) - 2) :]
        letters = list(word)
        for _ in range(self.int(1, 3)):
            i = self.int(0, len(letters) - 1)
            letters[i : i + self.int(0, 1)] = [self.pick(string.ascii_lowercase) for _ in range(self.int(0, 2))]
        return "".join(letters) or word

    def verb(self):
        return self.word() if self.split == "train" and self.chance(0.3) else self.mine(lx.VERBS)

    def pseudo(self):
        """A made-up word: no table of known words covers it, so it must be copied."""
        return "".join(self.pick(lx.SYLLABLES) for _ in range(self.int(2, 4)))

    def rare(self):
        return self.word() if self.chance(0.6) else self.pseudo()

    def thing(self):
        return self.mine(lx.THINGS)

    def first(self):
        return self.mine(lx.FIRST) if self.chance(0.7) else self._coined()

    def last(self):
        return self.mine(lx.LAST) if self.chance(0.6) else self._coined()

    def _coined(self):
        return self.rare().capitalize()

    def person(self):
        return f"{self.first()} {self.last()}" if self.chance(0.5) else self.first()

    def city(self):
        if self.chance(0.2):
            return self._coined()
        return self.mine(lx.CITIES) if self.chance(0.85) else self.mine(lx.PLACES)

    def company(self):
        stem = self.last() if self.chance(0.5) else self.pseudo().capitalize()
        return f"{stem} {self.pick(lx.COMPANIES)}"

    def phrase(self, low=2, high=5):
        return " ".join(self.word() for _ in range(self.int(low, high)))

    def title(self):
        return " ".join(w.capitalize() for w in self.phrase(2, 4).split())

    # identifiers
    def styled(self, parts, style):
        if style == "camel":
            return parts[0] + "".join(p.capitalize() for p in parts[1:])
        if style == "pascal":
            return "".join(p.capitalize() for p in parts)
        return {"snake": "_", "kebab": "-", "dotted": ".", "upper": "_"}[style].join(parts)

    def ident(self, style=None):
        parts = [self.rare() for _ in range(self.pick((1, 1, 2, 2, 2, 3)))]
        return self.styled(parts, style or self.pick(("snake", "snake", "snake", "camel")))

    def code(self):
        """An id such as A7-2231, inv_93k or 8f3e0c."""
        kind = self.int(0, 4)
        digits = "".join(self.pick(string.digits) for _ in range(self.int(2, 6)))
        letters = "".join(self.pick(string.ascii_letters) for _ in range(self.int(1, 4)))
        if kind == 0:
            return f"{letters.upper()}-{digits}"
        if kind == 1:
            return f"{self.word()[:4]}_{digits}"
        if kind == 2:
            return "".join(self.pick("0123456789abcdef") for _ in range(self.int(6, 12)))
        return letters + digits if kind == 3 else f"{letters.upper()}{digits}-{self.pick(string.ascii_uppercase)}"

    def odd(self):
        """A string of the kinds that fill logs and configurations."""
        mixed = "".join(self.pick(string.ascii_letters + string.digits) for _ in range(self.int(3, 14)))
        numbers = [str(self.int(0, 99)) for _ in range(self.int(2, 4))]
        return self.pick((
            mixed, mixed, self.ident("upper").upper(), ".".join(numbers), f"v{'.'.join(numbers)}", f"https://{self.word()}.{self.word()[:3]}/{self.path().strip('/~.')}",
            f"{self.word()}{self.int(0, 99)}", f"#{self.rng.getrandbits(24):06x}", f"{self.ident()}.{self.ident()}", f"--{self.ident('kebab')}", f"${self.word()}",
            f"{self.word()}@{self.int(1, 9)}", f"-{self.decimal()}", f"{self.word()}'s", self.ident("pascal"), f"{self.ident()}({self.ident()})", self.email(),
        ))  # fmt: skip

    def jumble(self, low, high):
        """Odd strings, words and names between marks and spaces, in lines: only copying gets it right."""
        kinds = (self.odd, self.ident, self.word, self.code, lambda: str(self.number()), lambda: dumps(self.phrase(1, 3)), lambda: f"'{self.word()}'")
        marks = (" ", " ", " ", "  ", "    ", ", ", " = ", ": ", "; ", " | ", "\n", "\n    ", " -> ", "/", ".", "(", ") ", "[", "] ", "    # ", "\t")
        return "".join(self.pick(kinds)() + self.pick(marks) for _ in range(self.int(low, high))).strip()

    # values
    def number(self):
        return self.pick((self.int(0, 9), self.int(10, 99), self.int(100, 999), self.int(1000, 99999)))

    def decimal(self):
        return round(self.rng.uniform(0, self.pick((1, 10, 100, 1000))), self.pick((1, 1, 2)))

    def date(self):
        return f"{self.int(1950, 2035)}-{self.int(1, 12):02d}-{self.int(1, 28):02d}"

    def time(self):
        return f"{self.int(0, 23):02d}:{self.pick((0, 5, 10, 15, 20, 30, 40, 45, 50)):02d}"

    def email(self):
        return f"{self.first().lower()}{self.pick(('', '.' + self.last().lower(), str(self.int(1, 99))))}@{self.pick(lx.DOMAINS)}"

    def path(self):
        folders = [self.word() for _ in range(self.int(0, 3))]
        name = f"{self.word()}.{self.pick(('txt', 'py', 'md', 'json', 'csv', 'log', 'yaml'))}"
        return self.pick(("", "/", "./", "src/", "~/")) + "/".join([*folders, name])

    def money(self):
        return f"{self.int(1, 999)}.{self.int(0, 99):02d}"

    def list_of(self, make, low=2, high=4):
        found = {}
        while len(found) < low:
            found = dict.fromkeys(make() for _ in range(self.int(low, high)))
        return list(found)


def spoken(items):
    """a, b and c."""
    items = [str(i) for i in items]
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def a(noun):
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def dumps(value):
    return json.dumps(value, ensure_ascii=False)
