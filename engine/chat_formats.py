"""Formats for checkpoints that bring no chat template, chosen by the special tokens of their vocabulary.

They leave tools and tool results to the fallback of `chat_adapt`. What a template writes must be single tokens of the
vocabulary, so a format is chosen only where all of its marks are.
"""

from collections.abc import Callable

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

LLAMA3 = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
{%- set role = 'ipython' if message.role == 'tool' else message.role -%}
{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}
"""

# Gemma knows two roles, which alternate; system text opens the first user turn.
TURNS = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ raise_exception('there is no system role') }}{%- endif -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('the roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{{ OPEN + ('model' if message.role == 'assistant' else message.role) + '\\n' + message.content | trim + CLOSE + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ OPEN + 'model\\n' }}{%- endif -%}
"""
GEMMA = TURNS.replace("OPEN", "'<start_of_turn>'").replace("CLOSE", "'<end_of_turn>'")

# Gemma 4 has a system turn and other marks.
GEMMA4 = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
{%- set role = 'model' if message.role == 'assistant' else message.role -%}
{{ '<|turn>' + role + '\\n' + message.content | trim + '<turn|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|turn>model\\n' }}{%- endif -%}
"""

# Before its seventh tokenizer, Mistral had no system turn.
MISTRAL = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ raise_exception('there is no system role') }}{%- endif -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('the roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- if message.role == 'user' -%}{{ '[INST] ' + message.content + '[/INST]' }}
{%- else -%}{{ ' ' + message.content + (eos_token or '</s>') }}{%- endif -%}
{%- endfor -%}
"""
MISTRAL_SYSTEM = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}
{%- elif message.role == 'user' -%}{{ '[INST]' + message.content + '[/INST]' }}
{%- else -%}{{ message.content + (eos_token or '</s>') }}{%- endif -%}
{%- endfor -%}
"""

# name, source, marks that must be tokens; the first that fits. ChatML goes first: people add it to other families.
FORMATS = (
    ("chatml", CHATML, ("<|im_start|>", "<|im_end|>")),
    ("llama-3", LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    ("gemma-4", GEMMA4, ("<|turn>", "<turn|>")),
    ("gemma", GEMMA, ("<start_of_turn>", "<end_of_turn>")),
    ("mistral-system", MISTRAL_SYSTEM, ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]")),
    ("mistral", MISTRAL, ("[INST]", "[/INST]")),
)
# Families whose first checkpoints wrote the marks as plain text.
BY_TYPE = {"mistral": ("mistral", MISTRAL), "mixtral": ("mistral", MISTRAL)}


def choose(id_of: Callable[[str], int | None], model_type: str) -> tuple[str, str] | None:
    """(name, source) of the built-in format for a vocabulary, if one fits."""
    for name, source, marks in FORMATS:
        if all(id_of(mark) is not None for mark in marks):
            return name, source
    return BY_TYPE.get(model_type)
