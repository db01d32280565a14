"""The one error tree. Every error a caller may see is one of these; the edge renders it, nothing else does.

    PlatformError                500 server_error
    ├── InvalidRequest           400 invalid_request_error
    │   ├── ContextTooLong       400 context_length_exceeded
    │   ├── ContentFiltered      400 content_filter
    │   ├── BodyTooLarge         413
    │   └── UnsupportedMedia     415
    ├── Unauthenticated          401 invalid_api_key
    ├── PermissionDenied         403 permission_error
    ├── NotFound                 404 not_found
    │   └── ModelNotFound        404 model_not_found
    ├── MethodNotAllowed         405
    ├── Conflict                 409
    ├── RateLimited              429 rate_limit_exceeded
    │   ├── LimitReached         429, with headers that say which limit
    │   └── QuotaExhausted       429 insufficient_quota
    ├── UpstreamError            502 upstream_error
    │   ├── UpstreamTimeout      504
    │   └── Unavailable          503

The wire shape is OpenAI's: ``{"error": {"message", "type", "param", "code"}}`` (platform.openai.com, Errors).
Errors cross process boundaries, so each survives pickling: every field is an argument of ``__init__``.
"""

from typing import Any, ClassVar


class PlatformError(Exception):
    """Base of all errors a caller may see.

    ``message`` is written for the caller and never holds an internal name, path or secret. ``param`` names the
    request field at fault. ``retry_after_seconds`` becomes ``retry-after`` and ``retry-after-ms``.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, param, code, retry_after_seconds)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """The OpenAI error object, ready to be serialised."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(PlatformError):
    """The request itself is wrong; sending it again cannot succeed."""

    status = 400
    type = "invalid_request_error"


class ContextTooLong(InvalidRequest):
    """Prompt plus requested output exceed the model's context window; the message carries the counts."""

    default_code = "context_length_exceeded"


class ContentFiltered(InvalidRequest):
    """A provider's filter refuses the prompt; another model's need not."""

    default_code = "content_filter"


class BodyTooLarge(InvalidRequest):
    """The request body exceeds the limit."""

    status = 413
    default_code = "body_too_large"


class UnsupportedMedia(InvalidRequest):
    """The content type is not one the route takes."""

    status = 415
    default_code = "unsupported_media_type"


class Unauthenticated(PlatformError):
    """No key, or one that is unknown, expired or revoked: the same answer for each, so nothing can be probed."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class PermissionDenied(PlatformError):
    """The principal is known and may not do this."""

    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(PlatformError):
    """There is no such thing, or it is another organisation's: the same answer for both."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    """The model does not exist or this principal may not use it: the same answer for both."""

    default_code = "model_not_found"


class MethodNotAllowed(PlatformError):
    """The path exists, the method does not. ``allowed`` becomes the ``allow`` header (RFC 9110, 15.5.6)."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
        allowed: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, param, code, retry_after_seconds)
        # What pickle calls the constructor with.
        self.args = (message, param, code, retry_after_seconds, allowed)
        self.allowed = allowed


class Conflict(PlatformError):
    """The change collides with the present state."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class RateLimited(PlatformError):
    """Too many requests, tokens or concurrent calls."""

    status = 429
    type = "rate_limit_exceeded"
    default_code = "rate_limit_exceeded"


RateHeaders = tuple[tuple[bytes, bytes], ...]


class LimitReached(RateLimited):
    """A refusal, with the headers that say which limit it was."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
        headers: RateHeaders = (),
    ) -> None:
        super().__init__(message, param, code, retry_after_seconds)
        # What pickle calls the constructor with.
        self.args = (message, param, code, retry_after_seconds, headers)
        self.headers = headers


class QuotaExhausted(RateLimited):
    """A budget is spent."""

    type = "insufficient_quota"
    default_code = "insufficient_quota"


class UpstreamError(PlatformError):
    """The upstream failed before it answered."""

    status = 502
    type = "upstream_error"
    default_code = "upstream_error"


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""

    status = 504
    default_code = "upstream_timeout"


class Unavailable(UpstreamError):
    """Nothing can answer at the moment; trying again later may help."""

    status = 503
    default_code = "unavailable"
