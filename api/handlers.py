"""What Falcon calls when something goes wrong: every error becomes an answer in the envelope of its dialect."""

import falcon

from ..engine.errors import Overloaded, RequestError
from .errors import CODES, as_request_error, envelope_for, is_anthropic, send, status_of, words_of
from .request_ids import id_of


def install(app: falcon.App) -> None:
    app.set_error_serializer(serialize)
    app.add_error_handler(RequestError, on_request_error)
    app.add_error_handler(Exception, on_any_error)
    # Falcon picks the most specific handler; beside one for Exception, its own has to be named again.
    app.add_error_handler(falcon.HTTPError, on_http_error)


def on_request_error(req, resp, error: RequestError, params) -> None:
    resp.status = status_of(error, req.path)
    if isinstance(error, Overloaded):
        resp.set_header("Retry-After", str(error.retry_after_s))
    if error.status == 503:
        resp.set_header("Retry-After", "1")
    refuse(req, resp, status_of(error, req.path), words_of(error, req.path), error.param, error.code)


def on_any_error(req, resp, error: Exception, params) -> None:
    on_request_error(req, resp, as_request_error(error), params)


def on_http_error(req, resp, error: falcon.HTTPError, params) -> None:
    resp.status = error.status
    if error.headers:
        resp.set_headers(error.headers)
    serialize(req, resp, error)


def serialize(req, resp, error: falcon.HTTPError) -> None:
    status = error.status_code
    refuse(req, resp, status, describe(req, error), None, CODES.get(status))


def refuse(req, resp, status: int, message: str, param: str | None, code: str | None) -> None:
    body = envelope_for(req.path)(status, message, param, code)
    send(resp, body | {"request_id": id_of(req)} if is_anthropic(req.path) else body)


def describe(req, error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPRouteNotFound):
        return f"there is no {req.path} here: see GET / for the routes"
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        return f"{req.path} does not take {req.method}, only {dict(error.headers or {}).get('Allow', 'others')}"
    return error.description or error.title or "the request could not be answered"
