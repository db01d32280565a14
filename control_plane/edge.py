"""The outermost layer of every request: its id, the door of ``/internal``, the body's limit, and the answer's headers.

Invariants
1. ``/internal/*`` without the cluster secret is a 404, before a byte of the body is read.
2. No body above the limit is held in memory. What passes is UTF-8 without NUL characters and halves of surrogate pairs,
   neither of which PostgreSQL could store.
3. Whatever fails below answers the error object; what went wrong is in the log, beside the request id.
"""

import hmac
import json
import logging
import re
import uuid
from collections.abc import Iterable

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.channels import CLUSTER_SECRET_HEADER, REQUEST_ID_HEADER
from models.errors import BodyTooLarge, InvalidRequest, NotFound, PlatformError

BODY_BYTES_MAX = 1 << 20
# The ingestion job writes its manifest in batches of hundreds of records.
INTERNAL_BODY_BYTES_MAX = 16 << 20
INTERNAL_PREFIX = "/internal"
DOCS_PATH = "/docs"
SANE_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}$")
ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A text whose escaped surrogates are pairs: anything else, other escapes, pairs.
WHOLE_PAIRS = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB][^\\]{2}\\u[dD][c-fC-F][^\\]{2})*+", re.DOTALL
)

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
# Swagger's page loads its script and style from here, and starts them inline.
DOCS_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; connect-src 'self'; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https:; frame-ancestors 'none'"
)

log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client hung up before its request was read."""


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, secret: SecretStr) -> None:
        self._app = app
        self._secret = secret.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = sane_request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        started = False

        async def dressed_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                dress(MutableHeaders(scope=message), str(scope["path"]), request_id)
            await send(message)

        try:
            replay = await self._admit(scope, receive)
            await self._app(scope, replay, dressed_send)
        except ClientGone:
            return
        except PlatformError as error:
            await send_error(dressed_send, error)
        except Exception:
            log.exception("request %s failed", request_id)
            if not started:
                await send_error(dressed_send, PlatformError("The server failed to answer; the fault is on our side."))

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        path = str(scope["path"])
        internal = path == INTERNAL_PREFIX or path.startswith(INTERNAL_PREFIX + "/")
        if internal and not self._holds_secret(scope):
            raise nothing_here()
        if "\0" in path or b"%00" in scope.get("query_string", b""):
            raise InvalidRequest("The address must not hold NUL characters.")
        body = await read_body(scope, receive, INTERNAL_BODY_BYTES_MAX if internal else BODY_BYTES_MAX)
        refuse_unstorable(body)
        return replaying(body, receive)

    def _holds_secret(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get(CLUSTER_SECRET_HEADER, "")
        return hmac.compare_digest(given.encode("latin-1"), self._secret)


def refuse_unstorable(body: bytes) -> None:
    """Raises InvalidRequest for characters that no text of ours may have; JSON in UTF-16 is read by nobody here."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The body must be UTF-8.", code="invalid_json") from None
    if b"\0" in body or ESCAPED_NUL.search(body):
        raise InvalidRequest("The body must not hold NUL characters.")
    if ESCAPED_SURROGATE.search(body) and not WHOLE_PAIRS.fullmatch(body):
        raise InvalidRequest("The body must not hold halves of surrogate pairs.")


def nothing_here() -> NotFound:
    """The 404 of an address that does not exist, or that the caller may not know of."""
    return NotFound("There is nothing at this address.")


def sane_request_id(given: str | None) -> str:
    """The client's request id where it is sane, else a fresh one."""
    return given if given and SANE_REQUEST_ID.match(given) else f"req_{uuid.uuid4().hex}"


def dress(headers: MutableHeaders, path: str, request_id: str) -> None:
    """Add the headers that every answer has."""
    headers[REQUEST_ID_HEADER] = request_id
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if path == DOCS_PATH:
        headers["content-security-policy"] = DOCS_POLICY


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as the declared or received length says so, ClientGone."""
    declared = Headers(scope=scope).get("content-length", "")
    received = bytearray()
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise body_too_large(limit_bytes)
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        received += message.get("body", b"")
        if len(received) > limit_bytes:
            raise body_too_large(limit_bytes)
        if not message.get("more_body", False):
            return bytes(received)


def body_too_large(limit_bytes: int) -> BodyTooLarge:
    """The 413 of a body above ``limit_bytes``."""
    return BodyTooLarge(f"The request body is larger than the limit of {limit_bytes} bytes.")


def replaying(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body once, then what comes after it (the client's disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def send_error(send: Send, error: PlatformError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """The error object with its status."""
    body = json.dumps(error.body()).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": error.status, "headers": start})
    await send({"type": "http.response.body", "body": body})
