"""A packed KV cache as flags and requests ask for it. A model holds the keys and values of all requests one way."""

from .errors import BadRequest
from .options import Options


class Unfit(Exception):
    """The cache cannot be held or read as it was asked for; the message is for the user."""


def prepare(model, mode: str, reading: str = "auto") -> None:
    """Raises Unfit where the model's heads do not suit the mode."""
    if mode == "off":
        return
    try:
        model.pack_kv(mode, reading)
    except ValueError as error:
        raise Unfit(f"--kv-quant {mode} is not possible with this model: {error}. Use --kv-quant off") from None


def require(model, options: Options) -> None:
    """Raises Unfit where `fused` was asked for and decode steps cannot read packed heads as they lie."""
    from ..kernels import packed_attention_kernel

    for pages in model.pages() if options.kv_attn_mode == "fused" else ():
        if why := packed_attention_kernel.unfit(pages):
            raise Unfit(f"--kv-attn-mode fused is not possible here: {why}. Use auto or dense")


def agree(asked: str | None, options: Options) -> None:
    """Whatever a request says of the cache must be what there is."""
    if asked is not None and asked != options.kv_quant:
        raise BadRequest(
            f"kv_quant is {asked}; this server holds keys and values with --kv-quant {options.kv_quant}: send"
            f" {options.kv_quant}, or leave it out, or start a server with --kv-quant {asked}",
            "kv_quant",
        )
