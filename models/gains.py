"""The weights of norms, copied to where launches take them without an input more.

A part's `norms` names its fields that begin with a norm of what they are given, matrices or parts, and of each the field
that holds this norm; None is the norm that the part itself is called with. Behind the scales of a packed matrix stands this
norm's weight. A part's `together` names norms whose weights its kernels take as one array.
"""

from dataclasses import replace

from ..kernels.linear import Weight, with_gain
from ..kernels.norm import Norm, together
from .parts import Decoder


def with_gains(part, norm: Norm | None = None):
    """The same part, which is called with `norm`."""
    if isinstance(part, list):
        return [with_gains(each) for each in part]
    if isinstance(part, Weight):
        return part if norm is None else with_gain(part, norm)
    named = getattr(part, "norms", {})
    fields = {name: with_gains(getattr(part, name), getattr(part, own) if own else norm) for name, own in named.items()}
    names = getattr(part, "together", ())
    fields |= zip(names, together([getattr(part, name) for name in names]), strict=True)
    return replace(part, **fields) if fields else part


def decoder_with_gains(model: Decoder) -> Decoder:
    """A head that is the embedding stays it."""
    made = with_gains(model)
    return replace(made, embedding=made.head) if model.head is model.embedding else made
