"""From a conversation to the prompt, by the checkpoint's own chat template.

A conversation is first made what templates expect (`chat_messages`), then rendered as it is; where the template refuses
it or loses a part of it, the changes of `chat_adapt` are tried. Out comes a prompt, or a BadRequest that says why.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import chat_adapt, chat_formats, chat_jinja, chat_messages
from .chat_files import read_templates
from .errors import BadRequest
from .parse.reasoning import FAMILIES
from .tokenizer import Tokenizer
from .tokenizer_files import TokenizerError, read_object

Message = dict[str, Any]

# Stands at the end of a message that the model is to continue, with a space after it that shows whether the template
# trims: as Hugging Face does it.
MARK = "CONTINUE_FINAL_MESSAGE_HERE"
RESERVED = ("messages", "tools", "add_generation_prompt", "continue_final")  # no names for a request's own variables


class ChatTemplate:
    """The templates of one checkpoint.

    templates  name -> source; the main one is "default"
    name       "default", or the name of Smelt's own format where the checkpoint has none; None where none fits
    builtin    it is Smelt's own
    source     of the main template
    """

    def __init__(self, templates: Mapping[str, str], tokens: Mapping[str, str], *, builtin: str | None = None):
        self.templates, self.tokens, self.builtin = dict(templates), dict(tokens), builtin is not None
        main = "default" if "default" in self.templates else next(iter(self.templates), None)
        self.name = builtin or main
        self.source = "" if main is None else self.templates[main]
        for name, source in self.templates.items():
            check(name, source)

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> "ChatTemplate":
        """The checkpoint's templates, else the built-in format for its vocabulary, else none: then `render` fails."""
        tokens = named_tokens(tokenizer)
        templates = read_templates(folder)
        if templates:
            return cls(templates, tokens)
        model_type = read_object(folder / "config.json").get("model_type")
        found = chat_formats.choose(tokenizer.id_of, model_type if isinstance(model_type, str) else "")
        return cls({"default": found[1]}, tokens, builtin=found[0]) if found else cls({}, tokens)

    # What it can do

    @property
    def tool_source(self) -> str:
        """The template of conversations with tools: what tells the format that calls are written in."""
        return self.templates.get("tool_use", self.source)

    @property
    def supports_tools(self) -> bool:
        """The template itself writes tools; otherwise the system message tells of them."""
        return any(chat_jinja.abilities(source).tools for source in self.templates.values())

    @property
    def supports_reasoning(self) -> bool:
        return any(chat_jinja.abilities(source).thinking for source in self.templates.values())

    @property
    def takes_effort(self) -> bool:
        """The template tells the model of the variable `reasoning_effort`."""
        return any(chat_jinja.abilities(source).effort for source in self.templates.values())

    # Rendering

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt. `kwargs` are further variables of the template (enable_thinking, documents, ...)."""
        given, catalogue = chat_messages.normalise(messages), chat_messages.tools(tools)
        if "messages" in kwargs:
            raise BadRequest("the template variable messages is the conversation itself; give another name", "messages")
        variables = {name: chat_messages.plain(name, value) for name, value in kwargs.items()}
        source = self.choose(given, catalogue, variables)
        known = chat_jinja.abilities(source)
        given, catalogue = chat_adapt.as_text(given, catalogue, known)
        if continue_final:
            given = marked(given)
        variables = {
            **self.tokens,
            "documents": None,
            **variables,
            "tools": catalogue or None,
            "add_generation_prompt": add_generation_prompt and not continue_final,
        }
        prompt = best(source, given, variables)
        return cut_at_mark(prompt) if continue_final else prompt

    def choose(self, messages: Iterable[Message], tools: Sequence[Any], variables: Mapping[str, Any]) -> str:
        """Of several templates, the one for conversations with tools or documents."""
        if not self.templates:
            raise BadRequest(
                "this model has no chat template, and its vocabulary fits none of the built-in formats"
                f" ({', '.join(name for name, *_ in chat_formats.FORMATS)}): use completions with a plain prompt",
                "messages",
            )
        if tools or any(message["role"] == "tool" or "tool_calls" in message for message in messages):
            if "tool_use" in self.templates:
                return self.templates["tool_use"]
        if variables.get("documents") and "rag" in self.templates:
            return self.templates["rag"]
        return self.source


def named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    found = dict(tokenizer.known.named)
    for name, text in (("bos_token", tokenizer.bos_token), ("eos_token", tokenizer.eos_token)):
        if text:
            found.setdefault(name, text)
    return found


def check(name: str, source: str) -> None:
    """A template that is no Jinja is the checkpoint's fault, and found when it is loaded."""
    from jinja2.exceptions import TemplateError

    try:
        chat_jinja.compiled(source)
    except (TemplateError, RecursionError) as error:
        raise TokenizerError(f"the chat template {name!r} cannot be read: {error}") from None


def best(source: str, messages: list[Message], variables: Mapping[str, Any]) -> str:
    """The first attempt that renders and keeps all that the system and the user said; else the first that renders."""
    reasons: list[str] = []
    rendered: list[str] = []
    for attempt, further in attempts(messages, variables):
        try:
            prompt = chat_jinja.render(source, {**further, "messages": attempt})
        except Exception as error:  # foreign code: anything can be raised
            reasons.append(why(error))
            continue
        if keeps(prompt, messages):
            return prompt
        rendered.append(prompt)
    if rendered:
        return rendered[0]
    raise BadRequest(f"the model's chat template refuses this conversation: {reasons[0]}", "messages")


def attempts(
    messages: list[Message], variables: Mapping[str, Any]
) -> Iterator[tuple[list[Message], Mapping[str, Any]]]:
    tried: list[list[Message]] = []
    for change in chat_adapt.ATTEMPTS:
        attempt = change(messages)
        if attempt not in tried:
            tried.append(attempt)
            yield attempt, variables
    if variables["tools"]:
        yield messages, {**variables, "tools": chat_messages.completed(variables["tools"])}


def why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    text = str(error).strip()
    return text if text else type(error).__name__


def keeps(prompt: str, messages: list[Message]) -> bool:
    """Templates drop what they have no place for without a word. Texts are looked for in order, then anywhere."""
    at = 0
    for message in messages:
        text = message["content"].strip() if message["role"] in ("system", "user") else ""
        found = prompt.find(text, at)
        if found < 0 and text not in prompt:
            return False
        at = max(at, found)
    return True


def marked(messages: list[Message]) -> list[Message]:
    last = messages[-1]
    if last["role"] != "assistant" or "tool_calls" in last:
        what = "calls tools" if "tool_calls" in last else f"is of the role {last['role']!r}"
        raise BadRequest(f"the last message {what}; only an assistant's text can be continued", "messages")
    return [*messages[:-1], last | {"content": last["content"] + MARK + " "}]


def cut_at_mark(prompt: str) -> str:
    at = prompt.rfind(MARK)
    if at < 0:
        raise BadRequest("the model's chat template drops the last message, so it cannot be continued", "messages")
    return prompt[:at] if prompt.startswith(MARK + " ", at) else prompt[:at].rstrip()


def ends_in_reasoning(prompt: str) -> bool:
    return any(tags.end_open(prompt) for tags in FAMILIES)
