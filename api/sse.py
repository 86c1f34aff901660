"""Events to the bytes of a server-sent event stream, while watching the client."""

import time
from collections.abc import Callable, Iterator

from ..engine.events import Event, Failed
from .settings import Settings

MOST_AT_ONCE = 64  # events joined to one write when they are there already; bounds the size of a write


class SseBody:
    """The bytes of a streamed answer, as WSGI wants them. Closing it, finished or not, ends the generation.

    A class and not a generator: `close` on a generator that was never started does not run its `finally`, and the
    server closes a body unstarted when the client left before the first byte.
    """

    def __init__(self, running, renderer, gone: Callable[[], bool], settings: Settings):
        self.running, self.renderer, self.gone = running, renderer, gone
        self.poll_s, self.keep_alive_s = settings.poll_s, settings.keep_alive_s
        self.frames = self.write()

    def __iter__(self) -> "SseBody":
        return self

    def __next__(self) -> bytes:
        return next(self.frames)

    def close(self) -> None:
        self.frames.close()
        self.running.close()

    def write(self) -> Iterator[bytes]:
        try:
            yield from self.answer()
        except Exception as error:  # a fault of ours in mid-stream: the status is sent, so the stream has to say it
            yield self.render(Failed(error))
            yield self.renderer.end

    def answer(self) -> Iterator[bytes]:
        written_at = time.monotonic()
        while not self.running.over:
            data = b"".join(self.render(event) for event in self.batch())
            if not data and time.monotonic() - written_at >= self.keep_alive_s:
                data = self.renderer.ping
            if data:
                yield data
                written_at = time.monotonic()
            elif self.gone():
                return
        yield self.renderer.end

    def batch(self) -> Iterator[Event]:
        """What has come: at least one event if one comes in time, and those that are there already."""
        wait_s = self.poll_s
        for _ in range(MOST_AT_ONCE):
            event = self.running.next(wait_s)
            if event is None:
                return
            yield event
            if self.running.over:
                return
            wait_s = 0.0

    def render(self, event: Event) -> bytes:
        return b"".join(self.renderer.frame(chunk) for chunk in self.renderer.render(event))
