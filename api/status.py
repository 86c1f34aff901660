"""What the server says of itself: /health, /v1/models, /v1/kernels, the page at /."""

import time

import falcon

from ..engine.errors import ModelNotFound
from .errors import send
from .house import Gate
from .version import VERSION

OWNER = "smelt"


class Health:
    """200 when requests are answered, else 503 with the reason; start scripts look at the number."""

    def __init__(self, service, gate: Gate):
        self.service, self.gate = service, gate

    def on_get(self, req, resp):
        state = "closing" if self.gate.draining else self.service.state
        body = {"status": "ok" if state == "ready" else state}
        if state == "failed":
            body["error"] = str(self.service.error)
        if state != "ready":
            resp.status = falcon.HTTP_503
            resp.set_header("Retry-After", "1")
        send(resp, body)

    on_head = on_get


class Models:
    def __init__(self, service):
        self.service = service

    def on_get(self, req, resp):
        rows = [row_for(req, self.service)]
        ends = {"has_more": False, "first_id": rows[0]["id"], "last_id": rows[-1]["id"]}
        send(resp, {"object": "list", "data": rows} | ends)

    on_head = on_get


class Model:
    """One row of the list. An id may hold a slash (org/name)."""

    def __init__(self, service):
        self.service = service

    def on_get(self, req, resp, model: str):
        if model != self.service.name:
            raise ModelNotFound(f"there is no model {model!r} here; this server has {self.service.name!r}", "model")
        send(resp, row_for(req, self.service))

    on_head = on_get


def row_for(req, service) -> dict:
    """In the words of whoever asks: Anthropic's SDK says so in a header."""
    return anthropic_row(service) if req.get_header("anthropic-version") else row(service)


def anthropic_row(service) -> dict:
    info = service.info
    made = {"type": "model", "id": service.name, "display_name": service.name, "lifecycle": "active"}
    made["created_at"] = rfc3339(info.created if info else 0)
    return made | ({"max_input_tokens": info.context, "max_tokens": info.context} if info else {})


def rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def row(service) -> dict:
    """The keys of mlx-serve; `context_length` and `max_model_len` at the top, where other clients look for them."""
    info = service.info
    states = {"ready": "ready", "loading": "loading", "failed": "error", "closed": "unloaded"}
    made = {
        "id": service.name,
        "object": "model",
        "created": info.created if info else 0,
        "owned_by": OWNER,
        "loaded": service.state == "ready",
        "state": states.get(service.state, service.state),
        "capabilities": capabilities(info),
        "input_modalities": ["text"],
    }
    if info is None:
        return made
    lengths = {"context_length": info.context, "max_model_len": info.context}
    sizes = {"bytes_resident": info.weight_bytes, "bytes_on_disk": info.disk_bytes}
    return made | lengths | sizes | {"meta": meta(info)}


def capabilities(info) -> list[str]:
    optional = {"tool_use": info.tools, "reasoning": info.reasoning} if info else {}
    return ["chat", "streaming", "embeddings", *(name for name, present in optional.items() if present)]


def meta(info) -> dict:
    return {
        "architecture": info.architecture,
        "vocab_size": info.vocab_size,
        "hidden_size": info.hidden_size,
        "num_layers": info.layers,
        "quantization": info.quantization,
        "context_length": info.context,
        "model_max_tokens": info.trained_context or info.context,
        "pooling": info.pooling,
    }


class Kernels:
    """Which way each operation has gone in this process, and why; the tuning table in use."""

    def __init__(self, service):
        self.service = service

    def on_get(self, req, resp):
        fields = ("op", "case", "way", "why", "calls")
        ways = [{name: getattr(way, name) for name in fields} for way in self.service.kernels()]
        send(resp, {"object": "list", "data": ways, "tuning": self.service.tuning()})

    on_head = on_get


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Smelt</title>
<style>body{{font:16px/1.6 system-ui;max-width:40em;margin:4em auto}} code{{background:#8882}}</style>
<h1>Smelt {version}</h1>
<p>This server answers for <code>{model}</code>.</p>
<ul>{routes}</ul>
</html>
"""


class Root:
    def __init__(self, service, routes):
        self.service, self.routes = service, routes

    def on_get(self, req, resp):
        rows = "".join(f"<li><code>{route}</code>" for route in self.routes)
        resp.content_type = falcon.MEDIA_HTML
        resp.text = PAGE.format(version=VERSION, model=escaped(self.service.name), routes=rows)

    on_head = on_get


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
