"""The body of a request: JSON, an object, of a size and in characters that everything behind can take."""

import json
import re
from typing import Any

import falcon

from .errors import InvalidJson
from .rules import kind_of

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(req, max_bytes: int) -> dict[str, Any]:
    """The object that a request's body holds."""
    check_headers(req, max_bytes)
    return parse(req.bounded_stream.read())


def parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw, parse_constant=refuse_constant)
    except RecursionError:
        raise InvalidJson("the body is nested too deeply") from None
    except ValueError as error:  # also bad UTF-8, and integers of thousands of digits
        raise InvalidJson(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidJson(f"the body is {kind_of(body)}; it must be a JSON object")
    return whole_characters(body) if SURROGATE.search(raw) else body


def check_headers(req, max_bytes: int) -> None:
    kind = (req.content_type or falcon.MEDIA_JSON).partition(";")[0].strip().lower()
    if kind != falcon.MEDIA_JSON and not kind.endswith("+json"):
        raise falcon.HTTPUnsupportedMediaType(
            description=f"the content type is {kind}; send application/json (curl: -H Content-Type:application/json)"
        )
    if encoding := req.get_header("Content-Encoding"):
        raise falcon.HTTPUnsupportedMediaType(description=f"the content encoding is {encoding}; send the body as it is")
    if (req.content_length or 0) > max_bytes:  # waitress refuses it earlier; other servers may not
        raise falcon.HTTPContentTooLarge(
            description=f"the body has {req.content_length} bytes; {max_bytes} are allowed"
        )


def refuse_constant(text: str):
    raise ValueError(f"{text} is not JSON")


def whole_characters(value: Any) -> Any:
    """Half a surrogate pair, left when a client cuts a text inside an emoji, becomes U+FFFD; tokenizers refuse it."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(item) for key, item in value.items()}
    return value
