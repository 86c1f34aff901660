"""POST /v1/embeddings: texts or tokens to vectors of unit length, by the model that is loaded."""

import base64
import logging
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.embedding import POOLING, Embedding
from ..engine.errors import BadRequest
from . import rules
from .answer import CLIENT_GONE, Generation
from .completions import Prompt, is_tokens
from .errors import Missing, WrongType, send
from .parameters import ANSWER, NO_EFFECT, Parameter, Table, read
from .request_ids import id_of
from .rules import Rule

log = logging.getLogger("smelt")
MOST_INPUTS = 2048  # as OpenAI has it


def check_input(name: str, value: Any) -> list[Prompt]:
    """A text, token ids, or a list of either."""
    if isinstance(value, str) or is_tokens(value):
        value = [value]
    if value == []:
        raise BadRequest(f"{name} is empty; it needs at least one text", name)
    if not isinstance(value, list):
        raise WrongType(
            f"{name} is {rules.kind_of(value)}; it must be a string, token ids, or an array of those", name
        )
    if len(value) > MOST_INPUTS:
        raise BadRequest(f"{name} has {len(value)} texts; at most {MOST_INPUTS} are allowed", name)
    for index, item in enumerate(value):
        if item == "":
            raise BadRequest(f"{name}[{index}] is empty; it must have at least one character", name)
        if not (isinstance(item, str) or is_tokens(item)):
            raise rules.wrong_type(f"{name}[{index}]", item, "a string or an array of token ids")
    return value


TABLE = Table(
    "POST /v1/embeddings",
    (
        Parameter(
            "input", Rule("string, token ids, or an array of those; required", check_input), "what is made vectors"
        ),
        ANSWER[0],
        Parameter("encoding_format", rules.one_of("float", "base64"), "base64: little-endian 32-bit floats"),
        Parameter("dimensions", rules.integer(1), "so many of the first components, made of unit length again"),
        Parameter(
            "pooling", rules.one_of(*POOLING), "of the last hidden states; else as the checkpoint says, or `mean`"
        ),
        Parameter("user", rules.string, "who asks", NO_EFFECT),
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    inputs: list[Prompt]
    model: str | None
    base64: bool
    dimensions: int | None
    pooling: str | None


def parse(body: Mapping[str, Any]) -> Call:
    given = read(TABLE, body)
    if given.get("input") is None:
        raise Missing("input is missing; it is required", "input")
    return Call(
        inputs=given.get("input"),
        model=given.get("model"),
        base64=given.get("encoding_format") == "base64",
        dimensions=given.get("dimensions"),
        pooling=given.get("pooling"),
    )


class Embeddings(Generation):
    """The engine reads the texts between the steps of other requests; this thread waits, and watches the client."""

    def on_post(self, req, resp):
        call = parse(self.body(req))
        with self.service_of(call.model) as service:
            width = service.info.hidden_size
            if call.dimensions is not None and call.dimensions > width:
                raise BadRequest(f"dimensions is {call.dimensions}; this model's vectors have {width}", "dimensions")
            with self.house.gate.place():
                embedding = service.embed(call.inputs, call.pooling)
                vectors = self.wait(embedding, req.env.get("waitress.client_disconnected", bool))
        if vectors is None:
            resp.status = CLIENT_GONE
            return
        self.house.metrics.count("embedding_tokens", amount=embedding.tokens)
        log.info("<- %d vectors of %d tokens %s", len(vectors), embedding.tokens, id_of(req))
        send(resp, whole(call, vectors, call.model or self.models.name, embedding.tokens))

    def wait(self, embedding: Embedding, gone) -> list[list[float]] | None:
        while (vectors := embedding.wait(self.settings.poll_s)) is None:
            if gone():
                embedding.cancel()
                return None
        return vectors


def whole(call: Call, vectors: list[list[float]], model: str, tokens: int) -> dict[str, Any]:
    cut = [vector if call.dimensions is None else shortened(vector, call.dimensions) for vector in vectors]
    data = [
        {"object": "embedding", "index": index, "embedding": packed(vector) if call.base64 else vector}
        for index, vector in enumerate(cut)
    ]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def shortened(vector: list[float], dimensions: int) -> list[float]:
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return [value / length for value in kept] if length else kept


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
