"""What the tokenizer and the chat template do, without generating: llama.cpp's small routes, and /props."""

from ..engine.errors import BadRequest, NotReady
from . import chat_completions, rules
from .answer import Generation
from .errors import Missing, send
from .house import House
from .parameters import ANSWER, Parameter, Table, read
from .rules import Rule

MODEL = ANSWER[0]


def check_tokens(name: str, value) -> list[int]:
    tokens = rules.expect(name, value, list)
    return [rules.check_integer(f"{name}[{index}]", token, 0, 2**31 - 1) for index, token in enumerate(tokens)]


TOKENIZE = Table(
    "POST /tokenize",
    (
        Parameter("content", rules.string, "the text"),
        Parameter("add_special", rules.boolean, "put the tokenizer's first token (BOS) before it"),
        Parameter("parse_special", rules.boolean, "read the names of special tokens as those; the default"),
        Parameter("with_pieces", rules.boolean, "give each token as `{id, piece}`"),
        MODEL,
    ),
)
DETOKENIZE = Table(
    "POST /detokenize", (Parameter("tokens", Rule("array of token ids", check_tokens), "the ids"), MODEL)
)


class Tokenize(Generation):
    def on_post(self, req, resp):
        given = read(TOKENIZE, self.body(req))
        if (text := given.get("content")) is None:
            raise Missing("content is missing; it is required", "content")
        add_bos, special = given.get("add_special", False), given.get("parse_special", True)
        with self.service_of(given.get("model")) as service:
            tokenizer = service.tokenizer
        tokens = tokenizer.encode(text, add_bos=add_bos, parse_special=special)
        if given.get("with_pieces"):
            tokens = [{"id": token, "piece": piece_of(tokenizer.token_bytes(token))} for token in tokens]
        send(resp, {"tokens": tokens})


def piece_of(raw: bytes) -> str | list[int]:
    """As llama.cpp has it: a text, or the bytes where they are a part of a character."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)


class Detokenize(Generation):
    def on_post(self, req, resp):
        given = read(DETOKENIZE, self.body(req))
        if (tokens := given.get("tokens")) is None:
            raise Missing("tokens is missing; it is required", "tokens")
        with self.service_of(given.get("model")) as service:
            tokenizer, vocab = service.tokenizer, service.info.vocab_size
        beyond = next((token for token in tokens if token >= vocab), None)
        if beyond is not None:
            raise BadRequest(f"tokens has {beyond}; ids go from 0 to {vocab - 1}", "tokens")
        send(resp, {"content": tokenizer.decode(tokens, skip_special=False)})


class ApplyTemplate(Generation):
    """The prompt that a chat would be made into. Takes the parameters of /v1/chat/completions."""

    def on_post(self, req, resp):
        call = chat_completions.parse(self.body(req), self.settings.enable_thinking)
        with self.service_of(call.model) as service:
            send(resp, {"prompt": service.render(call.request)})


class Props:
    """Of the default model, or of ?model=NAME. It loads none."""

    def __init__(self, house: House):
        self.models, self.settings = house.models, house.settings

    def on_get(self, req, resp):
        name = req.get_param("model")
        resident = self.models.find(name, strict=name is not None)
        info = resident.described
        if info is None:
            raise NotReady(f"{resident.name} is {resident.state}: what it has is known once it was loaded")
        body = {
            "default_generation_settings": {"model": resident.name, "n_ctx": info.context},
            "total_slots": self.settings.max_streams,
            "chat_template": info.chat_template,
            "model_info": model_info(info),
            "memory": self.models.process.memory() | {"max_safe_context": info.context},
        }
        send(resp, body)


def model_info(info) -> dict:
    return {
        "architecture": info.architecture,
        "vocab_size": info.vocab_size,
        "hidden_size": info.hidden_size,
        "num_hidden_layers": info.layers,
        "num_attention_heads": info.heads,
        "num_key_value_heads": info.kv_heads,
        "head_dim": info.head_dim,
        "quantization": info.quantization,
        "max_position_embeddings": info.trained_context,
    }
