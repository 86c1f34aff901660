"""What a server is started with, and what it says of the model it loaded. The command line makes the first, clients read the second."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KV_MODES = ("off", "4", "8", "turbo2", "turbo4")
KV_READINGS = ("auto", "dense", "fused")


@dataclass(frozen=True, slots=True)
class Options:
    """How to load a model and run it.

    model               a folder, an installed model's name, or org/name on the hub; None is the built-in one
    model_dirs          further folders to look for models in
    download            fetch org/name from the hub when it is not installed
    ctx_size            tokens of the context window; None computes it from the architecture and the memory
    max_concurrent      rows decoded together; more requests wait
    prefill_chunk       prompt tokens read together; None: as suits the machine
    prefix_entries      sequences whose states are kept for prompts that begin alike; 0: none, None: as many as fit, which is
                        64 or, if it is more, max_concurrent
    prefix_bytes        that they may take at most; None: what the rows that run leave
    timeout_s           wall time of a request, unless it says otherwise; then it ends with finish_reason "length"
    max_tokens          completion tokens of a request that does not say; None leaves what the context window leaves
    sampling            the flags' sampling parameters, by the names of `Sampling`; a request's own go before, the
                        checkpoint's generation_config.json comes after
    reasoning_budget    tokens of reasoning at most, of a request that does not say; None: no limit
    pld                 draft by prompt lookup, of a request that does not say
    pld_draft_len       tokens of such a draft at most; `pld_key_len`: tokens that must have come before
    drafter             a folder, or org/name, of a model that drafts for this one; None: none
    draft_block         tokens of a round of it, the newest one included; None: what suits the model
    prefill_trace       time every part of each prompt's reading, and write it to the log
    kv_quant            how keys and values are held: one of KV_MODES
    kv_attn_mode        how packed ones are read: one of KV_READINGS
    warmup              run one short prefill and step after loading, so that the first request does not pay for compilation
    """

    model: str | None = None
    model_dirs: tuple[str, ...] = ()
    download: bool = False
    ctx_size: int | None = None
    max_concurrent: int = 64
    prefill_chunk: int | None = None
    prefix_entries: int | None = None
    prefix_bytes: int | None = 2 << 30
    timeout_s: float = 300.0
    max_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    reasoning_budget: int | None = None
    pld: bool = True
    pld_draft_len: int = 5
    pld_key_len: int = 3
    drafter: str | None = None
    draft_block: int | None = None
    kv_quant: str = "off"
    kv_attn_mode: str = "auto"
    warmup: bool = True
    prefill_trace: bool = False


@dataclass(frozen=True, slots=True)
class Residency:
    """Which models may be loaded at once.

    max_models  so many; the one not used for longest makes way
    max_bytes   of weights, together; None: 80% of what this machine can hold; 0: no limit
    idle_s      a model that nobody has used for so long is unloaded; 0: never
    """

    max_models: int = 3
    max_bytes: int | None = None
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The loaded model, for /v1/models, /props and `smelt doctor`.

    context         tokens the window holds; `trained_context` what the checkpoint was made for
    quantization    "4-bit", "mxfp4", ... or the dtype of plain weights
    weight_bytes    of the weights in memory; `disk_bytes` of the checkpoint's files
    created         seconds since 1970, from the checkpoint's files
    tools           the chat template takes tools
    reasoning       the chat template knows thinking
    chat_template   the template's source; None where Smelt's built-in format for the family is used
    kv_quant        how keys and values are held: one of KV_MODES
    pooling         of hidden states to embeddings, unless a request says otherwise
    """

    architecture: str
    context: int
    vocab_size: int
    layers: int
    hidden_size: int
    quantization: str
    weight_bytes: int
    created: int = 0
    trained_context: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    tools: bool = False
    reasoning: bool = False
    chat_template: str | None = None
    kv_quant: str = "off"
    pooling: str = "mean"
    disk_bytes: int = 0
