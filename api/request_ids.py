"""An id for every request, in the headers where each vendor's SDK looks for it, and in the log.

    x-request-id            OpenAI's; `_request_id` of the openai SDK's answers and errors
    request-id              Anthropic's, which has it in the body of errors, too
    openai-processing-ms    until the answer begins

A proxy in front may have given the request an id already (x-request-id); that is kept.
"""

import os
import re
import time

GIVEN = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


def new_id() -> str:
    return f"req_{os.urandom(16).hex()}"


def id_of(req) -> str:
    return req.context.request_id


def headers(ident: str) -> list[tuple[str, str]]:
    return [("x-request-id", ident), ("request-id", ident)]


class RequestIds:
    """Falcon's middleware. It comes first, so that refusals of the others have an id as well."""

    def process_request(self, req, resp):
        given = req.get_header("X-Request-Id") or ""
        req.context.request_id = given if GIVEN.fullmatch(given) else new_id()
        req.context.began = time.monotonic()

    def process_response(self, req, resp, resource, req_succeeded):
        spent = time.monotonic() - req.context.began
        resp.set_headers([*headers(id_of(req)), ("openai-processing-ms", str(round(spent * 1e3)))])
