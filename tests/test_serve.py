"""A real waitress on a loopback port: streams, clients that vanish, limits, and leaving in good order."""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from fakes import FakeService, prefill, slowly, words
from smelt.api import serve
from smelt.api.app import create_app
from smelt.api.serve import CannotListen, Server, late_app
from smelt.api.settings import Settings

BODY = {"messages": [{"role": "user", "content": "Hi"}]}
STREAMS = {  # a streamed request of every dialect, and how its stream ends
    "/v1/chat/completions": (BODY, b"data: [DONE]"),
    "/v1/completions": ({"prompt": "Hi"}, b"data: [DONE]"),
    "/v1/messages": (BODY | {"max_tokens": 9}, b'"message_stop"}'),
    "/v1/responses": ({"input": "Hi", "store": False}, b"data: [DONE]"),
}


@contextmanager
def served(script=words, app=None, **settings):
    """A server in a thread, with its service; it drains at the end."""
    service = FakeService(script=script)
    config = Settings(**{"port": 0, "max_streams": 8, "drain_s": 5, **settings})
    server = Server(app or create_app(service, config), config)
    loop = threading.Thread(target=server.run)
    loop.start()
    try:
        yield server, service
    finally:
        server.drain(service.close)
        loop.join(10)
        assert not loop.is_alive()


def raw(method, path, body=b"", headers=()):
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        *(f"{name}: {value}" for name, value in dict(headers).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat(**fields):
    body = json.dumps(BODY | fields).encode()
    return raw("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", "Content-Length": len(body)})


def stream_of(path, stream=True):
    body = json.dumps(STREAMS[path][0] | {"stream": stream}).encode()
    return raw("POST", path, body, {"Content-Type": "application/json", "Content-Length": len(body)})


def connect(server, data):
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.sendall(data)
    return sock


def read_all(sock):
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def test_a_stream_arrives_as_it_is_made():
    with served(slowly(0.05)) as (server, _):
        sock = connect(server, chat(stream=True))
        first = time.monotonic()
        head = sock.recv(1 << 16)
        assert b"200 OK" in head and b"text/event-stream" in head
        rest = read_all(sock)
        assert b"[DONE]" in rest and time.monotonic() - first > 0.2


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [slowly(0.05, ["x"] * 400), prefill(30)], ids=["decode", "prefill"])
def test_a_killed_client_frees_its_row(script, stream, path):
    with served(script) as (server, service):
        sock = connect(server, stream_of(path, stream=stream))
        until(lambda: service.streams and service.streams[0].reads > 1)
        killed = time.monotonic()
        sock.close()
        until(service.streams[0].cancelled.is_set)
        assert service.streams[0].cancelled_at - killed < 0.3
        until(lambda: server.app.gate.inside == 0)
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        client.request("GET", "/metrics")
        assert b'smelt_generations_total{reason="cancelled"} 1' in client.getresponse().read()


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v1/chat/completions", b": keep-alive\n\n"),
        ("/v1/completions", b": keep-alive\n\n"),
        ("/v1/messages", b'event: ping\ndata: {"type":"ping"}\n\n'),
        ("/v1/responses", b"event: response.in_progress\n"),
    ],
)
def test_keep_alives_in_silence_are_of_the_dialect(path, word):
    with served(prefill(0.8), keep_alive_s=0.2, poll_s=0.05) as (server, _):
        text = read_all(connect(server, stream_of(path)))
        assert text.count(word) >= 3 - (b":" == word[:1])
        assert text.index(word) < text.index(b"Hello") and STREAMS[path][1] in text


def test_64_streams_at_once_and_no_thread_left():
    before = threading.active_count()
    with served(slowly(0.02), max_streams=64) as (server, service):
        threads = 64 + 8
        until(lambda: threading.active_count() >= before + threads + 1)
        sockets = [connect(server, chat(stream=True)) for _ in range(64)]
        until(lambda: len(service.streams) == 64)
        health = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        health.request("GET", "/health")
        assert health.getresponse().status == 200
        assert all(b"[DONE]" in read_all(sock) for sock in sockets)
        assert server.app.gate.inside == 0 and all(stream.cancelled.is_set() for stream in service.streams)
        assert threading.active_count() <= before + threads + 1
    until(lambda: threading.active_count() <= before)


