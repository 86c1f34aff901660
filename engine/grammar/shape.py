"""The grammar of an answer: its text's shape, its calls, or both, as a request asks for them."""

from collections.abc import Iterator, Mapping

from ..parse import Format
from ..request import Request
from .calls import Call, layout_of
from .lark import Grammar, Lark


def grammar_of(request: Request, format: Format, marks: Mapping[str, int], vocab: int) -> Grammar | None:
    """Of what follows the reasoning; None where nothing is asked.

    marks  text -> id of the tokens that are no part of any text
    vocab  how many tokens the logits have
    """
    use, shape, lark = request.tool_use, request.shape, Lark(marks, vocab, alone=request.shape is None)
    if shape is not None and not request.tools:
        return lark.grammar(lark.shape(shape), shape.param)
    if not request.tools or (shape is None and not use.bound):
        return None
    layout = layout_of(format, lark)
    calls = [Call.of(tool, use) for tool in request.tools if use.name in (None, tool["function"]["name"])]
    single = use.single or use.name is not None
    if use.required:
        return lark.grammar(layout.calls(calls, single=single), "tool_choice")
    if shape is not None:
        return lark.grammar(f"{lark.shape(shape)} | {layout.calls(calls, single=single)}", shape.param)
    return lark.grammar(layout.after_text(calls, single=single), "tools")


def schemas(request: Request) -> Iterator[Grammar]:
    """Of each tool whose schema counts, as JSON: what is wrong with it is found, and whose it is can be said."""
    for index, tool in enumerate(request.tools):
        call = Call.of(tool, request.tool_use)
        if request.tool_use.required or not call.lenient:
            lark = Lark({}, 0)
            yield lark.grammar(lark.json(call.schema, lenient=call.lenient), f"tools[{index}]")
