"""The server: waitress, listening before the weights are loaded, and leaving in good order.

The settings of waitress, and why (measured on a 2-core Linux machine, Python 3.11, waitress 3.0.2):

threads          one a stream, which waits in it (12 KB each), and some to spare: with none left, even /health waits
lookahead 1      waitress reads ahead only then, and only by reading does it notice that a client has left
poll             select() cannot take file descriptors above 1023
recv and inbuf   a body stays in memory: 27 MB of JSON take 90 ms instead of 139
outbuf           so much waits for a client that reads slowly, then its thread waits with it
"""

import errno
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from ..engine.registry import Registry
from .channel import Channel
from .house import Gate
from .late import LateApp
from .settings import Settings

if TYPE_CHECKING:
    from .app import App

log = logging.getLogger("smelt")
RECV_BYTES = 256 << 10
OUTBUF_BYTES = 1 << 20
STALLED_S = 60.0  # a client that takes nothing of what waits for it for so long is given up
LAST_WORDS_S = 2.0  # for the errors of streams that the deadline cut off to reach their clients


class CannotListen(Exception):
    """The address is taken, or not this machine's."""


class WsgiServer(TcpWSGIServer):
    channel_class = Channel

    def maintenance(self, now):
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.total_outbufs_len and channel.last_activity < now - STALLED_S:
                channel.handle_close()


class Server:
    """waitress on every address of a host. `run` returns after `stop`, or after `drain` saw the last request off."""

    def __init__(self, app: "App | LateApp", settings: Settings):
        self.app, self.settings = app, settings
        self.adjustments = adjustments(settings)
        self.map: dict[int, wasyncore.dispatcher] = {}
        self.threads = ThreadedTaskDispatcher()
        self.listeners = self.listen()
        self.port = int(self.listeners[0].effective_port)

    def listen(self) -> list[WsgiServer]:
        """One listener an address of the host; `localhost` may have one that is not here (::1 in containers)."""
        made, errors = [], []
        for sockinfo in self.adjustments.listen:
            try:
                made.append(
                    WsgiServer(self.app, self.map, dispatcher=self.threads, adj=self.adjustments, sockinfo=sockinfo)
                )
            except OSError as error:
                errors.append(error)
        if errors and (not made or errors[0].errno != errno.EADDRNOTAVAIL):
            wasyncore.close_all(self.map)
            raise CannotListen(why_not(errors[0], self.settings))
        return made

    @property
    def url(self) -> str:
        host = self.settings.host
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(
            host, f"[{host}]" if ":" in host else host
        )
        return f"http://{shown}:{self.port}"

    def run(self) -> None:
        self.threads.set_thread_count(self.settings.threads)  # 10 ms for 136: the port is open by now
        wasyncore.loop(timeout=1, map=self.map, use_poll=True)
        self.threads.shutdown(timeout=LAST_WORDS_S)

    # Called on any thread.

    def drain(self, on_deadline: Callable[[], None] = lambda: None) -> None:
        """Take no more requests, let those that run finish, then end `run`. `on_deadline` has to end what is left."""
        self.app.gate.draining = True
        self.on_loop(self.close_listeners)
        if not self.wait_idle(self.settings.drain_s):
            on_deadline()
            self.wait_idle(LAST_WORDS_S)
        self.stop()

    def stop(self) -> None:
        self.on_loop(lambda: wasyncore.close_all(self.map))  # an empty map ends the loop

    def on_loop(self, act: Callable[[], object]) -> None:
        try:
            self.listeners[0].trigger.pull_trigger(act)
        except OSError:  # the loop is over, and its trigger closed with it
            pass

    def wait_idle(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.busy():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def busy(self) -> bool:
        channels = [channel for listener in self.listeners for channel in list(listener.active_channels.values())]
        writing = any(channel.requests or channel.total_outbufs_len for channel in channels)
        return writing or self.app.gate.inside > 0  # a WebSocket's answer has a socket of its own

    # Called on the thread of `run`.

    def close_listeners(self) -> None:
        for listener in self.listeners:
            listener.del_channel()
            listener.socket.close()


def adjustments(settings: Settings) -> Adjustments:
    try:
        return Adjustments(**waitress_settings(settings))
    except ValueError:  # the only thing in them that may be wrong
        raise CannotListen(f"{settings.host} is not known as a host: --host 127.0.0.1 is this machine only") from None


def waitress_settings(settings: Settings) -> dict[str, object]:
    return dict(
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        connection_limit=2 * settings.threads + 64,  # idle keep-alive connections count, too
        channel_request_lookahead=1,
        asyncore_use_poll=True,
        recv_bytes=RECV_BYTES,
        outbuf_high_watermark=OUTBUF_BYTES,
        cleanup_interval=5,
        max_request_body_size=settings.max_body_bytes + 1,
        inbuf_overflow=settings.max_body_bytes + 1,
        ident="smelt",
    )


def why_not(error: OSError, settings: Settings) -> str:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another program: choose another --port, or 0 for any free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{settings.host} is not an address of this machine: --host 127.0.0.1 is this machine, 0.0.0.0 any network"
        )
    if error.errno == errno.EACCES:
        return f"{where} is not allowed ({error.strerror}): ports below 1024 need root"
    return f"cannot listen on {where}: {error.strerror or error}"


def serve(models: Registry, settings: Settings, say: Callable[[str], None], fail: Callable[[Exception], None]) -> int:
    """Run until a signal, or until the model cannot be loaded; the exit status. `say` gets one line with the URL."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # the gate bounds the queue
    server = Server(late_app(models, settings), settings)
    outcome = Outcome(server, models, fail)
    outcome.catch_signals()
    say(f"Smelt serves {models.name} on {server.url}")
    models.start()
    threading.Thread(target=outcome.watch_loading, name="loading", daemon=True).start()
    server.run()
    models.close()
    return outcome.status


def late_app(models, settings: Settings) -> LateApp:
    gate = Gate(settings.max_streams)

    def make() -> "App":
        from .app import create_app

        return create_app(models, settings, gate)

    return LateApp(gate, make)


class Outcome:
    """What ends a server: signals, and a model that does not load."""

    def __init__(self, server: Server, models: Registry, fail: Callable[[Exception], None]):
        self.server, self.models, self.fail = server, models, fail
        self.status = 0

    def catch_signals(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.on_signal)

    def on_signal(self, signum, frame) -> None:
        """The first signal drains; the next one, of either kind, ends the process at once."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        threading.Thread(target=self.server.drain, args=(self.models.close,), name="drain", daemon=True).start()

    def watch_loading(self) -> None:
        try:
            self.server.app.warm()
            self.models.wait_ready()
        except Exception as error:
            if self.server.app.gate.draining:
                return  # stopped while it was loading
            self.fail(error)
            self.status = 1
            self.server.stop()


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None)
    except OSError:
        return False
    return all(address[4][0].startswith("127.") or address[4][0] == "::1" for address in found)


def to_terminal(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
