"""POST /v1/load-model and /v1/unload-model: which models are in memory, as mlx-serve has it.

Only what is installed is loaded; nothing is downloaded.
"""

from . import rules
from .answer import CLIENT_GONE, Generation
from .errors import Missing, send
from .parameters import Given, Parameter, Table, read
from .status import row


def table(route: str, doc: str) -> Table:
    return Table(f"POST {route}", (Parameter("model", rules.string, doc + "; any other name is a 404"),))


LOAD = table("/v1/load-model", "required; one of /v1/models, which is loaded if it is not")
UNLOAD = table("/v1/unload-model", "required; one of /v1/models. While requests use it, the answer is a 409")


def named(given: Given) -> str:
    name = given.get("model")
    if name is None:
        raise Missing("model is missing; it is required", "model")
    return name


class LoadModel(Generation):
    """Answers when the model is loaded, with its row of /v1/models."""

    def on_post(self, req, resp):
        name = named(read(LOAD, self.body(req)))
        gone = req.env.get("waitress.client_disconnected", bool)
        with self.house.gate.place():
            lease = self.models.lease(name, strict=True)
            try:
                while lease.ready(self.settings.poll_s) is None:
                    if gone():
                        resp.status = CLIENT_GONE
                        return
                send(resp, {"model": row(lease.resident)})
            finally:
                lease.release()


class UnloadModel(Generation):
    def on_post(self, req, resp):
        name = named(read(UNLOAD, self.body(req)))
        send(resp, {"model": row(self.models.unload(name))})
