"""`smelt chat`: many turns in the terminal. Ctrl-C stops an answer, not the program."""

import sys
from collections.abc import Callable
from typing import Any

from ..engine.errors import RequestError
from ..engine.options import Options
from ..engine.request import Request
from .run import BUILT_IN, Answer, loaded

HELP = """/clear          forget the conversation
/system [TEXT]  set the system message, or show it
/help           this
/exit           leave (also Ctrl-D)
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer."""


class Leave(Exception):
    pass


class Conversation:
    """What was said, and what the next request is made of."""

    def __init__(self, system: str | None, enable_thinking: bool | None):
        self.system, self.turns = system, []
        self.template_kwargs = {} if enable_thinking is None else {"enable_thinking": enable_thinking}

    def request(self) -> Request:
        head = [{"role": "system", "content": self.system}] if self.system else []
        return Request(messages=[*head, *self.turns], template_kwargs=self.template_kwargs)

    def add(self, role: str, text: str) -> None:
        self.turns.append({"role": role, "content": text})

    def command(self, line: str) -> str:
        """What a /command answers."""
        name, _, text = line[1:].partition(" ")
        if name in ("exit", "quit", "bye"):
            raise Leave
        if name == "clear":
            self.turns.clear()
            return "The conversation is forgotten."
        if name == "system":
            self.system = text.strip() or self.system
            return f"System message: {self.system or '(none)'}"
        return HELP if name == "help" else f"/{name} is not a command.\n{HELP}"


def chat(options: Options, system: str | None, enable_thinking: bool | None, make: Callable, read=None) -> int:
    read = read or reader()
    if options.model is None:
        print(BUILT_IN.replace("run", "chat").replace(" 'Hello'", ""), file=sys.stderr)
    service = loaded(options, make)
    try:
        print(f"{service.name}. /help lists the commands.", file=sys.stderr)
        talk(service, Conversation(system, enable_thinking), read)
    finally:
        service.close()
    return 0


def talk(service, conversation: Conversation, read: Callable[[str], str]) -> None:
    while True:
        try:
            line = whole_line(read).strip()
            if line.startswith("/"):
                print(conversation.command(line), file=sys.stderr)
            elif line:
                turn(service, conversation, line)
        except KeyboardInterrupt:  # at the prompt: drop the line
            print(file=sys.stderr)
        except (EOFError, Leave):
            print(file=sys.stderr)
            return


def whole_line(read: Callable[[str], str]) -> str:
    line = read("> ")
    while line.endswith("\\"):
        line = line[:-1] + "\n" + read(". ")
    return line


def turn(service, conversation: Conversation, line: str) -> None:
    """One question and its answer. What was said before an interruption stays said."""
    conversation.add("user", line)
    answer = Answer()
    try:
        answer.show(service.submit(conversation.request()))
    except KeyboardInterrupt:
        answer.finish()
    except RequestError as error:
        print(f"smelt: {error}", file=sys.stderr)
    if answer.text:
        conversation.add("assistant", answer.text)
    else:
        conversation.turns.pop()  # unanswered: two questions in a row confuse templates


def reader() -> Callable[[str], Any]:
    """input(), with line editing and a history where this Python has them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        pass
    return input
