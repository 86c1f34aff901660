"""Large files over HTTP, in segments over several connections, resumable across runs.

huggingface-hub (2.4) drops the unfinished part of a file when its process ends, so that an interrupted download of
5 GB shards starts over. Here a file arrives as `<target>.smelt.incomplete`, with its finished segments listed in
`<target>.smelt.done`; it gets its name when it is whole and its SHA-256 is right.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from .source_folder import SourceError

SEGMENT = 16 << 20  # a kill loses at most this much a connection
CONNECTIONS = 8
ATTEMPTS = 6  # in a row without a single new byte
WAIT_S = 1.0
PASSING = {408, 429, 500, 502, 503, 504}


class NoRanges(Exception):
    """The server answers a request for a part with the whole."""


@dataclass(frozen=True)
class Remote:
    """A file to fetch: `size` bytes whose SHA-256 is `sha256`, to be stored at `target`."""

    url: str
    target: Path
    size: int
    sha256: str

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".smelt.incomplete")

    @property
    def done(self) -> Path:
        return self.target.with_name(self.target.name + ".smelt.done")

    def segments(self) -> list[tuple[int, int]]:
        return [(start, min(start + SEGMENT, self.size)) for start in range(0, self.size, SEGMENT)]

    def finished(self) -> set[tuple[int, int]]:
        """The segments that an earlier run brought; none when its bytes are gone."""
        if not (self.partial.is_file() and self.done.is_file()):
            return set()
        lines = [line.split() for line in self.done.read_text().splitlines()]
        return {(int(line[0]), int(line[1])) for line in lines if len(line) == 2} & set(self.segments())

    def missing_bytes(self) -> int:
        return 0 if self.target.exists() else self.size - sum(stop - start for start, stop in self.finished())


class Fetch:
    """One download of several files: the connections' shared state."""

    def __init__(self, client, headers: dict, on_bytes: Callable[[int], None]):
        self.client, self.on_bytes = client, on_bytes
        self.headers = headers | {"Accept-Encoding": "identity"}  # a compressed part is no part
        self.lock, self.stop = threading.Lock(), threading.Event()

    def run(self, files: list[Remote]) -> None:
        work = [(file, span) for file in files if not file.target.exists() for span in self.prepare(file)]
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="smelt-pull") as pool:
            futures = [pool.submit(self.segment, file, *span) for file, span in work]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # an error or Ctrl-C: the others end within a chunk
                self.stop.set()
                pool.shutdown(cancel_futures=True)
        for future in futures:
            if not future.cancelled():
                future.result()
        for file in files:
            finish(file)

    def prepare(self, file: Remote) -> list[tuple[int, int]]:
        """Room for the file on disk; the segments still to fetch."""
        file.target.parent.mkdir(parents=True, exist_ok=True)
        finished = file.finished()
        if not finished:
            file.done.unlink(missing_ok=True)
        with file.partial.open("ab") as out:
            out.truncate(file.size)  # sparse: takes no room before it is written
        return [span for span in file.segments() if span not in finished]

    def segment(self, file: Remote, start: int, stop: int) -> None:
        at, failures = start, 0
        with file.partial.open("r+b") as out:
            while at < stop and not self.stop.is_set():
                before = at
                try:
                    for chunk in self.read(file.url, at, stop):
                        out.seek(at)
                        out.write(chunk)
                        at += len(chunk)
                        self.on_bytes(len(chunk))
                except transport_error() as error:
                    failures = 1 if at > before else failures + 1
                    if failures >= ATTEMPTS or not passing(error):
                        raise
                    self.stop.wait(WAIT_S * failures)
        if at == stop:
            with self.lock, file.done.open("a") as log:
                log.write(f"{start} {stop}\n")

    def read(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        from huggingface_hub.utils import hf_raise_for_status

        headers = self.headers | {"Range": f"bytes={start}-{stop - 1}"}
        with self.client.stream("GET", url, headers=headers, timeout=10, follow_redirects=True) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:
                raise NoRanges(url)
            for chunk in response.iter_raw():  # as it comes in: nothing is lost in a buffer when the connection breaks
                if self.stop.is_set():
                    return
                yield chunk


def transport_error() -> type[Exception]:
    """What the hub's HTTP library raises; its name changed from httpx to httpx2 between versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def passing(error: Exception) -> bool:
    """Whether trying again may help: a lost connection, or a server that is busy."""
    response = getattr(error, "response", None)
    return response is None or response.status_code in PASSING


def finish(file: Remote) -> None:
    """The partial file gets its name, if its bytes are the right ones."""
    if file.target.exists():
        return
    with file.partial.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    file.done.unlink(missing_ok=True)
    if digest != file.sha256:
        file.partial.unlink()
        raise SourceError(
            f"{file.url} arrived damaged (SHA-256 {digest}, expected {file.sha256}) and was dropped: try again"
        )
    os.replace(file.partial, file.target)


def drop(file: Remote) -> None:
    file.partial.unlink(missing_ok=True)
    file.done.unlink(missing_ok=True)
