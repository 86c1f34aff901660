"""The guides of a request: its reasoning's budget, and the grammar that its answer must follow."""

from collections.abc import Collection
from dataclasses import replace

from . import grammar
from .errors import BadRequest
from .grammar import Grammar
from .guide import Guide, Matcher, Spelling
from .parse import Format
from .reasoning import ReasoningState
from .request import Request
from .tokenizer import Tokenizer


class Guides:
    """Of one model. vocab: how many tokens its logits have. ends: those that end an answer."""

    def __init__(self, tokenizer: Tokenizer, format: Format, vocab: int, ends: Collection[int]):
        self.tokenizer, self.format = tokenizer, format
        marks = {text: ident for text in format.marks if (ident := tokenizer.id_of(text)) is not None}
        self.marks = {text: ident for text, ident in marks.items() if ident < vocab}
        special = tokenizer.special_ids.union(self.marks.values())
        self.grammars = grammar.Grammars(tokenizer, vocab, special, ends)
        self.spelling = self.spelled(vocab, frozenset(end for end in ends if end < vocab))

    def spelled(self, vocab: int, ends: frozenset[int]) -> Spelling:
        encode, tags = self.tokenizer.encode, self.format.tags
        blanks = (encode(blank) for blank in ("\n", "\n\n"))
        blanks = frozenset(tokens[0] for tokens in blanks if len(tokens) == 1)
        if tags is None:
            return Spelling(vocab, ends, blanks=blanks)
        opening = encode(tags.opens[0])
        known = opening and opening[0] in self.tokenizer.vocabulary.added  # else its beginning is any text's
        closing = encode(tags.closes[0] + tags.after)
        return Spelling(vocab, ends, tuple(opening if known else ()), tuple(encode(tags.lead)), tuple(closing), blanks)

    def make(self, request: Request, rendered: str | None, budget: int | None) -> list[Guide | None]:
        """One for each of the request's completions; None where all tokens may come at any time.

        rendered  the conversation as the model reads it; None for a plain prompt, which has no reasoning and no calls
        budget    tokens of reasoning at most, None for no limit
        """
        asked = self.asked(request, rendered)
        tags = self.format.tags if rendered is not None else None
        if asked is None and (tags is None or budget is None):
            return [None] * request.n
        opened = tags is not None and tags.end_open(rendered)
        spelling = self.spelling if tags and self.may_open(request, rendered) else replace(self.spelling, opening=())
        return [
            Guide(
                spelling,
                tags and ReasoningState(tags, self.tokenizer.token_bytes, opened),
                asked and self.matcher(request, asked),
                budget if tags else None,
            )
            for _ in range(request.n)
        ]

    def asked(self, request: Request, rendered: str | None) -> Grammar | None:
        if rendered is not None:
            for schema in grammar.schemas(request):
                self.grammars.matcher(schema)
        return grammar.grammar_of(request, self.format, self.marks, self.spelling.vocab)

    def may_open(self, request: Request, rendered: str) -> bool:
        """May the model open the reasoning? Not where it was told to answer at once, or to go on with an answer."""
        off = request.template_kwargs.get("enable_thinking") is False
        return not (off or request.continue_final or rendered.rstrip().endswith(self.format.tags.closes))

    def matcher(self, request: Request, asked: Grammar) -> Matcher:
        """Behind what the answer has already, where it is to be continued."""
        made = self.grammars.matcher(asked)
        if request.continue_final:
            begun = self.tokenizer.encode(request.messages[-1]["content"], parse_special=False)
            if made.validate_tokens(begun) < len(begun):
                why = f"the last message, which is to be continued, does not begin what {asked.param} asks for"
                raise BadRequest(why, asked.param)
            made.consume_tokens(begun)
        return made
