"""Whose turn it is to compute: the engines of several models take turns, in the order in which they ask.

Every model has a thread of its own, so that reading the weights of one never holds up the answers of another, and what
MLX keeps by thread is one model's. They compute one at a time all the same. They would only slow each other down (one
device, one interpreter), which kernels run is known to the process and not to the thread (kernels/launch.py), and
turns bound how long a stream waits for another model: a few ticks, of which one that reads a prompt is short while
anyone streams. The device is not idle in between: a tick leaves a step behind that was submitted and not waited for.
"""

import threading
from collections import deque


class Turns:
    """A lock that is handed on first come, first served: `with turns: ...`. Not reentrant."""

    def __init__(self):
        self.guard = threading.Lock()
        self.taken = False
        self.waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self.guard:
            if not self.taken:
                self.taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self.waiting.append(mine)
        mine.acquire()  # opened by whoever hands the turn on

    def __exit__(self, *error) -> None:
        with self.guard:
            if self.waiting:
                self.waiting.popleft().release()
            else:
                self.taken = False

    @property
    def wanted(self) -> bool:
        """Does anyone wait for it?"""
        return bool(self.waiting)

    def pass_on(self) -> None:
        """Inside: let those that wait have their turn in the middle of long work."""
        self.__exit__()
        self.__enter__()


TURNS = Turns()  # the process has one device
