"""`smelt run`: one answer, the text on standard output, everything else on standard error."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.events import Event, Failed, Finished, Progress, Reasoning, Text
from ..engine.options import Options
from ..engine.request import Request
from .flags import Refused
from .terminal import Bar, size

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
BUILT_IN = "Using the small model that ships inside Smelt. A real one: smelt run mlx-community/Qwen3-0.6B-4bit 'Hello'"
LONG_PREFILL = 2048  # tokens from which reading a prompt gets a bar
POLL_S = 0.1  # Ctrl-C is only seen between waits


@dataclass(frozen=True, slots=True)
class RunSettings:
    system: str | None = None
    stream: bool = True
    enable_thinking: bool | None = None


def model_and_prompt(
    values: Mapping[str, Any], words: list[str], default: str | None = None
) -> tuple[str | None, str]:
    """The first word is the model if it looks like one and --model is not given; the others are the prompt."""
    model, prompt = values.get("model"), values.get("prompt")
    alone = prompt is not None and len(words) == 1  # beside --prompt, a word can only be the model
    if model is None and words and (alone or names_a_model(words[0], values.get("model_dir", ()))):
        model, words = words[0], words[1:]
    if prompt is not None and words:
        raise Refused(f"a prompt was given twice: --prompt {prompt!r} and {' '.join(words)!r}")
    prompt = prompt or " ".join(words) or default
    return model, read_prompt(model) if prompt in (None, "-") else prompt


def read_prompt(model: str | None) -> str:
    text = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if not text:
        named = f" {model}" if model else ""
        raise Refused(f"there is no prompt: smelt run{named} 'Hello', or smelt chat{named}")
    return text


def names_a_model(word: str, model_dirs: Iterable[str]) -> bool:
    if any(character.isspace() for character in word):
        return False
    if REPO_ID.fullmatch(word) or Path(word).expanduser().is_dir():
        return True
    from ..models.source import installed

    return any(
        word.lower() in (found.name.lower(), found.name.lower().split("/")[-1]) for found in installed(model_dirs)
    )


def run(options: Options, prompt: str, settings: RunSettings, make: Callable) -> int:
    if options.model is None:
        print(BUILT_IN, file=sys.stderr)
    system = [{"role": "system", "content": settings.system}] if settings.system else []
    thinking = {} if settings.enable_thinking is None else {"enable_thinking": settings.enable_thinking}
    request = Request(messages=[*system, {"role": "user", "content": prompt}], template_kwargs=thinking)
    service = loaded(options, make)
    try:
        answer = Answer(stream=settings.stream)
        last = answer.show(service.submit(request))
        print(statistics(last, service.memory()), file=sys.stderr)
    finally:
        service.close()
    return 0


def loaded(options: Options, make: Callable):
    """A service that is ready, with a bar while it gets there."""
    service = make(options, progress=Bar.on_terminal())
    service.start()
    try:
        while True:
            try:
                service.wait_ready(POLL_S)
                return service
            except TimeoutError:
                continue
    except BaseException:
        service.close()
        raise


class Answer:
    """Writes an answer as it comes. Thinking is dimmed on a terminal and left out of a pipe."""

    def __init__(self, stream: bool = True, out=None):
        self.out = out or sys.stdout
        self.stream, self.parts = stream, []
        self.colours = self.out.isatty() and "NO_COLOR" not in os.environ
        self.bar = Bar.on_terminal()
        self.thinking = False

    def show(self, events) -> Finished:
        """Until it is finished; `events` is the service's stream, which is cancelled if this is interrupted."""
        try:
            for event in polled(events):
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    self.finish()
                    return event
                self.one(event)
        finally:
            events.cancel()
        raise AssertionError("the stream ended without Finished")

    def one(self, event: Event) -> None:
        if isinstance(event, Progress) and self.bar and event.total >= LONG_PREFILL:
            self.bar("reading the prompt", event.done, event.total)
        elif isinstance(event, Reasoning) and self.colours:
            self.write(event.text if self.thinking else "\x1b[2m" + event.text)
            self.thinking = True
        elif isinstance(event, Text):
            self.parts.append(event.text)
            if self.stream:
                self.end_thinking()
                self.write(event.text)

    def end_thinking(self) -> None:
        if self.thinking:
            self.write("\x1b[0m\n\n")
            self.thinking = False

    def finish(self) -> None:
        self.end_thinking()
        self.write("\n" if self.stream else self.text + "\n")

    def write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    @property
    def text(self) -> str:
        return "".join(self.parts)


def polled(stream) -> Iterable[Event]:
    """Events, waking often enough for Ctrl-C: a wait without end on a queue cannot be interrupted everywhere."""
    while True:
        event = stream.next(POLL_S)
        if event is not None:
            yield event


def statistics(last: Finished, memory: Mapping[str, int]) -> str:
    used, timed = last.usage, last.timings
    read = used.prompt_tokens - used.cached_tokens
    cached = f" ({used.cached_tokens} cached)" if used.cached_tokens else ""
    parts = [
        f"prompt {used.prompt_tokens} tokens{cached}, {rate(read, timed.prefill_s)}",
        f"decode {used.completion_tokens} tokens, {rate(used.completion_tokens, timed.decode_s)}",
        f"peak memory {size(memory['peak_bytes'])}",
    ]
    return " | ".join(parts) + (
        " | stopped by --max-tokens, --ctx-size or --timeout" if last.reason == "length" else ""
    )


def rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tok/s" if seconds else "- tok/s"
