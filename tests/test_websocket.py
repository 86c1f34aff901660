"""The Responses dialect over a WebSocket, against a real server with a scripted service."""

import http.client
import json
import random
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from fakes import prefill, says, slowly, words
from fuzz import CREATE as CREATE_FIELDS
from fuzz import SEED, rng_of, texts
from smelt.api import response_routes, response_socket, websocket
from smelt.api.response_seal import Seal
from smelt.engine.errors import EngineFailed, Overloaded
from smelt.engine.events import Failed, Started, Text
from test_api_chat import tool_script
from test_api_responses import TEXT_EVENTS, home, steady
from test_serve import raw, served, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_to

__all__ = ["home"]  # a fixture that every test here uses
CREATE = {"type": "response.create", "model": "m", "input": "Hi", "store": False}
PATH = "/v1/responses"
OUTPUT = {"type": "function_call_output", "call_id": "nobody", "output": "x"}


def connect(server, **options):
    return connect_to(server.url.replace("http", "ws") + PATH, max_size=None, **options)


@contextmanager
def connected(script=words, **settings):
    with served(script, **{"poll_s": 0.02, **settings}) as (server, service), connect(server) as ws:
        yield ws, service, server


def ask(ws, **fields):
    ws.send(json.dumps(CREATE | fields))
    return answer(ws)


def answer(ws):
    """All frames up to the one that ends an answer."""
    got = []
    while not got or got[-1]["type"] not in ("response.completed", "response.incomplete", "response.failed", "error"):
        got.append(json.loads(ws.recv(timeout=10)))
    return got


def refused(got):
    (frame,) = got
    assert frame["type"] == "error" and frame["error"]["message"]
    return frame["status"], frame["error"]["code"]


def test_two_turns_on_one_connection():
    with connected() as (ws, service, _):
        first = ask(ws, stream=True)
        assert [event["type"] for event in first] == TEXT_EVENTS
        assert [event["sequence_number"] for event in first] == list(range(len(first)))
        second = ask(ws, input="And?", previous_response_id=first[-1]["response"]["id"])
        assert [event["sequence_number"] for event in second] == list(range(len(second)))
        texts = [message["content"] for message in service.requests[1].messages]
        assert texts == ["Hi", "Hello from the fake.", "And?"]


def test_the_events_are_those_of_http():
    with connected(tool_script) as (ws, _, server):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        body = {key: item for key, item in CREATE.items() if key != "type"} | {"stream": True}
        client.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
        blocks = client.getresponse().read().decode().strip().split("\n\n")[:-1]
        over_http = [json.loads(block.split("\ndata: ")[1]) for block in blocks]
        assert steady(ask(ws)) == steady(over_http)


def test_an_answer_that_is_not_stored_is_of_its_connection():
    with connected() as (ws, _, server):
        ident = ask(ws)[-1]["response"]["id"]
        with connect(server) as other:
            assert refused(ask(other, previous_response_id=ident)) == (404, "previous_response_not_found")
        assert ask(ws, previous_response_id=ident)[-1]["type"] == "response.completed"
        assert refused(ask(ws, previous_response_id="resp_never")) == (404, "previous_response_not_found")
        stored = ask(ws, store=True)[-1]["response"]["id"]
        with connect(server) as other:
            assert ask(other, previous_response_id=stored)[-1]["type"] == "response.completed"


def test_an_output_without_its_call_ends_the_chain():
    with connected() as (ws, _, _):
        ident = ask(ws)[-1]["response"]["id"]
        assert refused(ask(ws, previous_response_id=ident, input=[OUTPUT]))[0] == 400
        assert refused(ask(ws, previous_response_id=ident)) == (404, "previous_response_not_found")
        assert ask(ws)[-1]["type"] == "response.completed"


def test_a_warm_up_reads_the_prompt_and_says_nothing():
    with connected(tool_script) as (ws, service, _):
        got = ask(ws, generate=False)
        assert [event["type"] for event in got] == ["response.created", "response.in_progress", "response.completed"]
        body = got[-1]["response"]
        assert body["output"] == [] and body["usage"]["output_tokens"] == 0 and service.requests[0].max_tokens == 1
        assert ask(ws, input="Now", previous_response_id=body["id"])[-1]["type"] == "response.completed"
        assert [message["content"] for message in service.requests[1].messages] == ["Hi", "Now"]
        empty = ask(ws, input=[], generate=False)[-1]["response"]
        assert empty["status"] == "completed" and len(service.requests) == 2
        assert ask(ws, previous_response_id=empty["id"])[-1]["type"] == "response.completed"


