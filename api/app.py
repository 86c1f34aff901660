"""The Falcon application: `create_app(service, settings)` takes its collaborators, so tests give it fake ones."""

import functools
from collections.abc import Callable

import falcon

from . import chat_completions, completions, errors, message_events, messages
from .answer import Gate, Generation, House
from .errors import send
from .guards import ApiKey, Origins
from .metrics import Metrics, Scrape
from .openai_chunks import Head
from .settings import Settings
from .status import Health, Kernels, Model, Models, Root
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


# The Responses dialect is imported with its first request: 35 ms that the port does not wait for.
RESPONSES = {
    "/v1/responses": ("on_get", "on_post"),
    "/v1/responses/compact": ("on_post",),
    "/v1/responses/input_tokens": ("on_post",),
    "/v1/responses/{ident}": ("on_get", "on_delete"),
    "/v1/responses/{ident}/input_items": ("on_get",),
    "/v1/responses/{ident}/cancel": ("on_post",),
}


def responses(house: House) -> dict[str, object]:
    @functools.cache
    def real() -> dict[str, object]:
        from . import response_routes
        from .response_store import Shelf

        return response_routes.routes(house, Shelf())

    return {path: later(lambda path=path: real()[path], names) for path, names in RESPONSES.items()}


def later(resource: Callable[[], object], names: tuple[str, ...]) -> object:
    """A resource with these responders, which finds out who it is when one is called."""

    def responder(name):
        return lambda self, req, resp, **params: getattr(resource(), name)(req, resp, **params)

    return type("Later", (), {name: responder(name) for name in names})()


class App(falcon.App):
    """`gate` is for the server that runs the app: it closes it when it drains."""

    gate: Gate


def create_app(service, settings: Settings = Settings()) -> App:
    house = House(service, settings, Gate(settings.max_streams), Metrics())
    guards = [Origins(settings)] + ([ApiKey(settings.api_key)] if settings.api_key else [])
    app = App(middleware=[house.metrics, *guards])
    app.gate = house.gate
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    for path, resource in routes(house).items():
        app.add_route(path, resource)
    return app


def routes(house: House) -> dict[str, object]:
    service = house.service
    made: dict[str, object] = {
        "/health": Health(service, house.gate),
        "/v1/models": Models(service),
        "/v1/models/{model:path}": Model(service),
        "/v1/kernels": Kernels(service),
        "/v1/chat/completions": ChatCompletions(house),
        "/v1/completions": Completions(house),
        "/v1/messages": Messages(house),
        "/v1/messages/count_tokens": CountTokens(house),
        "/tokenize": Tokenize(house),
        "/detokenize": Detokenize(house),
        "/apply-template": ApplyTemplate(house),
        "/props": Props(service, house.settings),
        "/metrics": Scrape(house),
    }
    made |= responses(house)
    return made | {"/": Root(service, list(made))}
