"""What an answer must look like, as a grammar for llguidance; and such grammars made matchers."""

from .compiler import Grammars
from .lark import Grammar
from .shape import grammar_of, schemas

__all__ = ["Grammar", "Grammars", "grammar_of", "schemas"]
