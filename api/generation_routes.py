"""The routes that generate, those that show a request's tokens or prompt without generating, and Ollama's."""

from . import chat_completions, completions, message_events, messages
from .answer import Generation
from .embeddings import Embeddings
from .errors import send
from .house import House
from .ollama import Pull, Tags, Version
from .openai_chunks import Head
from .text import ApplyTemplate, Detokenize, Props, Tokenize


class ChatCompletions(Generation):
    def on_post(self, req, resp):
        call = chat_completions.parse(self.body(req), self.settings.enable_thinking)
        renderer = chat_completions.Renderer(call, Head(call.model or self.service.name))
        self.run(req, resp, lambda: self.service.submit(call.request), call.request.n, renderer, call.stream)


class Completions(Generation):
    def on_post(self, req, resp):
        call = completions.parse(self.body(req))
        head = Head(call.model or self.service.name, "cmpl")
        renderer = completions.Renderer(call, head, self.echoed(call) if call.echo else [])
        self.run(req, resp, lambda: completions.submit(self.service, call), call.choices, renderer, call.stream)

    def echoed(self, call: completions.Call) -> list[str]:
        self.service.check()
        decode = self.service.tokenizer.decode
        return [request.text if request.tokens is None else decode(request.tokens) for request in call.requests]


class Messages(Generation):
    def on_post(self, req, resp):
        call = messages.parse(self.body(req), self.settings.enable_thinking)
        renderer = message_events.Renderer(call, call.model or self.service.name)
        self.run(req, resp, lambda: self.service.submit(call.request), 1, renderer, call.stream)


class CountTokens(Generation):
    def on_post(self, req, resp):
        call = messages.parse(self.body(req), self.settings.enable_thinking, messages.COUNT_TABLE)
        self.service.check()
        send(resp, {"input_tokens": len(self.service.prompt_of(call.request))})


def routes(house: House) -> dict[str, object]:
    return {
        "/v1/chat/completions": ChatCompletions(house),
        "/v1/completions": Completions(house),
        "/v1/messages": Messages(house),
        "/v1/messages/count_tokens": CountTokens(house),
        "/v1/embeddings": Embeddings(house),
        "/tokenize": Tokenize(house),
        "/detokenize": Detokenize(house),
        "/apply-template": ApplyTemplate(house),
        "/props": Props(house.service, house.settings),
        "/api/tags": Tags(house.service),
        "/api/version": Version(),
        "/api/pull": Pull(house),
    }
