"""One end of a WebSocket (RFC 6455) on a socket that the HTTP server handed over. The protocol is `websockets`'s own.

Used by one thread. A message may be 64 MiB large: conversations are sent whole.
"""

import logging
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidState
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

logging.getLogger("websockets").setLevel(logging.ERROR)  # it logs every handshake
HANDSHAKE = (
    "HOST",
    "UPGRADE",
    "CONNECTION",
    "ORIGIN",
    "SEC_WEBSOCKET_KEY",
    "SEC_WEBSOCKET_VERSION",
    "SEC_WEBSOCKET_EXTENSIONS",
    "SEC_WEBSOCKET_PROTOCOL",
)
MAX_MESSAGE = 64 << 20
CHUNK = 256 << 10
SEND_S = 60.0  # a client that reads nothing for so long is given up


class Closed(Exception):
    """The connection is over: by a close frame of either side, or because it broke (1006)."""

    def __init__(self, code: int | None, reason: str = ""):
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class WebSocket:
    """Opening it answers the handshake that is in `environ`; a wrong one is answered 4xx, and Closed is raised."""

    def __init__(self, sock: socket.socket, environ: Mapping[str, Any]):
        self.sock = sock
        self.protocol = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=MAX_MESSAGE)
        self.frames: deque[Frame] = deque()
        self.kind: Opcode | None = None
        self.fragments: list[bytes] = []
        self.protocol.receive_data(replayed(environ))
        for request in self.protocol.events_received():
            self.protocol.send_response(self.protocol.accept(request))
        self.flush()
        if self.protocol.state is not State.OPEN:
            raise Closed(1002, "the handshake is wrong")

    def flush(self) -> None:
        """Write what the protocol has to say; an empty piece means the end of our side."""
        self.sock.settimeout(SEND_S)
        try:
            for data in self.protocol.data_to_send():
                if data:
                    self.sock.sendall(data)
                else:
                    self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Closed(1006, str(error)) from None

    def receive(self, timeout_s: float) -> str | bytes | None:
        """The next message, text or binary; None when none is whole in time. Pings are answered on the way."""
        while True:
            while self.frames:
                message = self.take(self.frames.popleft())
                if message is not None:
                    return message
            if self.protocol.state is not State.OPEN:
                raise Closed(self.protocol.close_code, self.protocol.close_reason or "")
            data = self.read(timeout_s)
            if data is None:
                return None
            self.feed(data)

    def read(self, timeout_s: float) -> bytes | None:
        self.sock.settimeout(timeout_s)
        try:
            return self.sock.recv(CHUNK)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError as error:
            raise Closed(1006, str(error)) from None

    def feed(self, data: bytes) -> None:
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self.frames += self.protocol.events_received()
        self.flush()

    def take(self, frame: Frame) -> str | bytes | None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return None
        if frame.opcode is not Opcode.CONT:
            self.kind = frame.opcode
        self.fragments.append(bytes(frame.data))
        if not frame.fin:
            return None
        data, self.fragments = b"".join(self.fragments), []
        return data if self.kind is Opcode.BINARY else self.text(data)

    def text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.close(1007, "not UTF-8")
            raise Closed(1007, "not UTF-8") from None

    def send(self, text: bytes) -> None:
        self.say(self.protocol.send_text, text)

    def ping(self) -> None:
        self.say(self.protocol.send_ping, b"smelt")

    def say(self, send, data: bytes) -> None:
        try:
            send(data)
        except (ConnectionClosed, InvalidState) as error:
            raise Closed(self.protocol.close_code, str(error)) from None
        self.flush()

    def close(self, code: int, reason: str) -> None:
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code, reason)
            self.flush()


def replayed(environ: Mapping[str, Any]) -> bytes:
    """The request that the HTTP server has read already, as far as the handshake needs it."""
    lines = [f"{name.replace('_', '-')}: {environ['HTTP_' + name]}" for name in HANDSHAKE if "HTTP_" + name in environ]
    return "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1")
