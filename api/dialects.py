"""The tables of parameters of every dialect, for the documentation."""

from . import chat_completions, completions, embeddings, loading, messages, ollama, responses, text

TABLES = (
    chat_completions.TABLE,
    completions.TABLE,
    messages.TABLE,
    messages.COUNT_TABLE,
    responses.TABLE,
    responses.COUNT_TABLE,
    responses.COMPACT_TABLE,
    embeddings.TABLE,
    loading.LOAD,
    loading.UNLOAD,
    ollama.PULL,
    text.TOKENIZE,
    text.DETOKENIZE,
)
