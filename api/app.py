"""The Falcon application: `create_app(service, settings)` takes its collaborators, so tests give it fake ones."""

import falcon

from . import chat_completions, errors
from .answer import Gate, Generation
from .guards import ApiKey, Origins
from .openai_chunks import Head
from .settings import Settings
from .status import Health, Model, Models, Root


class ChatCompletions(Generation):
    def on_post(self, req, resp):
        call = chat_completions.parse(self.body(req), self.settings.enable_thinking)
        renderer = chat_completions.Renderer(call, Head(call.model or self.service.name))
        self.run(req, resp, call.request, renderer, call.stream)


class App(falcon.App):
    """`gate` is for the server that runs the app: it closes it when it drains."""

    gate: Gate


def create_app(service, settings: Settings = Settings()) -> App:
    guards = [Origins(settings)] + ([ApiKey(settings.api_key)] if settings.api_key else [])
    app = App(middleware=guards)
    app.gate = Gate(settings.max_streams)
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    for path, resource in routes(service, settings, app.gate).items():
        app.add_route(path, resource)
    return app


def routes(service, settings: Settings, gate: Gate) -> dict[str, object]:
    generation = (service, settings, gate)
    made: dict[str, object] = {
        "/health": Health(service, gate),
        "/v1/models": Models(service),
        "/v1/models/{model:path}": Model(service),
        "/v1/chat/completions": ChatCompletions(*generation),
    }
    return made | {"/": Root(service, list(made))}
