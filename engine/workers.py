"""Threads for engines, used again: MLX keeps a stream for every thread that ever computed, and on the CPU a thread of
the system with it, until the process ends. A model that is loaded when another was unloaded takes over its thread.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger(__name__)


class Job:
    """A function that runs on one of the threads; what `threading.Thread` says of itself, this says of the function."""

    def __init__(self, function: Callable[[], None]):
        self.function: Callable[[], None] | None = function
        self.started, self.done = False, threading.Event()
        self.ident: int | None = None

    def start(self) -> None:
        self.started = True
        WORKERS.give(self)

    def is_alive(self) -> bool:
        return self.started and not self.done.is_set()

    def join(self, timeout: float | None = None) -> None:
        self.done.wait(timeout)


class Workers:
    def __init__(self):
        self.lock = threading.Lock()
        self.idle: list[SimpleQueue[Job]] = []

    def give(self, job: Job) -> None:
        with self.lock:
            inbox = self.idle.pop() if self.idle else self.hire()
        inbox.put(job)

    def hire(self) -> "SimpleQueue[Job]":
        inbox: SimpleQueue[Job] = SimpleQueue()
        threading.Thread(target=self.work, args=(inbox,), name="engine", daemon=True).start()
        return inbox

    def work(self, inbox: "SimpleQueue[Job]") -> None:
        while True:
            job = inbox.get()
            job.ident = threading.get_ident()
            try:
                job.function()
            except Exception:
                log.exception("an engine's thread failed")
            job.function = None  # what it held is not held by who still asks whether it is alive
            with self.lock:
                self.idle.append(inbox)
            job.done.set()
            del job


WORKERS = Workers()
