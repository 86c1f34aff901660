"""The Falcon application: `create_app(models, settings)` takes its collaborators, so tests give it fake ones."""

import falcon

from ..engine.registry import Registry
from . import handlers
from .guards import ApiKey, Origins
from .house import Gate, House
from .late import Late
from .metrics import Metrics, Scrape
from .request_ids import RequestIds
from .settings import Settings
from .status import Health, Kernels, Model, Models, Rescan, Root

GENERATION = {
    "/v1/chat/completions": ("on_post",),
    "/v1/completions": ("on_post",),
    "/v1/messages": ("on_post",),
    "/v1/messages/count_tokens": ("on_post",),
    "/v1/embeddings": ("on_post",),
    "/tokenize": ("on_post",),
    "/detokenize": ("on_post",),
    "/apply-template": ("on_post",),
    "/props": ("on_get",),
    "/api/tags": ("on_get",),
    "/api/version": ("on_get",),
    "/api/pull": ("on_post",),
    "/v1/load-model": ("on_post",),
    "/v1/unload-model": ("on_post",),
}
RESPONSES = {
    "/v1/responses": ("on_get", "on_post"),
    "/v1/responses/compact": ("on_post",),
    "/v1/responses/input_tokens": ("on_post",),
    "/v1/responses/{ident}": ("on_get", "on_delete"),
    "/v1/responses/{ident}/input_items": ("on_get",),
    "/v1/responses/{ident}/cancel": ("on_post",),
}


def late_routes(house: House) -> list[Late]:
    def generation() -> dict[str, object]:
        from . import generation_routes

        return generation_routes.routes(house)

    def responses() -> dict[str, object]:
        from . import response_routes
        from .response_store import Shelf

        return response_routes.routes(house, Shelf())

    return [Late(GENERATION, generation), Late(RESPONSES, responses)]


class App(falcon.App):
    """`gate` is for the server that runs the app: it closes it when it drains."""

    gate: Gate
    late: list[Late]

    def warm(self) -> None:
        """Import what the first requests would wait for. Not the Responses dialect, which few clients speak."""
        self.late[0].real()


def create_app(models, settings: Settings = Settings(), gate: Gate | None = None) -> App:
    """models: a Registry; or a service, which is the one model that there is then."""
    registry = models if isinstance(models, Registry) else Registry.around(models)
    house = House(registry, settings, gate or Gate(settings.max_streams), Metrics())
    guards = [Origins(settings)] + ([ApiKey(settings.api_key)] if settings.api_key else [])
    app = App(middleware=[RequestIds(), house.metrics, *guards])
    app.gate, app.late = house.gate, late_routes(house)
    app.req_options.strip_url_path_trailing_slash = True
    handlers.install(app)
    for path, resource in routes(house, app.late).items():
        app.add_route(path, resource)
    return app


def routes(house: House, late: list[Late]) -> dict[str, object]:
    models = house.models
    made: dict[str, object] = {
        "/health": Health(models, house.gate),
        "/v1/models": Models(models),
        "/v1/models/rescan": Rescan(models),
        "/v1/models/{model:path}": Model(models),
        "/v1/kernels": Kernels(models),
        "/metrics": Scrape(house),
    }
    for each in late:
        made |= each.stand_ins()
    return made | {"/": Root(models, list(made))}
