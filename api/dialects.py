"""The tables of parameters of every dialect, for the documentation."""

from . import chat_completions

TABLES = (chat_completions.TABLE,)
