"""Several real models in one server: right answers at the same time, memory that is really freed, and what goes wrong."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import pytest
import tiny
from smelt.api.app import create_app
from smelt.api.serve import Server
from smelt.api.settings import Settings
from smelt.engine.budget import PORTION
from smelt.engine.options import Options, Residency
from smelt.engine.registry import Registry
from smelt.engine.service import Service
from test_serve import until
from test_serve_process import Smelt, rest

NAMES = ("one", "two", "builtin")
BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"
LARGE = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}
HELLO = {"messages": [{"role": "user", "content": "Hello there, who are you?"}], "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with two models that say different things, both of some forty megabytes."""
    root = tmp_path_factory.mktemp("models")
    tiny.make(root / "one", **LARGE)
    tiny.make(root / "two", **LARGE | {"num_hidden_layers": 5})
    return root


@pytest.fixture(autouse=True)
def nothing_else_installed(monkeypatch, tmp_path):
    for name in ("SMELT_HOME", "HF_HUB_CACHE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))


class Client:
    """A server over a registry."""

    def __init__(self, registry, server):
        self.registry, self.port = registry, server.port

    def ask(self, method, path, **fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, json.dumps(fields), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)

    def chat(self, model, **fields):
        status, body = self.ask("POST", "/v1/chat/completions", **HELLO | {"model": model} | fields)
        assert status == 200, body
        return body["choices"][0]["message"]["content"]

    def states(self):
        return {row["id"]: row["state"] for row in self.ask("GET", "/v1/models")[1]["data"]}


@contextmanager
def house_of(root, model="one", options=None, **residency):
    options = {"max_concurrent": 8, "prefill_chunk": 64, "warmup": False, "timeout_s": 60} | (options or {})
    registry = Registry(Options(model=str(root / model), model_dirs=(str(root),), **options), Residency(**residency), Service)
    config = Settings(port=0, max_streams=16)
    server = Server(create_app(registry, config), config)
    loop = threading.Thread(target=server.run)
    loop.start()
    registry.start()
    try:
        registry.wait_ready(60)
        yield Client(registry, server)
    finally:
        server.drain(registry.close)
        registry.close()
        loop.join(10)


@pytest.fixture(scope="module")
def said(root):
    """What each says alone, by a server of its own."""
    found = {}
    for name in NAMES:
        service = Service(Options(model=None if name == "builtin" else str(root / name), warmup=False))
        with house_of_service(service) as client:
            found[name] = client.chat(name)
    assert len(set(found.values())) == 3
    return found


@contextmanager
def house_of_service(service):
    config = Settings(port=0, max_streams=2)
    server = Server(create_app(service, config), config)
    loop = threading.Thread(target=server.run)
    loop.start()
    service.start()
    service.wait_ready(60)
    try:
        yield Client(None, server)
    finally:
        server.drain(service.close)
        service.close()
        loop.join(10)


def threads():
    return len(os.listdir("/proc/self/task")) if Path("/proc/self/task").is_dir() else threading.active_count()


def test_three_models_answer_at_the_same_time_and_as_alone(root, said):
    with house_of(root) as client, ThreadPoolExecutor(12) as pool:
        asked = [*NAMES, "gpt-4"] * 3
        answers = list(pool.map(client.chat, asked))
        assert answers == [said.get(name, said["one"]) for name in asked]
        assert client.states() == dict.fromkeys(NAMES, "ready")


def test_what_a_model_can_do_is_known_before_it_is_loaded(root):
    with house_of(root) as client:
        before = client.ask("GET", "/v1/models/builtin")[1]
        assert before["state"] == "unloaded" and {"tool_use", "reasoning"} <= set(before["capabilities"])
        after = client.ask("POST", "/v1/load-model", model="builtin")[1]["model"]
        assert after["capabilities"] == before["capabilities"] and after["meta"]["architecture"] == before["meta"]["architecture"]
        assert after["bytes_on_disk"] == before["bytes_on_disk"] and after["bytes_resident"] > before["bytes_resident"] == 0


def test_the_one_not_used_for_longest_makes_way_and_memory_is_freed(root, said):
    before = mx.get_active_memory()
    with house_of(root, max_models=1) as client:
        weights = client.registry.default.weight_bytes
        assert weights > 30 << 20
        for name in ("one", "two", "one", "builtin", "two"):
            assert client.chat(name) == said[name]
            assert [each for each, state in client.states().items() if state == "ready"] == [name]
            assert mx.get_active_memory() - before < 1.5 * weights
    assert mx.get_active_memory() - before < weights // 4


def test_loading_again_and_again_leaves_no_thread_behind(root):
    with house_of(root, max_models=2) as client:
        for name in NAMES * 2:
            client.chat(name)
        settled = threads()
        for name in NAMES * 3:
            client.chat(name)
        assert threads() <= settled


def test_an_idle_model_is_unloaded_and_the_next_request_loads_it(root, said):
    with house_of(root, idle_s=0.4) as client:
        loaded = mx.get_active_memory()
        weights = client.registry.default.weight_bytes
        until(lambda: client.registry.default.state == "unloaded", 10)
        assert loaded - mx.get_active_memory() > 0.9 * weights
        status, health = client.ask("GET", "/health")
        assert (status, health) == (200, {"status": "ok", "models": {"one": "unloaded"}})
        row = client.ask("GET", "/v1/models/one")[1]
        assert (row["bytes_resident"], row["context_length"]) == (0, 1024) and row["bytes_on_disk"] > weights
        assert client.chat("one") == said["one"]


def test_a_busy_model_outlives_the_idle_timer_and_the_wish_for_another(root, said):
    with house_of(root, idle_s=0.2, max_models=1) as client:
        with ThreadPoolExecutor(2) as pool:
            running, default, seen = pool.submit(client.chat, "one", max_tokens=400), client.registry.default, []
            until(lambda: default.users == 1)
            other = pool.submit(client.chat, "two")
            while seen.append(default.state) or default.users:  # the state as it was while it was used
                time.sleep(0.01)
            assert set(seen[:-1]) == {"ready"} and len(seen) > 20
            assert running.result().startswith(said["one"]) and other.result() == said["two"]


def test_streams_go_on_while_another_model_is_loaded(root, monkeypatch):
    """Reading the weights of a large model takes seconds: here as long as a test says."""
    from smelt import models

    read, slow, done = models.read, threading.Event(), threading.Event()

    def reading(model, progress):
        slow.set()
        assert done.wait(30)
        read(model, progress)

    with house_of(root) as client, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(models, "read", reading)
        other = pool.submit(client.chat, "two")
        assert slow.wait(10) and client.states()["two"] == "loading"
        assert len(client.chat("one")) > 0 and not other.done()
        done.set()
        assert other.result()


def test_a_broken_checkpoint_is_told_and_loads_once_it_is_mended(root, said, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(root / name, tmp_path / "models" / name)
    weights = next((tmp_path / "models" / "two").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    before = mx.get_active_memory()
    with house_of(tmp_path / "models") as client:
        loaded = mx.get_active_memory()
        for _ in range(2):
            status, body = client.ask("POST", "/v1/chat/completions", **HELLO | {"model": "two"})
            assert (status, body["error"]["code"]) == (500, "model_load_failed")
            assert "two could not be loaded" in body["error"]["message"]
        row = client.ask("GET", "/v1/models/two")[1]
        assert row["state"] == "error" and row["error"] and not row["loaded"]
        assert mx.get_active_memory() - loaded < (loaded - before) // 4  # what was read of it is not kept
        assert client.chat("one") == said["one"] and client.ask("GET", "/health")[0] == 200
        weights.write_bytes(whole)
        assert client.chat("two") == said["two"] and client.states()["two"] == "ready"


def test_what_does_not_fit_is_refused_with_the_numbers(root, said):
    with house_of(root, "one", max_bytes=60 << 20) as client:
        assert client.chat("two") == said["two"] and client.states()["one"] == "unloaded"
        assert client.chat("builtin") == said["builtin"] and client.states()["two"] == "ready"
    with house_of(root, BUILTIN, max_bytes=20 << 20) as client:
        status, body = client.ask("POST", "/v1/load-model", model="one")
        assert (status, body["error"]["code"]) == (503, "out_of_memory")
        assert "MiB of weights, 20 MiB are allowed (--max-resident-mem)" in body["error"]["message"]
        assert client.registry.state == "ready"


def test_the_context_shrinks_for_another_model_and_comes_back(root, monkeypatch):
    """The memory left is shared; a promised context (--ctx-size) is not taken away."""
    from smelt.engine import limits
    from smelt.models import load

    memory, free = load(root / "two").memory(), {"tokens": 1100}
    monkeypatch.setattr(limits, "free_bytes", lambda: int(memory.row_bytes(free["tokens"]) / PORTION))
    with house_of(root, max_bytes=0) as client:
        default = client.registry.default.service
        assert default.context == 1024
        free["tokens"] = 600
        client.chat("two")
        assert 512 <= default.context < 1024
        status, body = client.ask("POST", "/v1/completions", model="one", prompt=[5] * 900, max_tokens=4)
        assert status == 400 and f"maximum context length is {default.context}" in body["error"]["message"]
        free["tokens"] = 1100
        assert client.ask("POST", "/v1/unload-model", model="two")[0] == 200
        assert default.context == 1024
    with house_of(root, options={"ctx_size": 1024}, max_bytes=0) as client:
        free["tokens"] = 600
        lease = client.registry.lease("one")  # in use, so that it cannot make way
        status, body = client.ask("POST", "/v1/load-model", model="two")
        assert (status, body["error"]["code"]) == (503, "out_of_memory") and "1024" in body["error"]["message"]
        lease.release()


# As a process

SLOW = """
import time
from smelt import models
read = models.read
def slowly(model, progress):
    if reads:
        for _ in range(600):
            time.sleep(0.05)
            progress(0, 1)
    reads.append(1)
    read(model, progress)
reads = []
models.read = slowly
"""


def flags_of(root, *more):
    return ("--model", str(root / "one"), "--model-dir", str(root), "--no-warmup-eager", "--drain-secs", "0.5", "--keep-alive-secs", "0.2", *more)


def test_a_signal_while_a_model_is_loading(root):
    with Smelt(*flags_of(root), real=True, before=SLOW) as smelt:
        smelt.ready()
        sock = smelt.ask("POST", "/v1/chat/completions", model="two", stream=True)
        assert b"200 OK" in sock.recv(1 << 16)
        while '"two":"loading"' not in rest(smelt.ask("GET", "/health")):
            time.sleep(0.02)
        began = time.monotonic()
        smelt.process.send_signal(signal.SIGTERM)
        assert "shutting down" in rest(sock)
        status, err = smelt.left(20)
        assert status == 0 and time.monotonic() - began < 8 and "Traceback" not in err


def test_a_signal_while_the_first_model_is_loading(root):
    with Smelt(*flags_of(root), real=True, before=SLOW.replace("reads = []", "reads = [1]")) as smelt:
        assert '"loading"' in rest(smelt.ask("GET", "/health"))
        time.sleep(0.5)
        began = time.monotonic()
        smelt.process.send_signal(signal.SIGTERM)
        status, err = smelt.left(20)
        assert status == 0 and time.monotonic() - began < 8 and "Traceback" not in err


def test_the_flags_reach_the_server(root):
    flags = flags_of(root, "--max-resident-models", "1", "--idle-evict-secs", "0.3", "--prefill-trace")
    with Smelt(*flags, real=True) as smelt:
        smelt.ready()
        assert " 200 " in rest(smelt.ask("POST", "/v1/chat/completions", model="two", max_tokens=4))
        health = rest(smelt.ask("GET", "/health"))
        assert '"two":"ready"' in health and '"one":"unloaded"' in health
        while '"two"' in rest(smelt.ask("GET", "/health")):
            time.sleep(0.05)
        smelt.process.send_signal(signal.SIGTERM)
        status, err = smelt.left(20)
    assert status == 0 and "loaded two: " in err and "unloaded two: " in err
    assert "the prefill is traced" in err and "  layer 3: " in err and "prefill of " in err


@pytest.mark.parametrize("command", ["run", "chat"])
def test_the_trace_of_a_prefill_in_the_terminal(root, command):
    words = ["run", "--model", str(root / "one"), "--max-tokens", "2", "Hi"]
    words = words if command == "run" else ["chat", "--model", str(root / "one"), "--max-tokens", "2"]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import conftest; from smelt.api import cli; sys.exit(cli.main({[*words, '--prefill-trace']!r}))"
    done = subprocess.run([sys.executable, "-c", code], input="Hi\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "prefill of " in done.stderr and "  layer 3: " in done.stderr and "layer" not in done.stdout