def test_one_more_than_it_takes_is_429_while_health_answers():
    with served(prefill(30), max_streams=2) as (server, service):
        running = [connect(server, chat()) for _ in range(2)]
        until(lambda: len(service.streams) == 2)
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        client.request("POST", "/v1/chat/completions", json.dumps(BODY), {"Content-Type": "application/json"})
        refused = client.getresponse()
        assert (
            refused.status == 429
            and refused.getheader("Retry-After")
            and json.load(refused)["error"]["type"] == "rate_limit_error"
        )
        client.request("GET", "/health")  # on the same connection
        assert client.getresponse().status == 200
        for sock in running:
            sock.close()
        until(lambda: server.app.gate.inside == 0)


def test_connections_are_kept_for_whole_answers():
    with served() as (server, _):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        for _ in range(3):
            client.request("POST", "/v1/chat/completions", json.dumps(BODY), {"Content-Type": "application/json"})
            assert json.load(client.getresponse())["choices"][0]["message"]["content"] == "Hello from the fake."


def test_a_large_body_is_refused_before_it_is_sent():
    with served() as (server, service):  # 64 MB by default
        for header in ({"Content-Length": 100 << 20}, {"Content-Length": 100 << 20, "Expect": "100-continue"}):
            sock = connect(
                server, raw("POST", "/v1/chat/completions", b"", {"Content-Type": "application/json", **header})
            )
            head, body = read_all(sock).split(b"\r\n\r\n", 1)
            assert b"413" in head and json.loads(body)["error"]["code"] == "request_too_large"
        messages = raw("POST", "/v1/messages", b"", {"Content-Length": 100 << 20})
        assert json.loads(read_all(connect(server, messages)).split(b"\r\n\r\n", 1)[1])["type"] == "error"
        assert not service.requests


def test_a_large_chunked_body_is_refused_on_the_way():
    with served(max_body_bytes=1 << 20) as (server, _):
        head = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        sock = connect(server, raw("POST", "/v1/chat/completions", b"", head))
        chunk = b"%x\r\n" % (1 << 18) + b" " * (1 << 18) + b"\r\n"
        try:
            for _ in range(16):
                sock.sendall(chunk)
        except OSError:
            pass  # it hung up, as it may
        else:
            assert b"413" in sock.recv(1 << 16)


def test_a_chunked_body_is_read():
    with served() as (server, _):
        body = json.dumps(BODY).encode()
        chunked = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        head = {"Content-Type": "application/json", "Transfer-Encoding": "chunked", "Connection": "close"}
        assert b"Hello from the fake." in read_all(connect(server, raw("POST", "/v1/chat/completions", chunked, head)))


@pytest.mark.parametrize(
    "data",
    [b"BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n"],
)
def test_what_is_no_http_does_no_harm(data):
    with served() as (server, _):
        assert b" 400 " in read_all(connect(server, data)).split(b"\r\n")[0]
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        client.request("GET", "/health")
        assert client.getresponse().status == 200


@pytest.mark.parametrize("path", STREAMS)
def test_a_reader_that_takes_nothing_holds_up_no_one_else(path):
    texts = ["x" * 10_000] * 2000
    with served(lambda request: words(request, texts)) as (server, service):
        sock = connect(server, stream_of(path))
        until(lambda: service.streams)
        time.sleep(0.3)
        left = len(service.streams[0].parts)
        assert left > 500, "the server does not pile up what is not read"
        assert b"[DONE]" in read_all(connect(server, stream_of("/v1/completions")))
        sock.close()
        assert service.streams[0].cancelled.wait(2)
        until(lambda: server.app.gate.inside == 0)


