"""The items of an answer in the Responses dialect while they are being written, and the events that say so."""

import uuid
from collections.abc import Callable
from typing import Any

from .chat_completions import score
from .response_tools import Offered, text_of_input

Emit = Callable[..., dict[str, Any]]


class Part:
    """One output item. `opening`, `add` and `closing` give its events; `item` is what it is so far."""

    kind, prefix = "", ""

    def __init__(self, emit: Emit, index: int):
        self.ident = f"{self.prefix}_{uuid.uuid4().hex}"
        self.emit, self.index, self.pieces = emit, index, []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def item(self, status: str) -> dict[str, Any]:
        raise NotImplementedError

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self.emit(f"response.{kind}", item_id=self.ident, output_index=self.index, **fields)

    def whole(self, kind: str, status: str) -> dict[str, Any]:
        return self.emit(f"response.output_item.{kind}", output_index=self.index, item=self.item(status))

    def opening(self) -> list[dict]:
        return [self.whole("added", "in_progress"), *self.begin()]

    def closing(self, status: str) -> list[dict]:
        return [*self.end(), self.whole("done", status)]

    def begin(self) -> list[dict]:
        return []

    def end(self) -> list[dict]:
        return []


class Thought(Part):
    """Reasoning. All of it is the summary, which is the part that every client shows."""

    kind, prefix = "reasoning", "rs"

    def __init__(self, emit: Emit, index: int, seal: Callable[[str], str] | None):
        super().__init__(emit, index)
        self.seal, self.done = seal, False

    def item(self, status: str) -> dict[str, Any]:
        summary = [{"type": "summary_text", "text": self.text}] if self.done else []
        sealed = self.seal(self.text) if self.seal and self.done else None
        made = {"id": self.ident, "type": "reasoning", "summary": summary, "content": None}
        return made | {"encrypted_content": sealed, "status": status}

    def part(self, kind: str, text: str) -> dict:
        whole = {"type": "summary_text", "text": text}
        return self.event(f"reasoning_summary_part.{kind}", summary_index=0, part=whole)

    def begin(self) -> list[dict]:
        return [self.part("added", "")]

    def add(self, event) -> list[dict]:
        self.pieces.append(event.text)
        return [self.event("reasoning_summary_text.delta", summary_index=0, delta=event.text)]

    def end(self) -> list[dict]:
        self.done = True
        text = self.event("reasoning_summary_text.done", summary_index=0, text=self.text)
        return [text, self.part("done", self.text)]


class Said(Part):
    """A message with one part of text."""

    kind, prefix = "message", "msg"

    def __init__(self, emit: Emit, index: int):
        super().__init__(emit, index)
        self.scores, self.open = [], False

    def content(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self.scores)}

    def item(self, status: str) -> dict[str, Any]:
        content = [self.content()] if self.open else []
        made = {"id": self.ident, "type": "message", "role": "assistant", "status": status}
        return made | {"content": content}

    def begin(self) -> list[dict]:
        self.open = True
        return [self.event("content_part.added", content_index=0, part=self.content())]

    def add(self, event) -> list[dict]:
        scores = [score(token) for token in event.logprobs]
        self.pieces.append(event.text)
        self.scores += scores
        return [self.event("output_text.delta", content_index=0, delta=event.text, logprobs=scores)]

    def end(self) -> list[dict]:
        text = self.event("output_text.done", content_index=0, text=self.text, logprobs=list(self.scores))
        return [text, self.event("content_part.done", content_index=0, part=self.content())]


class Called(Part):
    """A call of a function."""

    kind, prefix = "function_call", "fc"

    def __init__(self, emit: Emit, index: int, call: str, tool: Offered):
        super().__init__(emit, index)
        self.call, self.tool = call, tool

    def head(self) -> dict[str, Any]:
        made = {"id": self.ident, "type": self.kind, "call_id": self.call, "name": self.tool.name}
        return made | ({"namespace": self.tool.namespace} if self.tool.namespace else {})

    def item(self, status: str) -> dict[str, Any]:
        return self.head() | {"arguments": self.text, "status": status}

    def add(self, event) -> list[dict]:
        self.pieces.append(event.text)
        return [self.event("function_call_arguments.delta", delta=event.text)]

    def end(self) -> list[dict]:
        return [self.event("function_call_arguments.done", name=self.tool.name, arguments=self.text)]


class CalledCustom(Called):
    """A call of a custom tool. Its text is inside a JSON string, which is read when it is whole."""

    kind, prefix = "custom_tool_call", "ctc"

    def item(self, status: str) -> dict[str, Any]:
        return self.head() | {"input": text_of_input(self.text) if self.text else "", "status": status}

    def add(self, event) -> list[dict]:
        self.pieces.append(event.text)
        return []

    def end(self) -> list[dict]:
        text = text_of_input(self.text) if self.text else ""
        delta = [self.event("custom_tool_call_input.delta", delta=text)] if text else []
        return [*delta, self.event("custom_tool_call_input.done", input=text)]
