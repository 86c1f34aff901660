"""Random walks through grammars: whatever a mask allows is drawn, and the text that comes of it is looked at."""

import random

import vocabularies
from smelt.engine.grammar import Grammars, grammar_of, schemas
from smelt.engine.parse import choose
from smelt.engine.tokenizer import Tokenizer

TOOLS = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
# name: (what its template says, the marks that are tokens)
FORMATS = {
    "hermes": ("<tool_call>", ("<tool_call>", "</tool_call>")),
    "hermes, spelled": ("<tool_call>", ()),
    "xml": ("<tool_call>\n<function=x>", ("<tool_call>", "</tool_call>")),
    "gemma-4": ("<|tool_call>", ("<|tool_call>", "<tool_call|>", '<|"|>')),
    "function-gemma": ("<start_function_call>", ("<start_function_call>", "<end_function_call>", "<escape>")),
    "mistral": ("[TOOL_CALLS]", ("[TOOL_CALLS]",)),
    "mistral, new": ("[TOOL_CALLS]", ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")),
    "lfm2": ("<|tool_list_start|>", ("<|tool_call_start|>", "<|tool_call_end|>")),
    "nemotron": ("<TOOLCALL>", ("<TOOLCALL>", "</TOOLCALL>")),
    "nemotron, spelled": ("<TOOLCALL>", ()),
    "llama-3": ("<|python_tag|>", ("<|python_tag|>",)),
}
CLOSERS = frozenset(char.encode() for char in '"}]),\n>/')


class House:
    """A vocabulary of bytes and marks, and the format that a template teaches."""

    def __init__(self, folder, name):
        source, marks = FORMATS[name]
        made = vocabularies.byte_level(("<s>", "</s>"), ("<think>", "</think>", *marks))
        self.tokenizer = Tokenizer.load(vocabularies.folder(folder, made, config={"eos_token": "</s>"}))
        self.format = choose(TOOLS + source, self.tokenizer)
        self.vocab = self.tokenizer.vocab_size + 5  # logits may be wider
        self.marks = {mark: self.tokenizer.id_of(mark) for mark in self.format.marks if self.tokenizer.id_of(mark)}
        special = self.tokenizer.special_ids.union(self.marks.values())
        self.end = self.tokenizer.eos_id
        begins = {"{"} if name == "llama-3" else set(marks)
        self.openers = {ident for text in begins if (ident := self.tokenizer.id_of(text)) is not None}
        self.grammars = Grammars(self.tokenizer, self.vocab, special, {self.end})

        self.leave = self.tokenizer.encode("\n</parameter>")  # nobody finds that at random

    def matcher(self, request):
        for schema in schemas(request):
            self.grammars.matcher(schema)
        return self.grammars.matcher(grammar_of(request, self.format, self.marks, self.vocab))

    def text(self, tokens):
        return self.tokenizer.decode(tokens, keep=self.marks.values())

    def pieces(self, request, tokens):
        parser = self.format.parser(request.tools)
        return [*parser.feed(self.text(tokens)), *parser.finish()]


def allowed(matcher, vocab):
    mask = matcher.compute_bitmask()
    return [token for token in range(vocab) if mask[token >> 3] >> (token & 7) & 1]


def walk(house, matcher, seed, steps=600, prefer=()):
    """Tokens up to the end of the grammar, or None if it did not come in so many steps. `prefer` is taken where it fits."""
    rng, tokens = random.Random(seed), []
    ends = {token for token in range(house.vocab) if house.tokenizer.token_bytes(token) in CLOSERS}
    while len(tokens) < steps:
        assert not matcher.is_error(), matcher.get_error()
        fits = allowed(matcher, house.vocab)
        assert fits, house.text(tokens)
        first = [token for token in fits if token in prefer]
        closing = [token for token in fits if token in ends]
        if rng.random() < 0.1 and matcher.validate_tokens(house.leave) == len(house.leave):
            matcher.consume_tokens(house.leave)
            tokens += house.leave
            continue
        if house.end in fits and (len(fits) == 1 or rng.random() < 0.3):
            return tokens
        pool = first if first and rng.random() < 0.5 else closing if closing and rng.random() < 0.5 else fits
        token = rng.choice([token for token in pool if token != house.end] or pool)
        assert matcher.consume_token(token), matcher.get_error()
        tokens.append(token)
        if matcher.is_stopped():
            return tokens
    return None
