"""Token ids become text and events, on the thread of whoever asked."""

import secrets
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from queue import Empty, SimpleQueue

from . import parse
from .detokenizer import Detokenizer
from .events import (
    Event,
    Failed,
    Finished,
    Progress,
    Reasoning,
    Started,
    Text,
    Timings,
    TokenLogprob,
    ToolArguments,
    ToolClosed,
    ToolOpened,
    Usage,
)
from .reasoning import ReasoningState
from .sequence import Done, Lost, Prefilled, Sequence, Token
from .stops import StopMatcher
from .tokenizer import Tokenizer


class Choice:
    """One completion's text: ids are joined to characters, held back where a stop string may have begun, and split
    into reasoning, answer and tool calls where a parser is given; without one, all of it is text.

    keep        special tokens that the parser has to see
    reasoning   counts the tokens of reasoning, where the model has any
    template_s  what it took to make the prompt
    """

    def __init__(
        self,
        index: int,
        sequence: Sequence,
        tokenizer: Tokenizer,
        stop: Seq[str],
        parser: parse.Parser | None = None,
        keep: frozenset[int] = frozenset(),
        reasoning: ReasoningState | None = None,
        template_s: float = 0.0,
    ):
        self.index, self.sequence, self.tokenizer, self.parser = index, sequence, tokenizer, parser
        self.template_s = template_s
        self.detokenizer = Detokenizer(tokenizer, keep=keep)
        self.stops = StopMatcher(stop)
        self.reasoning = reasoning
        self.completion = 0  # tokens
        self.called = False
        self.fed = self.sent = self.told = 0  # characters decoded, past the stop strings, up to the end of the last Text
        self.logprobs: deque[tuple[int, int, TokenLogprob]] = deque()  # (begin, end) of their text, not told yet
        self.ended = False

    def take(self, item) -> Iterator[Event]:
        """What the engine said -> events. Nothing follows the end."""
        if self.ended:
            return
        if isinstance(item, Token):
            self.completion += 1
            if self.reasoning is not None:
                self.reasoning.take(item.id)
            yield from self._text(self.detokenizer.add(item.id), item)
        elif isinstance(item, Prefilled):
            yield Progress(item.done, item.total, item.ahead)
        elif isinstance(item, Done):
            yield from self._finish(item)
        elif isinstance(item, Lost):
            self.ended = True
            yield Failed(item.error, self.index)

    def _text(self, text: str, token: Token | None) -> Iterator[Event]:
        begin, self.fed = self.fed, self.fed + len(text)
        if token is not None and token.logprob is not None:
            self.logprobs.append((begin, self.fed, self._logprob(token)))
        emitted, matched = self.stops.feed(text)
        yield from self._split(emitted)
        if matched is not None:
            self.sequence.cancelled = True
            yield from self._close()
            yield self._finished("stop", matched)

    def _split(self, text: str) -> Iterator[Event]:
        begin, self.sent = self.sent, self.sent + len(text)
        if self.parser is not None:
            yield from self._pieces(self.parser.feed(text))
        elif text:
            yield self._event(parse.Text(text, ((begin, self.sent),)))

    def _pieces(self, pieces: list[parse.Piece]) -> Iterator[Event]:
        return map(self._event, pieces)

    def _event(self, piece: parse.Piece) -> Event:
        if isinstance(piece, parse.Reasoning):
            return Reasoning(piece.text, self.index)
        if isinstance(piece, parse.ToolOpened):
            self.called = True
            return ToolOpened(piece.call, f"call_{secrets.token_hex(12)}", piece.name, self.index)
        if isinstance(piece, parse.ToolArguments):
            return ToolArguments(piece.call, piece.text, self.index)
        if isinstance(piece, parse.ToolClosed):
            return ToolClosed(piece.call, self.index)
        self.told = piece.spans[-1][1]
        return Text(piece.text, self.index, tuple(score for span in piece.spans for score in self._scores(*span)))

    def _scores(self, begin: int, end: int) -> Iterator[TokenLogprob]:
        """Of the tokens that the text from `begin` to `end` came from; what came before it was no text.

        A token without characters of its own (a part of one, or hidden) goes with what follows it.
        """
        silent: list[TokenLogprob] = []
        while self.logprobs and self.logprobs[0][0] < end:
            first, last, score = self.logprobs.popleft()
            silent.append(score)
            if last > first:
                yield from silent if last > begin else ()
                silent = []
        yield from silent  # the detokenizer gave their characters at the end, without a token

    def _close(self) -> Iterator[Event]:
        """What the parser still held, and the logprobs of tokens after all text that have none of their own."""
        yield from self._pieces(self.parser.finish() if self.parser else [])
        silent = tuple(score for first, _, score in self.logprobs if first == self.told == self.fed)
        if silent:
            yield Text("", self.index, silent)

    def _finish(self, done: Done) -> Iterator[Event]:
        yield from self._text(self.detokenizer.finish(), None)
        if self.ended:
            return
        yield from self._split(self.stops.finish())
        yield from self._close()
        yield self._finished("tool_calls" if self.called and done.reason == "stop" else done.reason, None, done)

    def _finished(self, reason: str, stop: str | None, done: Done | None = None) -> Finished:
        self.ended = True
        s, now = self.sequence, time.monotonic()
        spent = done[1:] if done else (s.started - s.arrived, s.decoding - s.started, now - s.decoding)
        timings = Timings(*spent, self.template_s, replace(s.paths))
        thought = 0 if self.reasoning is None else self.reasoning.count
        usage = Usage(len(s.prompt), self.completion, s.cached, thought, **self._predicted(), kept_tokens=s.kept)
        return Finished(reason, usage, timings, self.index, stop)

    def _predicted(self) -> dict[str, int]:
        """Tokens drafted from the request's prediction, where it came with one."""
        paths, speculation = self.sequence.paths, self.sequence.speculation
        if speculation is None or not speculation.predicted:
            return {}
        missed = paths.drafted - paths.accepted
        return {"accepted_prediction_tokens": paths.accepted, "rejected_prediction_tokens": missed}

    def _logprob(self, token: Token) -> TokenLogprob:
        top = tuple(self._named(id, logprob) for id, logprob in token.top)
        return self._named(token.id, token.logprob, top)

    def _named(self, id: int, logprob: float, top=()) -> TokenLogprob:
        raw = self.tokenizer.token_bytes(id)
        return TokenLogprob(id, raw.decode("utf-8", "replace"), raw, logprob, top)


class Stream:
    """Events of all choices of one request, in the order they come."""

    def __init__(self, engine, queue: SimpleQueue, choices: list[Choice]):
        self.engine, self.queue, self.choices = engine, queue, choices
        self.events: deque[Event] = deque([Started(len(choices[0].sequence.prompt))])
        self.failed = False

    @property
    def ended(self) -> bool:
        return self.failed or all(choice.ended for choice in self.choices)

    def next(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within the timeout, or when all is said."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.events and not self.ended:
            try:
                index, item = self.queue.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except Empty:
                return None
            self.events.extend(self.choices[index].take(item))
        event = self.events.popleft() if self.events else None
        self.failed = self.failed or isinstance(event, Failed)
        return event

    def __iter__(self) -> Iterator[Event]:
        while (event := self.next()) is not None:
            yield event

    def cancel(self) -> None:
        """Stop computing what nobody will read. Idempotent, callable from any thread."""
        running = [choice.sequence for choice in self.choices if not choice.sequence.finished]
        for sequence in running:
            sequence.cancelled = True
        if running:
            self.engine.wake()
