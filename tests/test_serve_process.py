"""`smelt serve` as a process: what it imports before it listens, signals, and how it fails."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
HEAVY = {
    "mlx", "mlx_lm", "transformers", "torch", "numpy", "sentencepiece", "huggingface_hub", "tokenizers", "jinja2",
    "httpx", "openai", "falcon", "prometheus_client",
    "multiprocessing", "tqdm", "requests", "importlib.metadata",
    "smelt.models.source", "smelt.engine.chat", "smelt.engine.parse", "smelt.engine.stream", "smelt.engine.tokenizer",
    "smelt.api.generation_routes", "smelt.api.chat_completions", "smelt.api.messages", "smelt.api.response_routes",
}  # fmt: skip
CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
import conftest
from smelt.api import cli
{before}
sys.exit(cli.main({argv!r}, {make}))
"""
FAKE = """
import fakes
make = lambda options, **more: fakes.FakeService(options, **dict({fake}), **more)
"""


class Smelt:
    """A `smelt serve` on a free port."""

    def __init__(self, *flags, fake="", real=False, before=""):
        self.began = time.monotonic()
        argv = ["serve", "--port", "0", "--max-concurrent", "4", "--max-queue", "0", *flags]
        before += "" if real else FAKE.format(fake=fake)
        code = CHILD.format(tests=str(TESTS), argv=argv, before=before, make="None" if real else "make")
        environ = os.environ | {"PYTHONUNBUFFERED": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=environ)
        self.line = self.process.stdout.readline()
        self.listening_s = time.monotonic() - self.began
        found = re.search(r"http://[\w.]+:(\d+)", self.line)
        self.port = int(found[1]) if found else None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def ask(self, method, path, **fields):
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields}) if method == "POST" else ""
        head = f"{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        sock.sendall((head + body).encode())
        return sock

    def ready(self):
        while " 200 " not in rest(self.ask("GET", "/health")):
            time.sleep(0.01)
        return self

    def left(self, timeout=10):
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, err


def rest(sock):
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts).decode()


def test_one_line_says_where():
    with Smelt() as smelt:
        assert re.fullmatch(r"Smelt serves builtin on http://127.0.0.1:\d+\n", smelt.line)


def test_it_listens_before_the_weights_are_loaded():
    with Smelt(fake='state="loading", load_s=30') as smelt:
        health = rest(smelt.ask("GET", "/health"))
        assert " 503 " in health and '"loading"' in health
        assert '"not_ready"' in rest(smelt.ask("POST", "/v1/chat/completions"))
        smelt.process.send_signal(signal.SIGTERM)
        assert smelt.left()[0] == 0


SHOW_MODULES = """
from smelt.api import serve
def shown(line):
    import json
    print(json.dumps(sorted(sys.modules)), flush=True)
    print(line, flush=True)
serve.to_terminal = shown
"""


@pytest.mark.parametrize("real", [False, True], ids=["fake service", "real service"])
def test_imports_before_listening(real):
    with Smelt(real=real, before=SHOW_MODULES) as smelt:
        modules = set(json.loads(smelt.line))
    assert "waitress.server" in modules
    found = {name for name in modules if name in HEAVY or name.split(".")[0] in HEAVY}
    assert not found, f"imported before listening: {sorted(found)}"


def test_time_to_listening_is_shown(capsys):
    times = []
    for _ in range(3):
        with Smelt(real=True) as smelt:
            times.append(smelt.listening_s)
    with capsys.disabled():
        print(f"\n[start to listening: {min(times) * 1e3:.0f} ms, the best of {len(times)}; the aim is 300]", end=" ")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_stream_drains(signum):
    with Smelt(fake='script=fakes.slowly(0.05, ["x"] * 12)') as smelt:
        smelt.ready()
        sock = smelt.ask("POST", "/v1/chat/completions", stream=True)
        assert b"200 OK" in sock.recv(1 << 16)
        smelt.process.send_signal(signum)
        text = rest(sock)
        assert text.count('"content":"x"') >= 11 and "[DONE]" in text and "error" not in text
        status, err = smelt.left()
        assert status == 0 and "Traceback" not in err


def test_a_second_signal_leaves_at_once():
    with Smelt(fake='script=fakes.slowly(0.05, ["x"] * 1000)') as smelt:
        smelt.ready()
        sock = smelt.ask("POST", "/v1/chat/completions", stream=True)
        sock.recv(1 << 16)
        smelt.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert smelt.process.poll() is None
        smelt.process.send_signal(signal.SIGTERM)
        assert smelt.left(2)[0] == -signal.SIGTERM


def test_the_drain_has_a_deadline():
    with Smelt("--drain-secs", "0.3", fake='script=fakes.slowly(0.05, ["x"] * 1000)') as smelt:
        smelt.ready()
        sock = smelt.ask("POST", "/v1/chat/completions", stream=True)
        sock.recv(1 << 16)
        began = time.monotonic()
        smelt.process.send_signal(signal.SIGTERM)
        assert "shutting down" in rest(sock)
        status, err = smelt.left()
        assert status == 0 and time.monotonic() - began < 3 and "Traceback" not in err


def test_a_model_that_does_not_load_ends_the_server():
    with Smelt(fake='state="loading", error=RuntimeError("no such\\nmodel")') as smelt:
        status, err = smelt.left()
        assert status == 1 and "smelt: RuntimeError: no such model\n" in err and "Traceback" not in err


def test_the_real_service_says_what_model_is_missing():
    with Smelt("--model", "/no/such/folder", real=True) as smelt:
        status, err = smelt.left()
        assert status == 1 and "smelt: there is no folder /no/such/folder" in err and "Traceback" not in err


def test_a_taken_port_takes_one_line():
    with Smelt() as first, Smelt("--port", str(first.port)) as second:
        status, err = second.left()
        assert status == 1 and err.startswith(f"smelt: 127.0.0.1:{first.port} is in use") and err.count("\n") == 1


def test_an_open_address_without_a_key_is_warned_of():
    with Smelt("--host", "0.0.0.0") as smelt:
        smelt.process.send_signal(signal.SIGTERM)
        assert "anyone there can use it" in smelt.left()[1]