def test_compacted_items_over_a_new_socket():
    blob = Seal().close("compaction", [{"type": "message", "role": "user", "content": "Old", "id": "msg_1"}])
    with connected() as (ws, service, _):
        item = {"type": "compaction", "encrypted_content": blob}
        assert ask(ws, input=[item, {"role": "user", "content": "New"}])[-1]["type"] == "response.completed"
        assert [message["content"] for message in service.requests[0].messages] == ["Old", "New"]


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "type"),
        ('{"type": "response.steer"}', "response.create"),
        (json.dumps(CREATE | {"temperature": "hot"}), "temperature"),
        (json.dumps(CREATE | {"generate": 1}), "generate"),
        (json.dumps(CREATE | {"background": True}), "background"),
        ("[" * 100_000, "nested"),
        (b"{}", "binary"),
    ],
)
def test_what_is_wrong_gets_an_error_and_the_socket_stays(message, word):
    with connected() as (ws, _, server):
        ws.send(message)
        (frame,) = answer(ws)
        assert frame["status"] == 400 and word in frame["error"]["message"]
        assert ask(ws)[-1]["type"] == "response.completed"


def test_errors_of_the_engine():
    with connected(Overloaded("full")) as (ws, service, server):
        assert refused(ask(ws)) == (429, "rate_limit_exceeded")
        service.script = says(Started(1), Text("a"), Failed(EngineFailed("the step raised")))
        got = ask(ws)
        assert got[-1]["type"] == "error" and got[-1]["status"] == 500 and "the step" in got[-1]["message"]
        assert answer(ws)[-1]["type"] == "response.failed"
        service.script = words
        assert ask(ws)[-1]["type"] == "response.completed"
        until(lambda: server.app.gate.inside == 0)


@pytest.mark.parametrize("script", [slowly(0.02, ["x"] * 400), prefill(30)], ids=["decode", "prefill"])
@pytest.mark.parametrize("how", ["close", "vanish"])
def test_a_client_that_leaves_frees_its_row(script, how):
    with connected(script) as (ws, service, server):
        ws.send(json.dumps(CREATE))
        until(lambda: service.streams and service.streams[0].reads > 1)
        threading.Thread(target=ws.close).start() if how == "close" else ws.socket.shutdown(socket.SHUT_RDWR)
        until(service.streams[0].cancelled.is_set, 1.0)
        until(lambda: server.app.gate.inside == 0)


def test_frames_wait_for_the_answer_before_them():
    with connected(slowly(0.01)) as (ws, service, _):
        for word in ("one", "two", "three"):
            ws.send(json.dumps(CREATE | {"input": word}))
        assert [answer(ws)[-1]["type"] for _ in range(3)] == ["response.completed"] * 3
        assert [request.messages[0]["content"] for request in service.requests] == ["one", "two", "three"]


def test_too_many_waiting_frames_close_the_socket(monkeypatch):
    monkeypatch.setattr(response_socket, "WAITING", 2)
    with connected(slowly(0.05, ["x"] * 100)) as (ws, service, _):
        for _ in range(4):
            ws.send(json.dumps(CREATE))
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                ws.recv(timeout=5)
        assert caught.value.rcvd.code == 1008
        until(service.streams[0].cancelled.is_set)


def test_silence_is_filled_with_events_and_pings():
    with connected(prefill(0.5), keep_alive_s=0.1) as (ws, _, _):
        kinds = [event["type"] for event in ask(ws)]
        assert kinds[0] == "response.created" and kinds.count("response.in_progress") >= 3
        assert ws.ping().wait(2)


def test_a_ping_is_answered_while_an_answer_is_made():
    with connected(slowly(0.05, ["x"] * 20)) as (ws, _, _):
        ws.send(json.dumps(CREATE))
        ws.recv(timeout=5)
        assert ws.ping().wait(0.5)
        assert answer(ws)[-1]["type"] == "response.completed"


