"""The one thread that touches mlx for a model: it loads it, runs the scheduler's ticks, and outlives what goes wrong.

Engines of several models compute in turns (engine/turns.py); only weights are read at any time. Other threads talk to
one through `submit`, `call` and flags; they get tuples of engine/sequence.py through each sequence's own queue.
"""

import atexit
import gc
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .errors import EngineFailed, NotReady
from .turns import TURNS
from .workers import Job

if TYPE_CHECKING:
    from .embedding import Embedding
    from .scheduler import Limits, Scheduler
    from .sequence import Sequence

log = logging.getLogger(__name__)

SLICE_S = 0.03  # a turn lasts so long, or a tick, while another model wants one
STALLED_S = 0.01  # how often an engine that waits for another model's memory looks for it
FAILURES, WITHIN_S = 5, 60.0  # so many failed ticks within so long: the device or the model is broken, give up


class Engine:
    """`load()` returns (model, Limits); it runs on the engine's thread.

    state: "loading", then "ready"; "failed" with `error` when loading or, repeatedly, stepping raised; "closed".
    """

    def __init__(self, load: Callable[[], "tuple[Any, Limits]"]):
        self.load = load
        self.state, self.error, self.closing = "loading", None, False
        self.ready = threading.Event()  # set when loading is over, however it ended
        self.inbox: SimpleQueue = SimpleQueue()
        self.model: Any = None
        self.limits: Limits | None = None
        self.scheduler: Scheduler | None = None
        self.failures: list[float] = []
        self.embeddings: deque[tuple[Embedding, Iterator[bool]]] = deque()  # what a piece is read of after each tick
        self.thread = Job(self._main)

    # Called on any thread

    def start(self) -> None:
        atexit.register(self.close)  # MLX aborts where a thread still computes when Python ends
        self.thread.start()

    def submit(self, *sequences: "Sequence") -> None:
        """Queue sequences, in order. Raises NotReady or EngineFailed when there is no one to run them."""
        self.post(lambda: [self.scheduler.add(s) for s in sequences])

    def embed(self, embedding: "Embedding") -> None:
        """Queue texts to be made vectors, beside the sequences. Raises as `submit`."""
        self.post(lambda: self.embeddings.append((embedding, embedding.run(self.scheduler))))

    def call(self, function: Callable[[], Any], timeout_s: float | None = None) -> Any:
        """Run `function` on the engine's thread between two ticks and return what it returns."""
        answer: SimpleQueue = SimpleQueue()
        self.post(lambda: answer.put(outcome(function)))
        error, value = answer.get(timeout=timeout_s)
        if error is not None:
            raise error
        return value

    def post(self, job: Callable[[], Any]) -> None:
        """Have the engine's thread do it. What it was still ready for after the post, it does before it ends."""
        self.check()
        self.inbox.put(job)
        self.check()

    def wake(self) -> None:
        """Look at the cancelled flags now, should it sit idle."""
        self.inbox.put(lambda: None)

    def check(self) -> None:
        if self.state == "loading":
            raise NotReady("the model is still loading; try again in a moment")
        if self.state == "closed":
            raise NotReady("the server is shutting down")
        if self.state == "failed" or not self.thread.is_alive():
            raise EngineFailed(f"the engine is not running: {self.error}")

    def close(self) -> None:
        """End what runs with "cancelled" and the thread with it."""
        atexit.unregister(self.close)
        self.closing = True
        if self.state != "failed":
            self.state = "closed"
        self.wake()
        if threading.get_ident() != self.thread.ident and self.thread.is_alive():
            self.thread.join(timeout=30)

    # Called on the engine's thread

    def _main(self) -> None:
        try:
            self._load()
            if self.state == "loading":
                self.state = "ready"
            if self.closing:  # it may have come between the two lines above
                self.state = "closed"
            self.ready.set()
            self._serve()
        except BaseException as error:
            self._give_up(error)
        finally:
            self.ready.set()
            with TURNS:
                self._leave()

    def _load(self) -> None:
        self.model, self.limits = self.load()
        self.scheduler = self._new_scheduler()
        self.limits.share.give_back = lambda: self.inbox.put(self._give_back)

    def _leave(self) -> None:
        """What MLX has on this thread must end before another uses it: steps in flight, traces, the model itself."""
        import mlx.core as mx

        mx.synchronize()
        if self.scheduler is not None:
            self.scheduler.traced.forget()
        self.scheduler = self.model = None
        self._clear_cache()
        if self.limits is not None:
            from . import limits

            limits.left_by(self.limits.share)

    @staticmethod
    def _clear_cache() -> None:
        """Give the memory of what was dropped back to the system, not to MLX's cache."""
        import mlx.core as mx

        gc.collect()  # blocks and their states refer to one another
        mx.clear_cache()

    def _new_scheduler(self) -> "Scheduler":
        from .scheduler import Scheduler  # imports mlx, which a server does not wait for before it listens

        return Scheduler(self.model, self.limits)

    def _serve(self) -> None:
        while self.state == "ready":
            self._take_inbox(self._patience_s())
            with TURNS:
                self._turn()
        self._take_inbox()
        for sequence in self.scheduler.all():
            sequence.finish("cancelled")
        self._fail_embeddings(NotReady("the server is shutting down"))

    def _turn(self) -> None:
        """A tick; where another model waits for its turn, as many as fit in a slice of time: else one with fast steps
        would make as many as one with slow steps.
        """
        until = time.monotonic() + SLICE_S
        while True:
            self._tick()
            time.sleep(0)  # lets readers of the queues have the interpreter before the next graph is built
            going = TURNS.wanted and self.scheduler.busy and self.state == "ready"
            if not going or time.monotonic() >= until:
                return
            self._take_inbox()

    def _tick(self) -> None:
        try:
            self.scheduler.tick()
            self._embed()
        except Exception as error:
            self._recover(error)
        self._note()

    def _note(self) -> None:
        """What it holds, for the other models. Alone it tells when it comes to rest, for those that are loaded then."""
        share = self.limits.share
        if not share.alone or self.scheduler.idle:
            share.note(self.scheduler)

    def _patience_s(self) -> float | None:
        """How long the inbox may be waited at after a tick: for ever, where there is nothing to do."""
        if self.scheduler.idle and not self.embeddings:
            return None
        if self.scheduler.busy or not all(embedding.starved for embedding, _ in self.embeddings):
            return 0
        self._give_back()  # to whoever waits in turn for this one
        self.limits.share.press()  # all that there is to do waits for memory of other models
        return STALLED_S

    def _embed(self) -> None:
        """A piece of the first embedding; the others have their turn when it has no state."""
        if not self.embeddings:
            return
        embedding, pieces = self.embeddings[0]
        if embedding.cancelled:
            pieces.close()
        more = next(pieces, None)
        if more is not True:
            self.embeddings.popleft()
        if more is False:
            self.embeddings.append((embedding, pieces))

    def _fail_embeddings(self, error: Exception) -> None:
        while self.embeddings:
            embedding, pieces = self.embeddings.popleft()
            pieces.close()
            embedding.fail(error)

    def _take_inbox(self, patience_s: float | None = 0) -> None:
        while True:
            try:
                job = self.inbox.get_nowait() if patience_s == 0 else self.inbox.get(timeout=patience_s)
            except Empty:
                return
            job()
            patience_s = 0

    def _give_back(self) -> None:
        """Drop the pools, which another model could use, if no row is in them. Those that wait go on waiting."""
        if not (self.scheduler.busy or self.embeddings) and self.scheduler.memory.nbytes:
            self.model.forget()
            before, self.scheduler = self.scheduler, self._new_scheduler()
            before.traced.forget()
            self.scheduler.waiting, self.scheduler.pace = before.waiting, before.pace
            self._clear_cache()

    def _recover(self, error: Exception) -> None:
        """Answer the requests of a failed tick with an error and start afresh; too many failures are final."""
        log.exception("a step failed; its requests are answered with an error")
        failed = EngineFailed(f"the engine could not compute this: {error}")
        self.scheduler.fail(failed)
        self._fail_embeddings(failed)
        now = time.monotonic()
        self.failures = [t for t in self.failures if now - t < WITHIN_S] + [now]
        if len(self.failures) >= FAILURES:
            raise error
        self.model.forget()
        self.scheduler = self._new_scheduler()

    def _give_up(self, error: BaseException) -> None:
        self.error = error
        if self.state != "closed":
            self.state = "failed"
        traceback.clear_frames(error.__traceback__)  # they hold what was loaded of the model
        if self.scheduler is not None:
            self.scheduler.fail(EngineFailed(f"the engine stopped: {error}"))
        self._drain()

    def _drain(self) -> None:
        """Run what was queued last: it adds sequences, which fail at once."""
        while not self.inbox.empty():
            self.inbox.get()()
        if self.scheduler is not None:
            self.scheduler.fail(EngineFailed(f"the engine stopped: {self.error}"))
        self._fail_embeddings(EngineFailed(f"the engine stopped: {self.error}"))


def outcome(function: Callable[[], Any]) -> tuple[Exception | None, Any]:
    try:
        return None, function()
    except Exception as error:
        return error, None
