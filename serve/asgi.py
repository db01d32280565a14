"""Raw ASGI in a handful of functions: types, headers, bodies under a limit, JSON answers and the error object.

The request path speaks ASGI without a framework: a route costs a dictionary look-up, not a middleware stack.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, cast

import orjson

from models.errors import BodyTooLarge, MethodNotAllowed, PlatformError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class ClientDisconnected(Exception):
    """The client hung up before its request was read."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header; ``name`` in lower case, as ASGI servers deliver names."""
    for key, value in cast("Headers", scope["headers"]):
        if key == name:
            return value
    return None


async def read_body(receive: Receive, scope: Scope, limit_bytes: int) -> bytes:
    """The whole body.

    Raises BodyTooLarge as soon as the declared or the received length exceeds ``limit_bytes`` (the rest is not
    read), ClientDisconnected where the client left.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
        raise body_too_large(limit_bytes)
    parts: list[bytes] = []
    received = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        part = cast("bytes", message.get("body", b""))
        received += len(part)
        if received > limit_bytes:
            raise body_too_large(limit_bytes)
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


def body_too_large(limit_bytes: int) -> BodyTooLarge:
    """The 413 of a body above ``limit_bytes``."""
    return BodyTooLarge(f"The request body is larger than the limit of {limit_bytes} bytes.")


async def live(
    receive: Receive, send: Send, start: Callable[[], Awaitable[None]] | None, close: Callable[[], Awaitable[None]]
) -> None:
    """ASGI's lifespan: ``start`` before the first call, ``close`` after the last."""
    while (await receive())["type"] != "lifespan.shutdown":
        if start is not None:
            await start()
        await send({"type": "lifespan.startup.complete"})
    await close()
    await send({"type": "lifespan.shutdown.complete"})


async def send_bytes(send: Send, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
    """One whole response."""
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, payload: object, headers: Headers = ()) -> None:
    """One JSON response; ``payload`` is anything orjson can serialise."""
    await send_bytes(send, status, orjson.dumps(payload), b"application/json", headers)


async def send_error(send: Send, error: PlatformError, headers: Headers = ()) -> None:
    """The error object with its status and its own headers."""
    await send_json(send, error.status, error.body(), (*headers, *headers_of(error)))


def not_allowed(method: str, *allowed: str) -> MethodNotAllowed:
    """The 405 of an address that takes ``allowed`` only."""
    return MethodNotAllowed(f"This address takes {' and '.join(allowed)} only, not {method}.", allowed=allowed)


def headers_of(error: PlatformError) -> list[tuple[bytes, bytes]]:
    """An error's own headers, where it knows them: ``retry-after`` and ``retry-after-ms``, or ``allow``.

    ``retry-after`` is in whole seconds, rounded up and at least one.
    """
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", ", ".join(error.allowed).encode())]
    if error.retry_after_seconds is None:
        return []
    milliseconds = max(1, round(error.retry_after_seconds * 1_000))
    return [(b"retry-after", b"%d" % -(-milliseconds // 1_000)), (b"retry-after-ms", b"%d" % milliseconds)]