def test_large_messages_whole_and_in_fragments():
    text = "\u00e9" * 600_000
    with connected() as (ws, service, _):
        ask(ws, input=text)
        whole = json.dumps(CREATE | {"input": text})
        ws.send([whole[:100], whole[100:5000], whole[5000:]])
        answer(ws)
        assert [request.messages[0]["content"] == text for request in service.requests] == [True, True]


def test_a_message_over_the_limit_closes_with_1009(monkeypatch):
    monkeypatch.setattr(websocket, "MAX_MESSAGE", 1000)
    with connected() as (ws, _, _):
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("x" * 5000)
            ws.recv(timeout=5)
        assert caught.value.rcvd.code == 1009


def test_without_compression():
    with served() as (server, _), connect(server, compression=None) as ws:
        assert ask(ws)[-1]["type"] == "response.completed"


def test_mutated_frames():
    with connected() as (ws, _, server):
        for text in texts(1000, CREATE | CREATE_FIELDS, rng_of("websocket")):
            ws.send(text)
            last = answer(ws)[-1]
            assert last.get("status", 200) < 500, (SEED, text, last)
        assert ask(ws)[-1]["type"] == "response.completed"
        until(lambda: server.app.gate.inside == 0)


def test_random_bytes_end_only_their_connection():
    rng = random.Random(20261123)
    with served() as (server, _):
        for _ in range(50):
            with connect(server, close_timeout=0.01) as ws:
                ws.socket.sendall(rng.randbytes(rng.randrange(1, 200)))
        with connect(server) as ws:
            assert ask(ws)[-1]["type"] == "response.completed"


def test_bytes_that_break_the_protocol():
    with connected() as (ws, _, server):
        ws.socket.sendall(b"\x81\x02{}")  # a frame that is not masked
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(timeout=5)
        assert caught.value.rcvd.code == 1002
        with connect(server) as other:
            assert ask(other)[-1]["type"] == "response.completed"


def test_who_may_connect():
    with served(api_key="secret") as (server, _):
        with pytest.raises(InvalidStatus) as caught:
            connect(server)
        assert caught.value.response.status_code == 401
        with connect(server, additional_headers={"Authorization": "Bearer secret"}) as ws:
            assert ask(ws)[-1]["type"] == "response.completed"
    with served() as (server, _):
        with pytest.raises(InvalidStatus) as caught:
            connect(server, origin="https://evil.example")
        assert caught.value.response.status_code == 403
        with connect(server, origin="http://localhost:3000") as ws:
            assert ask(ws)[-1]["type"] == "response.completed"


def test_a_plain_get_is_told_so():
    with served() as (server, _):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        sock.sendall(raw("GET", PATH, headers={"Connection": "close"}))
        assert b"426" in sock.recv(1 << 16).split(b"\r\n")[0]
        broken = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        broken.sendall(raw("GET", PATH, headers={"Connection": "Upgrade", "Upgrade": "websocket"}))
        assert b" 400 " in broken.recv(1 << 16).split(b"\r\n")[0]


def test_draining_lets_the_answer_finish_and_closes_with_1001():
    with served(slowly(0.05, ["x"] * 10)) as (server, service), connect(server) as ws:
        ws.send(json.dumps(CREATE))
        until(lambda: service.streams)
        draining = threading.Thread(target=server.drain)
        draining.start()
        assert answer(ws)[-1]["type"] == "response.completed"
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(timeout=5)
        assert caught.value.rcvd.code == 1001
        draining.join(5)


def test_sockets_are_bounded_and_leave_no_thread(monkeypatch):
    monkeypatch.setattr(response_routes, "SPARE", 0)
    before = threading.active_count()
    with served(max_streams=2) as (server, _):
        with connect(server) as first, connect(server):
            with connect(server) as third, pytest.raises(ConnectionClosed) as caught:
                third.recv(timeout=5)
            assert caught.value.rcvd.code == 1013
            first.close()
            time.sleep(0.1)
            with connect(server) as again:
                assert ask(again)[-1]["type"] == "response.completed"
    until(lambda: threading.active_count() <= before)