def test_a_reader_that_takes_nothing_for_long_is_given_up(monkeypatch):
    monkeypatch.setattr(serve, "STALLED_S", 0.3)
    monkeypatch.setattr(serve, "waitress_settings", lambda settings, made=serve.waitress_settings: made(settings) | {
        "cleanup_interval": 1})  # fmt: skip
    with served(lambda request: words(request, ["x" * 10_000] * 2000)) as (server, service):
        sock = connect(server, chat(stream=True))
        until(lambda: service.streams)
        assert service.streams[0].cancelled.wait(5)
        until(lambda: server.app.gate.inside == 0)
        sock.close()


def test_a_reader_that_takes_its_time_gets_everything():
    texts = ["x" * 10_000] * 300
    with served(lambda request: words(request, texts)) as (server, service):
        sock = connect(server, chat(stream=True))
        time.sleep(0.3)
        assert read_all(sock).count(b"xxxxxxxxxx" * 1000) == 300


@pytest.mark.parametrize("path", STREAMS)
def test_draining_lets_running_streams_finish(path):
    with served(slowly(0.05, ["x"] * 10)) as (server, service):
        sock = connect(server, stream_of(path))
        until(lambda: service.streams)
        thread = threading.Thread(target=server.drain)
        thread.start()
        until(lambda: server.app.gate.draining)
        text = read_all(sock)
        assert STREAMS[path][1] in text and b"error" not in text.replace(b'"error":null', b"")
        thread.join(5)
        with pytest.raises(OSError):
            connect(server, raw("GET", "/health"))


@pytest.mark.parametrize("path", STREAMS)
def test_the_deadline_ends_what_does_not_finish(path):
    with served(slowly(0.05, ["x"] * 1000), drain_s=0.2) as (server, service):
        sock = connect(server, stream_of(path))
        until(lambda: service.streams)
        began = time.monotonic()
        server.drain(service.close)
        assert time.monotonic() - began < 2
        text = read_all(sock)
        assert b"shutting down" in text and text.rstrip().endswith(b"0")
        assert (b"[DONE]" in text) == (path != "/v1/messages")


def test_a_taken_port_is_explained():
    with served() as (server, _):
        with pytest.raises(CannotListen, match="in use by another program"):
            Server(server.app, Settings(port=server.port, max_streams=1))
    with pytest.raises(CannotListen, match="not an address of this machine"):
        Server(server.app, Settings(host="192.0.2.1", max_streams=1))
    with pytest.raises(CannotListen, match="not known as a host"):
        Server(server.app, Settings(host="no.such.host.invalid", max_streams=1))


def test_the_gate_of_an_app_that_comes_late_is_the_servers():
    """The server closes it when it drains; the app asks it who may come in."""
    app = late_app(FakeService(), config := Settings(port=0, max_streams=2))
    with served(app=app, max_streams=config.max_streams) as (server, _):
        assert app.real.made is None
        assert b"200 OK" in connect(server, raw("GET", "/health", headers={"Connection": "close"})).recv(1000)
        assert app.real().gate is app.gate and app.gate.size == 2


def test_a_socket_can_be_handed_over():
    """What the WebSocket of the Responses dialect builds on: a responder takes the socket, waitress forgets it."""
    taken = threading.Event()

    def session(sock, environ):
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        while data := sock.recv(100):
            sock.sendall(data.upper())
        taken.set()

    class Upgrade:
        def on_get(self, req, resp):
            req.env["smelt.upgrade"](session)

    app = create_app(FakeService(), Settings(max_streams=8))
    app.add_route("/upgrade", Upgrade())
    with served(app=app) as (server, _):
        sock = connect(server, raw("GET", "/upgrade"))
        assert b"101" in sock.recv(1000)
        for word in (b"one", b"two"):
            sock.sendall(word)
            assert sock.recv(100) == word.upper()
        assert not any(listener.active_channels for listener in server.listeners)
        sock.close()
        assert taken.wait(5)
