"""The tables of parameters of every dialect, for the documentation."""

from . import chat_completions, completions, messages, text

TABLES = (
    chat_completions.TABLE,
    completions.TABLE,
    messages.TABLE,
    messages.COUNT_TABLE,
    text.TOKENIZE,
    text.DETOKENIZE,
)
