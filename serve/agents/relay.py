"""Errors of the calls an agent makes, as errors of the agent's own call: same status, same words, same code."""

from collections.abc import Mapping
from typing import Any, cast

import httpx2
import openai

from models.errors import (
    BodyTooLarge,
    ContextTooLong,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    PlatformError,
    QuotaExhausted,
    RateLimited,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)

BY_STATUS: dict[int, type[PlatformError]] = {
    400: InvalidRequest,
    403: PermissionDenied,
    404: ModelNotFound,
    413: BodyTooLarge,
    429: RateLimited,
    500: PlatformError,
    503: Unavailable,
    504: UpstreamTimeout,
}
BY_CODE: dict[str, type[PlatformError]] = {
    kind.default_code: kind
    for kind in (ContextTooLong, QuotaExhausted, RateLimited, ModelNotFound, Unavailable, UpstreamTimeout)
    if kind.default_code
}
BY_TYPE: dict[str, type[PlatformError]] = {kind.type: kind for kind in (InvalidRequest, PlatformError)}


def relayed(status: int | None, body: object, headers: Mapping[str, str]) -> PlatformError:
    """The error that an inner call's answer stands for; ``status`` is None for an error inside a stream.

    What is no error object of ours, or says that our own credentials failed, is an UpstreamError.
    """
    holder = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    inner = holder.get("error", holder)
    fields = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
    message, code = fields.get("message"), fields.get("code")
    kind = BY_CODE.get(str(code))
    if kind is None or (status is not None and kind.status != status):
        kind = BY_TYPE.get(str(fields.get("type"))) if status is None else BY_STATUS.get(status)
    if kind is None or not isinstance(message, str):
        return UpstreamError("A service that the agent needs failed.")
    return kind(message, code=code if isinstance(code, str) else None, retry_after_seconds=_retry_after(headers))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    milliseconds, seconds = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    if milliseconds.isdigit():
        return int(milliseconds) / 1_000
    return float(seconds) if seconds.isdigit() else None


def from_client(error: openai.APIError | httpx2.HTTPError) -> PlatformError:
    """The error of a model call made through OpenAI's client."""
    if isinstance(error, openai.APIStatusError):
        return relayed(error.status_code, error.body, error.response.headers)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return UpstreamTimeout("The agent's model did not answer in time.")
    if isinstance(error, openai.APIConnectionError):
        return Unavailable("The agent's model cannot be reached.", retry_after_seconds=1.0)
    if isinstance(error, openai.APIError):
        return relayed(None, error.body, {})
    return UpstreamError("The agent's model broke off its answer.")
