"""The edge of an internal application: routes, errors turned into answers, and hang-ups noticed.

Invariants
1. Every answer that is not the handler's own is OpenAI's error object; what we did not foresee is logged and answers
   500 without a word of its inside.
2. After the first byte nothing is added here: a handler that streams ends its own stream.
3. ``unless_disconnected`` leaves no task behind, whichever way it ends.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models.errors import InvalidRequest, NotFound, PlatformError
from serve.allowlist import local_path
from serve.asgi import (
    ASGIApp,
    ClientDisconnected,
    Message,
    Receive,
    Scope,
    Send,
    live,
    not_allowed,
    send_error,
    send_json,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
FIELD = re.compile(r"[a-z][a-z0-9_]*")
# How pydantic names the branches of a union; a caller must not read them.
BRANCHES = frozenset({"str", "int", "float", "bool"})


@dataclass(frozen=True, slots=True)
class Route:
    """One path's method and handler."""

    method: str
    handler: ASGIApp


class Edge:
    """An ASGI application over ``routes`` (by path below the mount point), with ``GET /health`` beside them."""

    def __init__(self, routes: Mapping[str, Route], close: Callable[[], Awaitable[None]]) -> None:
        self._routes = {"/health": Route("GET", _healthy), **routes}
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await live(receive, send, None, self._close)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._handler(scope)(scope, receive, watched)
        except ClientDisconnected:
            return
        except PlatformError as error:
            failure = error
        except Exception:
            logger.exception("unforeseen error at %s", local_path(scope))
            failure = PlatformError("The server had an error while processing your request.")
        else:
            return
        if not started:
            await send_error(send, failure)

    def _handler(self, scope: Scope) -> ASGIApp:
        route = self._routes.get(local_path(scope))
        if route is None:
            raise NotFound("There is nothing at this address.")
        if scope["method"] != route.method:
            raise not_allowed(scope["method"], route.method)
        return route.handler


async def _healthy(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
    await send_json(send, 200, {"status": "ok"})


def parse(kind: type[M], body: bytes) -> M:
    """A JSON body as ``kind``. Raises InvalidRequest that names the first field at fault in ``param``."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise InvalidRequest("The request body is not valid JSON.")
    if not first["loc"]:
        raise InvalidRequest("The request body must be a JSON object.")
    param = _param(first["loc"])
    if first["type"] == "missing":
        raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    if first["type"] == "extra_forbidden":
        raise InvalidRequest(f"Unsupported parameter: '{param}'.", param=param, code="unsupported_parameter")
    raise InvalidRequest(f"Invalid value for '{param}': {_plain(first['msg'])}.", param=param)


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _param(location: tuple[int | str, ...]) -> str:
    """``("messages", 0, "content", "str")`` → ``messages[0].content``."""
    name = str(location[0])
    for part in location[1:]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part in BRANCHES or not FIELD.fullmatch(part):
            break
        else:
            name += f".{part}"
    return name


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of ``work``, which is cancelled when the client hangs up (the body must have been read).

    Raises ClientDisconnected, or whatever ``work`` raises.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.wait({task, watch})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
