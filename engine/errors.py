"""What can go wrong with a request, in the words of the engine. Each dialect renders these as its clients expect."""


class RequestError(Exception):
    """A request that did not succeed. `param` names the offending field in the caller's own terms, where one does."""

    status = 500
    code = "server_error"

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.message, self.param = message, param


class BadRequest(RequestError):
    """The request is wrong in itself; sending it again will fail again."""

    status, code = 400, "invalid_value"


class ContextExceeded(BadRequest):
    """The prompt does not fit the context window. Clients that shorten conversations look for the words `maximum context`."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context: int, param: str | None = "messages"):
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, and this model's maximum context length is {context}: shorten the"
            " prompt or start the server with a larger --ctx-size",
            param,
        )
        self.prompt_tokens, self.context = prompt_tokens, context


class ModelNotFound(RequestError):
    status, code = 404, "model_not_found"


class Overloaded(RequestError):
    """No room now; `retry_after_s` says when to try again."""

    status, code = 429, "rate_limit_exceeded"

    def __init__(self, message: str, retry_after_s: int = 1):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(RequestError):
    """The model is still loading, or the engine is shutting down."""

    status, code = 503, "not_ready"


class EngineFailed(RequestError):
    """A step raised, or the engine thread died. The request is lost, the server goes on."""

    status, code = 500, "engine_failed"
