"""Errors as Anthropic's clients know them, in the names of Anthropic's parameters.

The shape is ``{"type": "error", "error": {"type", "message"}, "request_id"}``. The status is that of our error tree,
but for a model that cannot be reached at the moment: 529, on which their clients come back.
Source: https://platform.claude.com/docs/en/api/errors
"""

import re
from typing import Any, cast

import orjson

from models.errors import (
    BodyTooLarge,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    PlatformError,
    QuotaExhausted,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UpstreamTimeout,
)
from serve.asgi import Headers, Send, headers_of, send_json
from serve.messages.headers import translated

OVERLOADED_STATUS = 529
# The first that fits: a kind stands before the kind it is one of.
KINDS: tuple[tuple[type[PlatformError], str], ...] = (
    (BodyTooLarge, "request_too_large"),
    (InvalidRequest, "invalid_request_error"),
    (Unauthenticated, "authentication_error"),
    (PermissionDenied, "permission_error"),
    (NotFound, "not_found_error"),
    (RateLimited, "rate_limit_error"),
    (UpstreamTimeout, "timeout_error"),
    (Unavailable, "overloaded_error"),
)
# Of what may still fail when an answer has begun.
BY_CODE = {kind.default_code: name for kind, name in KINDS if kind.default_code}
# Ours on the left: what the gateway, an engine or a provider calls the parameter.
NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "thinking_token_budget": "thinking.budget_tokens",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
QUOTED = re.compile(r"'([a-z_]+)'")
CHAT_PATH = "/v1/chat/completions"
CONTINUING = frozenset({"add_generation_prompt", "continue_final_message"})
CANNOT_CONTINUE = (
    "An assistant's message cannot be continued by this model, or not together with tools: "
    "the last message must be the user's."
)


async def send_error(send: Send, error: PlatformError, headers: Headers) -> None:
    """The error with its status; ``headers`` are those it would have on OpenAI's wire."""
    status, kind = kind_of(error)
    request_id = dict(headers).get(b"x-request-id", b"").decode()
    more = headers_of(error)
    if isinstance(error, QuotaExhausted):
        # Their clients come back on any 429 that does not say otherwise.
        more.append((b"x-should-retry", b"false"))
    await send_json(send, status, error_body(kind, message_of(error), request_id), (*translated(headers), *more))


def kind_of(error: PlatformError) -> tuple[int, str]:
    """Status and type."""
    for kind, name in KINDS:
        if isinstance(error, kind):
            return OVERLOADED_STATUS if kind is Unavailable else error.status, name
    # A wrong method, a conflict: the request's fault all the same.
    return error.status, "invalid_request_error" if error.status < 500 else "api_error"


def message_of(error: PlatformError) -> str:
    """What the caller reads; it names the field at fault, for there is no other place to."""
    if error.param in CONTINUING:
        return CANNOT_CONTINUE
    message = _renamed(error.message)
    if not isinstance(error, InvalidRequest) or isinstance(error, ContextTooLong) or error.param is None:
        return message
    name = NAMES.get(error.param, error.param)
    return message if name in message else f"{name}: {message}"


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """The error object."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_event(error: object, request_id: str) -> bytes:
    """The event of an answer that broke off; ``error`` is the inside of OpenAI's error object."""
    fields: dict[str, Any] = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    invalid = fields.get("type") == InvalidRequest.type
    kind = BY_CODE.get(str(fields.get("code")), "invalid_request_error" if invalid else "api_error")
    message = str(fields.get("message") or "The model failed to answer.")
    body = orjson.dumps(error_body(kind, _renamed(message), request_id))
    return b"event: error\ndata: " + body + b"\n\n"


def _renamed(message: str) -> str:
    message = QUOTED.sub(lambda found: f"'{NAMES.get(found.group(1), found.group(1))}'", message)
    return message.replace(CHAT_PATH, "/v1/messages")
