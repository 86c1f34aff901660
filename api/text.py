"""What the tokenizer and the chat template do, without generating: llama.cpp's small routes, and /props."""

from ..engine.errors import BadRequest
from . import chat_completions, rules
from .answer import Generation
from .errors import Missing, send
from .parameters import NO_EFFECT, Parameter, Table, read
from .rules import Rule

MODEL = Parameter("model", rules.string, "there is one model", NO_EFFECT)


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
        self.service.check()
        tokenizer = self.service.tokenizer
        add_bos, special = given.get("add_special", False), given.get("parse_special", True)
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
        tokens = read(DETOKENIZE, self.body(req)).get("tokens")
        if tokens is None:
            raise Missing("tokens is missing; it is required", "tokens")
        self.service.check()
        beyond = next((token for token in tokens if token >= self.service.info.vocab_size), None)
        if beyond is not None:
            raise BadRequest(f"tokens has {beyond}; ids go from 0 to {self.service.info.vocab_size - 1}", "tokens")
        send(resp, {"content": self.service.tokenizer.decode(tokens, skip_special=False)})


class ApplyTemplate(Generation):
    """The prompt that a chat would be made into. Takes the parameters of /v1/chat/completions."""

    def on_post(self, req, resp):
        call = chat_completions.parse(self.body(req), self.settings.enable_thinking)
        self.service.check()
        send(resp, {"prompt": self.service.render(call.request)})


class Props:
    def __init__(self, service, settings):
        self.service, self.settings = service, settings

    def on_get(self, req, resp):
        self.service.check()
        info = self.service.info
        body = {
            "default_generation_settings": {"model": self.service.name, "n_ctx": info.context},
            "total_slots": self.settings.max_streams,
            "chat_template": info.chat_template,
            "model_info": model_info(info),
            "memory": self.service.memory() | {"max_safe_context": info.context},
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
