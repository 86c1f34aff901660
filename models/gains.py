"""The weights of norms, copied to the end of the scales of the matrices that they stand before: a launch takes an array less.

A part's `norms` names its fields that begin with a norm of what they are given, matrices or parts, and of each the field
that holds this norm; None is the norm that the part itself is called with.
"""

from dataclasses import replace

from ..kernels.linear import Weight, with_gain
from ..kernels.norm import Norm
from .parts import Decoder


def with_gains(part, norm: Norm | None = None):
    """The same part, where called with `norm`, with the gains of all norms at the end of the scales behind them."""
    if isinstance(part, list):
        return [with_gains(each) for each in part]
    if isinstance(part, Weight):
        return part if norm is None else with_gain(part, norm)
    named = getattr(part, "norms", {})
    fields = {name: with_gains(getattr(part, name), getattr(part, own) if own else norm) for name, own in named.items()}
    return replace(part, **fields) if fields else part


def decoder_with_gains(model: Decoder) -> Decoder:
    """A head that is the embedding stays it."""
    made = with_gains(model)
    return replace(made, embedding=made.head) if model.head is model.embedding else made
