"""A provider's failure as one of our errors: what the caller can act on is kept, our account with it is not told.

The exceptions of an arbitrary class share no base, so what counts is what they bear: LangChain's kind, an HTTP status,
headers, a body. Their text is shown only where it is about the caller's own request.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import httpx
import httpx2
import orjson
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from pydantic import ValidationError

from models.errors import (
    ContextTooLong,
    InvalidRequest,
    ModelNotFound,
    PlatformError,
    RateLimited,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from serve.refusals import refusal, their_refusal

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 3_600.0
OVERLOADED = frozenset({503, 529})
# Anthropic's types, for errors that come inside a stream of status 200.
STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
    "timeout_error": 504,
}
STATUS_OF_KIND: tuple[tuple[type[Exception], int], ...] = (
    (ModelAuthenticationError, 401),
    (ModelPermissionDeniedError, 403),
    (ModelNotFoundError, 404),
    (ModelRateLimitError, 429),
    (ModelInvalidRequestError, 400),
    (ModelTimeoutError, 504),
)
TOO_LONG = re.compile(r"prompt is too long|exceed context limit|maximum context length|context_length_exceeded")
ACCOUNT = re.compile(r"credit balance|billing|organization|workspace|api[ _-]?key|usage limit", re.IGNORECASE)
CREDIT = re.compile(r"credit balance|billing|usage limit", re.IGNORECASE)
# Anthropic begins with the field: ``messages.0.content: …``.
FIELD = re.compile(r"^([a-z_]+)(?:[.\[][\w.\[\]]*)?: ")
OURS: Mapping[str, str] = {"stop_sequences": "stop", "system": "messages", "output_config": "response_format"}


def provider_error(
    error: Exception, *, started: bool, param: str | None = None, theirs: str | None = None
) -> PlatformError:
    """What the caller is told.

    ``started``: the provider has begun to answer; ``param``: what to blame; ``theirs``: the upstream that was called
    under an organisation's own key.
    """
    if isinstance(error, PlatformError):
        return error
    if isinstance(error, TimeoutError | ModelTimeoutError | httpx.TimeoutException | httpx2.TimeoutException):
        return UpstreamTimeout("The model did not answer in time.")
    if isinstance(error, ModelConnectionError):
        return _away(RETRY_SECONDS)
    body = _body(error)
    status = _status(error, body)
    if theirs is not None and status is not None and (about := _of_their_account(status, body, theirs)) is not None:
        return about
    if status is not None:
        return _of_status(status, body, _retry_after(error), too_long=isinstance(error, ContextOverflowError))
    if not started and _cannot_be_put(error, param):
        # The class found, before it asked, that it cannot put the request into the provider's words.
        return InvalidRequest("The model cannot be asked for this combination of parameters.", param=param)
    return UpstreamError("The model failed to answer.")


def _of_their_account(status: int, body: Mapping[str, Any], upstream: str) -> PlatformError | None:
    # Some say of an account that the request is invalid.
    if status == 400 and ACCOUNT.search(text := str(body.get("message", ""))):
        status = 402 if CREDIT.search(text) else 401
    return their_refusal(status, body.get("code"), upstream)


def _cannot_be_put(error: Exception, param: str | None) -> bool:
    """Whether a class failed over the request itself. Over a caller's schema it may stumble in other ways, too."""
    kinds = (ValueError,) if param is None else (ValueError, TypeError, AssertionError)
    return isinstance(error, kinds) and not isinstance(error, ValidationError | json.JSONDecodeError)


def _of_status(status: int, body: Mapping[str, Any], wait: float, *, too_long: bool) -> PlatformError:
    text = body.get("message")
    text = text if isinstance(text, str) else ""
    if status in {400, 413, 422} or too_long:
        return _invalid(status, text, body, wait, too_long=too_long)
    if status == 404:
        return ModelNotFound("The model does not exist or you do not have access to it.", param="model")
    if status == 429:
        return RateLimited("The model's provider limits its rate at the moment.", retry_after_seconds=wait)
    if status in {408, 504}:
        return UpstreamTimeout("The model did not answer in time.")
    if status in OVERLOADED:
        return _away(wait)
    if status == 402:
        return Unavailable("The model's provider refuses calls at the moment.", retry_after_seconds=wait)
    return UpstreamError("The model failed to answer.")


def _invalid(status: int, text: str, body: Mapping[str, Any], wait: float, *, too_long: bool) -> PlatformError:
    if too_long or TOO_LONG.search(text):
        return ContextTooLong(f"{text[:1].upper()}{text[1:300]}" or "The prompt is too long.", param="messages")
    if ACCOUNT.search(text):
        return Unavailable("The model's provider refuses calls at the moment.", retry_after_seconds=wait)
    named = FIELD.match(text)
    name = body.get("param") or (OURS.get(named.group(1), named.group(1)) if named else None)
    error = {"message": text, "param": name, "code": body.get("code")}
    return refusal(status, orjson.dumps({"error": error}), None, "", internal=False)


def _away(wait: float) -> Unavailable:
    return Unavailable("The model cannot be reached at the moment.", retry_after_seconds=wait)


def _body(error: Exception) -> Mapping[str, Any]:
    """The provider's error object, without what it is wrapped in."""
    body: object = getattr(error, "body", None)
    if not isinstance(body, dict):
        return {}
    inner = cast("dict[str, Any]", body).get("error", body)
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}


def _status(error: Exception, body: Mapping[str, Any]) -> int | None:
    status: object = getattr(error, "status_code", None)
    if isinstance(status, int) and status >= 400:
        return status
    named = STATUS_OF_TYPE.get(str(body.get("type")))
    return named or next((code for kind, code in STATUS_OF_KIND if isinstance(error, kind)), None)


def _retry_after(error: Exception) -> float:
    headers: object = getattr(getattr(error, "response", None), "headers", None)
    value = cast("Mapping[str, str]", headers).get("retry-after") if isinstance(headers, Mapping) else None
    try:
        seconds = float(value or RETRY_SECONDS)
    except ValueError:
        return RETRY_SECONDS
    return seconds if 0 < seconds <= RETRY_SECONDS_MAX else RETRY_SECONDS
