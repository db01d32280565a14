"""An upstream's refusal as one of our errors: what the caller can act on is kept, what names our inside is not."""

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from models.errors import (
    BodyTooLarge,
    Conflict,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    PlatformError,
    QuotaExhausted,
    RateLimited,
    Unavailable,
    UnsupportedMedia,
    UpstreamError,
    UpstreamTimeout,
)

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 3_600.0
MESSAGE_CHARACTERS_MAX = 600
PARAM = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,99}")
CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
CONTEXT = re.compile(r"(?:This|this|the) model's maximum context length|context_length_exceeded|maximum context length")
COUNTS = re.compile(r"\d")
# OpenAI's, older and newer, and what others that speak its dialect say.
FILTERED = frozenset({"content_filter", "content_policy_violation"})
CLASS_PREFIX = re.compile(r"^(?:\w+(?:Error|Exception): )+")
# Class names, call stacks, paths, addresses, validators' internals: none of the caller's business.
INSIDE = re.compile(
    r"\b[A-Z]\w*(?:Error|Exception|Request|Params|Config|Engine)\b|Traceback|pydantic|validation error|vllm|https?://"
    r"|(?:^|[\s'\"(])/\w+/|\{'|\('body'|<[a-z!/]|0x[0-9a-f]{6}",
    re.IGNORECASE,
)
INSIDE_CLASS = re.compile(r"\b(?:[A-Z][a-z0-9]+){2,}\b")
LOCATION = re.compile(r"'loc':\s*\('body',\s*'([A-Za-z_]\w*)'")

# Codes of refusals that are about an organisation's own credential at a provider.
CREDENTIAL_MISSING = "upstream_credential_missing"
CREDENTIAL_REFUSED = "upstream_credential_refused"
CREDENTIAL_UNUSABLE = "upstream_credential_unusable"

# Ours alone: the agent runtime speaks the same error tree, so its errors are the caller's as they are.
OWN: Mapping[int, type[PlatformError]] = {
    400: InvalidRequest,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: BodyTooLarge,
    415: UnsupportedMedia,
    429: RateLimited,
    502: UpstreamError,
    503: Unavailable,
    504: UpstreamTimeout,
}


def refusal(
    status: int,
    body: bytes,
    retry_after: str | None,
    model: str,
    *,
    internal: bool,
    own: bool = False,
    prompt: str = "messages",
    theirs: str | None = None,
) -> PlatformError:
    """What the caller is told.

    ``own``: the upstream renders our error tree; ``internal``: it runs in our cluster; ``prompt``: the parameter that
    holds what the model reads; ``theirs``: the upstream that was called under an organisation's own key.
    """
    error = _error_object(body)
    message = error.get("message")
    text = message if isinstance(message, str) else ""
    param = _plain(PARAM, error.get("param"))
    code = _plain(CODE, error.get("code"))
    wait = _seconds(retry_after)
    if own and text and status in OWN:
        return _own(status, text, param, code, wait)
    if theirs is not None and (about := their_refusal(status, code, theirs)) is not None:
        return about
    if status in {400, 413, 422}:
        return _invalid(status, text, param, code, prompt)
    if status == 404 and not internal:
        return ModelNotFound(f"The model '{model}' does not exist or you do not have access to it.", param="model")
    if status == 429 and not internal:
        return _limited(code, wait)
    if status in {408, 504}:
        return UpstreamTimeout(f"The model '{model}' did not answer in time.")
    if status in {404, 429, 503}:
        return Unavailable(f"The model '{model}' cannot be reached at the moment.", retry_after_seconds=wait)
    return UpstreamError(f"The model '{model}' failed to answer.")


def their_refusal(status: int, code: object, upstream: str) -> PlatformError | None:
    """What a refusal of the organisation's own account is told as; None where it is of the request, as any other."""
    if status in {401, 403}:
        text = f"The upstream '{upstream}' refused your organisation's credential for this call."
        return PermissionDenied(text, code=CREDENTIAL_REFUSED)
    if status == 402 or (status == 429 and code == QuotaExhausted.default_code):
        return QuotaExhausted(f"Your organisation's account at the upstream '{upstream}' has no credit left.")
    return None


def _own(status: int, text: str, param: str | None, code: str | None, wait: float) -> PlatformError:
    named = {kind.default_code: kind for kind in (ContentFiltered, ContextTooLong, QuotaExhausted)}
    kind = named.get(code, OWN[status])
    return kind(text[:MESSAGE_CHARACTERS_MAX], param, code, wait if status in {429, 503} else None)


def _invalid(status: int, text: str, param: str | None, code: str | None, prompt: str) -> PlatformError:
    if (CONTEXT.search(text) and COUNTS.search(text)) or code == ContextTooLong.default_code:
        return _too_long(text, prompt)
    if status == 413:
        return BodyTooLarge("The request body is larger than the model's server takes.")
    named = LOCATION.search(text)
    param = param or (named.group(1) if named else None)
    if not text or INSIDE.search(text) or INSIDE_CLASS.search(text):
        text = f"Invalid value for '{param}'." if param else "The model's server refused the request as invalid."
    kind = ContentFiltered if code in FILTERED else InvalidRequest
    return kind(text.partition("\n")[0][:MESSAGE_CHARACTERS_MAX], param=param, code=code)


def _too_long(text: str, prompt: str) -> ContextTooLong:
    message = CLASS_PREFIX.sub("", text).partition("\n")[0].partition(" (parameter=")[0]
    found = CONTEXT.search(message)
    if found and INSIDE.search(message):
        message = message[found.start() :]
    return ContextTooLong(message[:1].upper() + message[1:MESSAGE_CHARACTERS_MAX], param=prompt)


def _limited(code: str | None, wait: float) -> PlatformError:
    if code == QuotaExhausted.default_code:
        # The platform's own account is empty: the caller has nothing to top up.
        return Unavailable("The model's provider refuses calls at the moment.", retry_after_seconds=wait)
    return RateLimited("The model's provider limits its rate at the moment.", retry_after_seconds=wait)


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = cast("dict[str, Any]", parsed).get("error", parsed) if isinstance(parsed, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}


def _plain(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _seconds(retry_after: str | None) -> float:
    try:
        seconds = float(retry_after or RETRY_SECONDS)
    except ValueError:
        return RETRY_SECONDS
    return seconds if 0 < seconds <= RETRY_SECONDS_MAX else RETRY_SECONDS
