"""The routes that generate, those that show a request's tokens or prompt without generating, and Ollama's."""

from . import chat_completions, completions, message_events, messages
from .answer import Generation
from .embeddings import Embeddings
from .errors import send
from .house import House
from .loading import LoadModel, UnloadModel
from .ollama import Pull, Tags, Version
from .openai_chunks import Head
from .text import ApplyTemplate, Detokenize, Props, Tokenize


class ChatCompletions(Generation):
    def on_post(self, req, resp):
        call = chat_completions.parse(self.body(req), self.settings.enable_thinking)
        renderer = chat_completions.Renderer(call, Head(call.model or self.models.name))
        self.run(req, resp, call, lambda service: service.submit(call.request), call.request.n, renderer)


class Completions(Generation):
    def on_post(self, req, resp):
        call = completions.parse(self.body(req))
        renderer = completions.Renderer(call, Head(call.model or self.models.name, "cmpl"))
        self.run(req, resp, call, lambda service: self.submit(service, call, renderer), call.choices, renderer)

    @staticmethod
    def submit(service, call: completions.Call, renderer: completions.Renderer):
        service.check()
        renderer.prompts = completions.echoed(service, call) if call.echo else []
        return completions.submit(service, call)


class Messages(Generation):
    def on_post(self, req, resp):
        call = messages.parse(self.body(req), self.settings.enable_thinking)
        renderer = message_events.Renderer(call, call.model or self.models.name)
        self.run(req, resp, call, lambda service: service.submit(call.request), 1, renderer)


class CountTokens(Generation):
    def on_post(self, req, resp):
        call = messages.parse(self.body(req), self.settings.enable_thinking, messages.COUNT_TABLE)
        with self.service_of(call.model) as service:
            send(resp, {"input_tokens": len(service.prompt_of(call.request))})


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
        "/props": Props(house),
        "/api/tags": Tags(house.models),
        "/api/version": Version(),
        "/api/pull": Pull(house),
        "/v1/load-model": LoadModel(house),
        "/v1/unload-model": UnloadModel(house),
    }
