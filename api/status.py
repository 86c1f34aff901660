"""What the server says of itself: /health, /v1/models, /v1/kernels, the page at /."""

import time
from pathlib import Path

import falcon

from ..engine.registry import Registry
from ..engine.resident import Resident
from .errors import send
from .house import Gate
from .version import VERSION

OWNER = "smelt"


class Health:
    """200 when requests are answered, else 503 with the reason; start scripts look at the number."""

    def __init__(self, models: Registry, gate: Gate):
        self.models, self.gate = models, gate

    def on_get(self, req, resp):
        state = "closing" if self.gate.draining else self.models.state
        body = {"status": "ok" if state == "ready" else state, "models": self.states()}
        if state == "failed":
            body["error"] = str(self.models.error)
        if state != "ready":
            resp.status = falcon.HTTP_503
            resp.set_header("Retry-After", "1")
        send(resp, body)

    def states(self) -> dict[str, str]:
        """Of the default model, and of those that are or were to be loaded. The disk is not looked at."""
        return {r.name: r.state for r in list(self.models.models.values()) if r.asked or r.state != "unloaded"}

    on_head = on_get


class Models:
    def __init__(self, models: Registry):
        self.models = models

    def on_get(self, req, resp):
        rows = [row_for(req, resident) for resident in self.models.known()]
        ends = {"has_more": False, "first_id": rows[0]["id"], "last_id": rows[-1]["id"]}
        send(resp, {"object": "list", "data": rows} | ends)

    on_head = on_get


class Rescan:
    """The list, as mlx-serve's clients ask for it when they have put a model on the disk. Every GET looks there as well."""

    def __init__(self, models: Registry):
        self.list = Models(models)

    def on_post(self, req, resp):
        self.list.on_get(req, resp)


class Model:
    """One row of the list. An id may hold a slash (org/name)."""

    def __init__(self, models: Registry):
        self.models = models

    def on_get(self, req, resp, model: str):
        send(resp, row_for(req, self.models.find(model, strict=True)))

    on_head = on_get


def row_for(req, resident: Resident) -> dict:
    """In the words of whoever asks: Anthropic's SDK says so in a header."""
    return anthropic_row(resident) if req.get_header("anthropic-version") else row(resident)


def anthropic_row(resident: Resident) -> dict:
    info = resident.described
    made = {"type": "model", "id": resident.name, "display_name": resident.name, "lifecycle": "active"}
    made["created_at"] = rfc3339(Described(resident).created)
    return made | ({"max_input_tokens": info.context, "max_tokens": info.context} if info else {})


class Described:
    """What is known of a model whether it was loaded or only found on the disk."""

    def __init__(self, resident: Resident):
        info, found = resident.described, resident.found
        self.created = info.created if info else made_at(resident.folder)
        self.architecture = info.architecture if info else found and found.architecture
        self.quantization = info.quantization if info else found and found.quantisation


def made_at(folder: Path | None) -> int:
    try:
        return int((folder / "config.json").stat().st_mtime) if folder else 0
    except OSError:
        return 0


def rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def row(resident: Resident) -> dict:
    """The keys of mlx-serve; `context_length` and `max_model_len` at the top, where other clients look for them.

    What only the weights tell is there once the model was loaded.
    """
    info, described = resident.described, Described(resident)
    made = {
        "id": resident.name,
        "object": "model",
        "created": described.created,
        "owned_by": OWNER,
        "loaded": resident.state == "ready",
        "state": resident.state,
        "bytes_resident": resident.resident_bytes,
        "bytes_on_disk": resident.disk_bytes,
        "capabilities": capabilities(resident),
        "input_modalities": ["text"],
    }
    if resident.state == "error":
        made["error"] = str(resident.error)
    if info is None:
        known = {"architecture": described.architecture, "quantization": described.quantization}
        return made | ({"meta": known} if described.architecture else {})
    return made | {"context_length": info.context, "max_model_len": info.context, "meta": meta(info)}


def capabilities(resident: Resident) -> list[str]:
    info = resident.described
    tools, reasoning = (info.tools, info.reasoning) if info else resident.abilities
    optional = {"tool_use": tools, "reasoning": reasoning}
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
        "kv_quant": info.kv_quant,
    }


class Kernels:
    """Which way each operation has gone in this process, and why; the tuning table in use."""

    def __init__(self, models: Registry):
        self.models = models

    def on_get(self, req, resp):
        process = self.models.process
        fields = ("op", "case", "way", "why", "calls")
        ways = [{name: getattr(way, name) for name in fields} for way in process.kernels()]
        send(resp, {"object": "list", "data": ways, "tuning": process.tuning()})

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
    def __init__(self, models: Registry, routes):
        self.models, self.routes = models, routes

    def on_get(self, req, resp):
        rows = "".join(f"<li><code>{route}</code>" for route in self.routes)
        resp.content_type = falcon.MEDIA_HTML
        resp.text = PAGE.format(version=VERSION, model=escaped(self.models.name), routes=rows)

    on_head = on_get


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
