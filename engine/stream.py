"""Token ids become text and events, on the thread of whoever asked."""

import time
from collections import deque
from collections.abc import Iterator, Sequence as Seq
from queue import Empty, SimpleQueue

from .detokenizer import Detokenizer
from .events import Event, Failed, Finished, Progress, Started, Text, Timings, TokenLogprob, Usage
from .sequence import Done, Lost, Prefilled, Sequence, Token
from .stops import StopMatcher
from .tokenizer import Tokenizer


class Choice:
    """One completion's text: ids are joined to characters, and held back where a stop string may have begun."""

    def __init__(self, index: int, sequence: Sequence, tokenizer: Tokenizer, stop: Seq[str]):
        self.index, self.sequence, self.tokenizer = index, sequence, tokenizer
        self.detokenizer = Detokenizer(tokenizer)
        self.stops = StopMatcher(stop)
        self.completion = 0
        self.fed = self.sent = 0  # characters decoded, and handed out
        self.logprobs: deque[tuple[int, int, TokenLogprob]] = deque()  # (begin, end) of their text, not handed out yet
        self.ended = False

    def take(self, item) -> Iterator[Event]:
        """What the engine said -> events. Nothing follows the end."""
        if self.ended:
            return
        if isinstance(item, Token):
            self.completion += 1
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
        yield from self._emit(emitted, last=matched is not None)
        if matched is not None:
            self.sequence.cancelled = True
            yield self._finished("stop", matched)

    def _emit(self, text: str, last: bool = False) -> Iterator[Event]:
        self.sent += len(text)
        ready = []
        while self.logprobs and (self.logprobs[0][1] <= self.sent or last and self.logprobs[0][0] < self.sent):
            ready.append(self.logprobs.popleft()[2])
        if text or ready:
            yield Text(text, self.index, tuple(ready))

    def _finish(self, done: Done) -> Iterator[Event]:
        yield from self._text(self.detokenizer.finish(), None)
        if not self.ended:
            yield from self._emit(self.stops.finish(), last=True)
            yield self._finished(done.reason, None, done)

    def _finished(self, reason: str, stop: str | None, done: Done | None = None) -> Finished:
        self.ended = True
        s, now = self.sequence, time.monotonic()
        timings = (
            Timings(done.queue_s, done.prefill_s, done.decode_s)
            if done
            else Timings(s.started - s.arrived, s.decoding - s.started, now - s.decoding)
        )
        return Finished(reason, Usage(len(s.prompt), self.completion), timings, self.index, stop)

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
