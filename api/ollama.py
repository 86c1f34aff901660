"""The few routes of Ollama's by which programs find out what runs here: Codex's local mode, lists of models in editors.

What they then ask goes to the OpenAI routes.
"""

import hashlib
import json
from collections.abc import Iterator

from . import rules
from .answer import Generation
from .errors import Missing, send
from .parameters import NO_EFFECT, Parameter, Table, read
from .status import Described, rfc3339

VERSION = "0.0.0"  # what Ollama says of itself when it is built from source: clients that look for features take it
PULL = Table(
    "POST /api/pull",
    (
        Parameter("model", rules.string, "one that is installed, which is there already; others are a 404", "", ("name",)),
        Parameter("stream", rules.boolean, "lines of JSON, as by default, or one object"),
        Parameter("insecure", rules.boolean, "nothing is fetched", NO_EFFECT),
    ),
)


class Version:
    def on_get(self, req, resp):
        send(resp, {"version": VERSION})


class Tags:
    def __init__(self, models):
        self.models = models

    def on_get(self, req, resp):
        send(resp, {"models": [row(resident) for resident in self.models.known() if resident.disk_bytes]})


def row(resident) -> dict:
    name, described = resident.name, Described(resident)
    identity = json.dumps([name, described.created, resident.disk_bytes])
    details = {"parent_model": "", "format": "safetensors", "family": described.architecture}
    return {
        "name": name,
        "model": name,
        "modified_at": rfc3339(described.created),
        "size": resident.disk_bytes,
        "digest": hashlib.sha256(identity.encode()).hexdigest(),
        "details": details | {"families": [described.architecture], "quantization_level": described.quantization},
    }


class Pull(Generation):
    def on_post(self, req, resp):
        given = read(PULL, self.body(req))
        wanted = given.get("model")
        if wanted is None:
            raise Missing("model is missing; it is required", "model")
        self.models.find(wanted.removesuffix(":latest"), strict=True)
        if given.get("stream", True):
            resp.content_type = "application/x-ndjson"
            resp.stream = lines({"status": "pulling manifest"}, {"status": "success"})
        else:
            send(resp, {"status": "success"})


def lines(*objects: dict) -> Iterator[bytes]:
    return (json.dumps(each).encode() + b"\n" for each in objects)
