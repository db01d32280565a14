"""The refusals of the description, by the error tree: a status is said where a path may answer it, and nowhere else."""

from collections.abc import Iterable, Mapping

from models.errors import (
    BodyTooLarge,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    PlatformError,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
    UpstreamError,
    UpstreamTimeout,
)
from serve.messages.errors import KINDS, kind_of
from serve.openapi.parts import JSON, STRING, Object, nullable, record, ref, said

Kind = type[PlatformError]

DESCRIPTIONS: Mapping[Kind, str] = {
    InvalidRequest: "The request itself is wrong; sent again it fails again. `param` names the field at fault",
    Unauthenticated: "No key, or one that is unknown, expired or revoked",
    PermissionDenied: "The key is known and may not do this",
    NotFound: "There is no such thing, or it is not the caller's to see",
    Conflict: "It cannot be done in the present state",
    BodyTooLarge: "The request body is too large",
    UnsupportedMedia: "The content type is not one that this address takes",
    RateLimited: "A limit of requests, tokens or calls at once is reached, or a budget is spent (`insufficient_quota`)",
    UpstreamError: "The model failed to answer",
    Unavailable: "Nothing can answer at the moment; try again later",
    UpstreamTimeout: "The model did not answer in time",
}
ALWAYS: tuple[Kind, ...] = (InvalidRequest, Unauthenticated, Unavailable)
"""Of an address that takes a key. It is invalid where a header of ours holds what it cannot, such as a time to live."""
READING: tuple[Kind, ...] = (InvalidRequest, BodyTooLarge, UnsupportedMedia)
"""Of an address that reads a body."""
CALLING: tuple[Kind, ...] = (*ALWAYS, *READING, ModelNotFound, RateLimited, UpstreamError, UpstreamTimeout)
"""Of an address behind which a model answers. An agent refuses with its own 403 or 409."""
AGENTS: tuple[Kind, ...] = (PermissionDenied, Conflict)
RETRYING = frozenset({RateLimited.status, Unavailable.status})
OPENAI, ANTHROPIC = "openai", "anthropic"


def refusals(*kinds: Kind, wire: str = OPENAI) -> Object:
    """References to the answers of these errors, by status."""
    statuses = {str(_status(kind, wire)) for kind in kinds}
    return {status: {"$ref": f"#/components/responses/{wire}-{status}"} for status in sorted(statuses)}


def components() -> Object:
    """Every answer that ``refusals`` refers to."""
    return {
        f"{wire}-{_status(kind, wire)}": _answer(kind, schema, text)
        for wire, schema in ((OPENAI, "Error"), (ANTHROPIC, "AnthropicError"))
        for kind, text in DESCRIPTIONS.items()
    }


def _status(kind: Kind, wire: str) -> int:
    return kind_of(kind(""))[0] if wire == ANTHROPIC else kind.status


def _answer(kind: Kind, schema: str, description: str) -> Object:
    names = ("retry-after", "retry-after-ms") if kind.status in RETRYING else ()
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}
    return {"description": description, "headers": headers, "content": {JSON: {"schema": ref(schema)}}}


def schemas() -> Object:
    """The error objects of both wires."""
    types = sorted({kind.type for kind in _tree(PlatformError)})
    codes = sorted({kind.default_code for kind in _tree(PlatformError) if kind.default_code})
    inside = record(
        {
            "message": said(STRING, "For a person to read"),
            "type": {"type": "string", "enum": types},
            "param": said(nullable(STRING), "The field at fault, such as `messages[0].role`"),
            "code": said(nullable(STRING), f"For a program to read: {', '.join(codes)}, or one that is more exact"),
        },
        ("message", "type", "param", "code"),
        closed=True,
    )
    kinds = sorted({name for _, name in KINDS} | {"api_error"})
    anthropic = record({"type": {"type": "string", "enum": kinds}, "message": STRING}, ("type", "message"), closed=True)
    return {
        "Error": record({"error": inside}, ("error",)),
        "AnthropicError": record(
            {"type": {"const": "error"}, "error": anthropic, "request_id": STRING}, ("type", "error", "request_id")
        ),
    }


def _tree(kind: Kind) -> Iterable[Kind]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)
