"""What a terminal shows while it waits. Nothing of it is written where standard error is not a terminal.

A bar of our own, 30 lines: tqdm takes 20 ms to import and is only there because huggingface-hub needs it.
"""

import sys
import threading
import time

CLEAR = "\r\x1b[K"
EVERY_S = 0.05


class Bar:
    """One line that redraws itself: what, how far, how long. Called from any thread."""

    WIDTH = 24

    def __init__(self, out=sys.stderr):
        self.out, self.lock = out, threading.Lock()
        self.began = self.drawn = 0.0
        self.what: str | None = None

    @classmethod
    def on_terminal(cls, out=None) -> "Bar | None":
        out = out or sys.stderr
        return cls(out) if out.isatty() else None

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        with self.lock:
            if what != self.what:
                self.what, self.began, self.drawn = what, now, 0.0
            if done >= total:
                self.wipe()
            elif now - self.drawn >= EVERY_S:
                self.drawn = now
                self.out.write(CLEAR + self.line(done / total if total else 0.0, now - self.began))
                self.out.flush()

    def line(self, share: float, seconds: float) -> str:
        full = round(share * self.WIDTH)
        return f"{self.what} [{'#' * full}{'.' * (self.WIDTH - full)}] {share:4.0%} {seconds:.0f} s"

    def wipe(self) -> None:
        if self.drawn:
            self.out.write(CLEAR)
            self.out.flush()
        self.what, self.drawn = None, 0.0


def size(count: float) -> str:
    """Bytes as people read them, in the decimal units of disks and of macOS."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.2f} {unit}"


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their longest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
