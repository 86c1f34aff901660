"""Who may call: pages of other origins, and the API key."""

import hmac

import falcon

from .settings import LOCAL_ORIGINS, Settings

METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
HEADERS = "Content-Type, Authorization, x-api-key, anthropic-version, anthropic-beta, openai-beta"
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/health", "/")


class Origins:
    """Cross-origin rules. Browsers enforce them for reading an answer; asking for one is refused here.

    A program that is no browser sends no Origin and is not concerned.
    """

    def __init__(self, settings: Settings):
        self.any = "*" in settings.origins
        self.listed = tuple(origin.rstrip("/") for origin in settings.origins)

    def allows(self, origin: str) -> bool:
        return self.any or origin in self.listed or any(is_within(origin, local) for local in LOCAL_ORIGINS)

    def process_request(self, req, resp):
        origin = req.get_header("Origin")
        if origin and req.method not in SAFE and not self.allows(origin):
            raise falcon.HTTPForbidden(
                description=f"pages of {origin} may not use this server; --cors-origin {origin} would allow them"
            )
        if req.method == "OPTIONS":
            resp.status, resp.complete = falcon.HTTP_204, True

    def process_response(self, req, resp, resource, req_succeeded):
        origin = req.get_header("Origin")
        if self.any:
            resp.set_header("Access-Control-Allow-Origin", "*")
        elif origin and self.allows(origin):
            resp.set_header("Access-Control-Allow-Origin", origin)
            resp.append_header("Vary", "Origin")
        else:
            return
        resp.set_header("Access-Control-Expose-Headers", "*")
        if req.method == "OPTIONS":
            preflight(req, resp)


def preflight(req, resp) -> None:
    """SDKs in a browser send headers of their own (x-stainless-...), so what is asked for is allowed."""
    resp.set_header("Access-Control-Allow-Methods", METHODS)
    resp.set_header("Access-Control-Allow-Headers", req.get_header("Access-Control-Request-Headers") or HEADERS)
    resp.set_header("Access-Control-Max-Age", "86400")
    if req.get_header("Access-Control-Request-Private-Network"):
        resp.set_header("Access-Control-Allow-Private-Network", "true")


def is_within(origin: str, local: str) -> bool:
    """`local` is a scheme (app://), or a host that a port may follow: localhost.evil.com is not localhost."""
    return origin == local or (origin.startswith(local) if local.endswith("://") else origin.startswith(local + ":"))


class ApiKey:
    """The key, as Bearer token or x-api-key. Compared in constant time, so that answers' timing does not spell it."""

    def __init__(self, key: str):
        self.key = key.encode()

    def process_request(self, req, resp):
        if req.method == "OPTIONS" or req.path in OPEN_PATHS:
            return
        given = [key.encode("utf-8", "replace") for key in keys_of(req)]
        if not any(hmac.compare_digest(key, self.key) for key in given):
            what = "the API key is wrong" if given else "an API key is needed"
            raise falcon.HTTPUnauthorized(
                description=f"{what}: send it as Authorization: Bearer KEY, or as x-api-key: KEY",
                challenges=["Bearer"],
            )


def keys_of(req) -> list[str]:
    scheme, _, token = (req.get_header("Authorization") or "").partition(" ")
    found = [token.strip()] if scheme.lower() == "bearer" and token.strip() else []
    return found + [key for key in [req.get_header("x-api-key")] if key]
