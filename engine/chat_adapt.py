"""Conversations for templates that do not take them as they are.

Two kinds: what a template does not know (tools, tool results) is written as text, always; what a template may refuse
(the order of roles, a system message in the middle, foreign call ids) is tried in `ATTEMPTS`, mildest first.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .chat_jinja import Abilities

Message = dict[str, Any]
Change = Callable[[list[Message]], list[Message]]

# The wording that Hermes and Qwen models were trained on; models that were not follow it best.
CATALOGUE = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def as_text(messages: list[Message], tools: list[Message], known: Abilities) -> tuple[list[Message], list[Message]]:
    """What the template does not know, as text: the catalogue, past calls, their results."""
    if not known.calls:
        messages = [written_calls(message) for message in messages]
    if not known.results:
        messages = list(written_results(messages))
    if tools and not known.tools:
        catalogue = CATALOGUE.format(tools="\n".join(map(dumps, tools)))
        return with_system(messages, catalogue), []
    return messages, tools


def written_calls(message: Message) -> Message:
    calls = [f"<tool_call>\n{dumps(call['function'])}\n</tool_call>" for call in message.get("tool_calls", ())]
    if not calls:
        return message
    text = "\n".join(filter(None, [message["content"], *calls]))
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": text}


def written_results(messages: Iterable[Message]) -> Iterator[Message]:
    """Results in one run are one user turn."""
    run: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            run.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if run:
            yield {"role": "user", "content": "\n".join(run)}
            run = []
        yield message
    if run:
        yield {"role": "user", "content": "\n".join(run)}


def with_system(messages: list[Message], text: str) -> list[Message]:
    """The text at the end of the first system message."""
    if messages and messages[0]["role"] == "system":
        return [joined(messages[0], {"role": "system", "content": text}), *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def joined(first: Message, second: Message) -> Message:
    """Two messages of one role as one: texts apart by an empty line, calls and reasoning in their order."""
    made = {**second, **first}
    for key, between in (("content", "\n\n"), ("reasoning_content", "\n"), ("thinking", "\n")):
        texts = [message[key] for message in (first, second) if message.get(key)]
        if texts or key in made:
            made[key] = between.join(texts)
    calls = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    return made | ({"tool_calls": calls} if calls else {})


def merged(messages: list[Message]) -> list[Message]:
    """Consecutive messages of one role are one; results stay apart, each answers a call."""
    made: list[Message] = []
    for message in messages:
        if made and made[-1]["role"] == message["role"] != "tool":
            made[-1] = joined(made[-1], message)
        else:
            made.append(message)
    return made


def later_system_to_user(messages: list[Message]) -> list[Message]:
    """Later system messages open the following user turn. The prompt before them stays, and so do prefix caches."""
    begin = leading(messages)
    rest = [message | {"role": "user"} if message["role"] == "system" else message for message in messages[begin:]]
    return [*messages[:begin], *rest]


def later_system_to_first(messages: list[Message]) -> list[Message]:
    begin = leading(messages)
    moved = [message["content"] for message in messages[begin:] if message["role"] == "system"]
    if not moved:
        return messages
    rest = [message for message in messages[begin:] if message["role"] != "system"]
    return [*with_system(merged(messages[:begin]), "\n\n".join(moved)), *rest]


def system_to_user(messages: list[Message]) -> list[Message]:
    """For templates without a system role: all of it opens the user turn that follows."""
    return [message | {"role": "user"} if message["role"] == "system" else message for message in messages]


def leading(messages: list[Message]) -> int:
    """How many system messages the conversation begins with."""
    return next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))


def short_ids(messages: list[Message]) -> list[Message]:
    """Ids of nine letters and digits, as Mistral's templates demand them; every result names its call's."""
    made, waiting = [], []
    for index, message in enumerate(messages):
        calls = [
            call | {"id": short_id(call.get("id") or f"{index}.{at}")}
            for at, call in enumerate(message.get("tool_calls", ()))
        ]
        if calls:
            waiting = [call["id"] for call in calls]
            message = message | {"tool_calls": calls}
        if message["role"] == "tool":
            named = message.get("tool_call_id")
            ident = short_id(named) if isinstance(named, str) else next(iter(waiting), short_id(str(index)))
            waiting = [other for other in waiting if other != ident]
            message = message | {"tool_call_id": ident}
        made.append(message)
    return made


def short_id(ident: str) -> str:
    if len(ident) == 9 and ident.isascii() and ident.isalnum():
        return ident
    return hashlib.sha256(ident.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def in_parts(messages: list[Message]) -> list[Message]:
    """Content as a list, the only form that some templates of models that see can read."""
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]


def chain(*changes: Change) -> Change:
    def change(messages: list[Message]) -> list[Message]:
        for step in changes:
            messages = step(messages)
        return messages

    return change


MILD: tuple[Change, ...] = (
    list,
    short_ids,
    chain(short_ids, merged),
    chain(short_ids, later_system_to_user, merged),
    chain(short_ids, later_system_to_first, merged),
    chain(short_ids, system_to_user, merged),
)
ATTEMPTS: tuple[Change, ...] = (*MILD, *(chain(change, in_parts) for change in MILD))
