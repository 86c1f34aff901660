"""Errors as each dialect's clients expect them: the OpenAI envelope, and Anthropic's below /v1/messages."""

import json
import logging
from typing import Any

from ..engine.errors import BadRequest, ContextExceeded, EngineFailed, Overloaded, RequestError

log = logging.getLogger("smelt")
ANTHROPIC = "/v1/messages"
OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
}


class WrongType(BadRequest):
    code = "invalid_type"


class Missing(BadRequest):
    code = "missing_required_parameter"


class UnknownParameter(BadRequest):
    code = "unknown_parameter"


class Unsupported(BadRequest):
    """Known to the dialect, not in this version of Smelt."""

    code = "unsupported_parameter"


class NoThreads(Unsupported):
    """By this code Anthropic's SDK goes on without asking the server to hold its conversation."""

    code = "thread_unsupported_request"


class InvalidJson(BadRequest):
    code = "invalid_json"


def openai_envelope(status: int, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    kind = OPENAI_TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic_envelope(status: int, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error")
    details = {"error_code": code, "param": param} if code else None
    return {"type": "error", "error": {"type": kind, "message": message, "details": details}}


def status_of(error: RequestError, path: str) -> int:
    """Anthropic's clients know 529 as "overloaded, come back"; 429 means a quota to them."""
    return 529 if isinstance(error, Overloaded) and is_anthropic(path) else error.status


def words_of(error: RequestError, path: str) -> str:
    """By these words Claude Code and others find out that a conversation is to be shortened."""
    if isinstance(error, ContextExceeded) and is_anthropic(path):
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.context} maximum: {error.message}"
    return error.message


def is_anthropic(path: str) -> bool:
    return path == ANTHROPIC or path.startswith(ANTHROPIC + "/")


def envelope_for(path: str):
    return anthropic_envelope if is_anthropic(path) else openai_envelope


def as_request_error(error: Exception) -> RequestError:
    """What a client may know of any error. Details of our own faults go to the log, not over the wire."""
    if isinstance(error, RequestError):
        return error
    log.error("a request failed", exc_info=error)
    return EngineFailed(f"the server failed on this request ({type(error).__name__}); its log says more")


def send(resp, body: Any) -> None:
    resp.content_type = "application/json"
    resp.data = encode(body)


def encode(body: Any) -> bytes:
    """Compact JSON as UTF-8. Half a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
