"""``/v1/messages`` and ``/v1/messages/count_tokens``: a call's life is ``serve.calls``, its words are Anthropic's.

Errors are raised in our tree; the gateway has ``serve.messages.errors`` write them for this family of paths.
"""

import asyncio
from typing import cast

import orjson

from models.channels import REQUEST_ID_HEADER
from models.errors import InvalidRequest, NotFound, UpstreamError
from serve.allowlist import local_path
from serve.asgi import Message, Receive, Scope, Send, not_allowed, read_body, send_json
from serve.callers import Caller
from serve.calls import Calls
from serve.config import GatewayConfig
from serve.hangup import HangUp
from serve.messages.answer import Object, message_of
from serve.messages.headers import REQUEST_ID, translated
from serve.messages.request import Asked, count_request, message_request
from serve.messages.stream import EventStream
from serve.privacy.guard import Privacy
from serve.routing import ENDPOINTS, Routes, Target
from serve.upstreams import TOKENIZE
from serve.validation import Body, model_of, parse_body

ROOT = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
CHAT = ENDPOINTS["/v1/chat/completions"]
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
JSON = (b"content-type", b"application/json")


class Messages:
    """The family of paths below ``/v1/messages``."""

    def __init__(self, calls: Calls, routes: Routes, privacy: Privacy, config: GatewayConfig) -> None:
        self._calls = calls
        self._privacy = privacy
        self._routes = routes
        self._body_bytes_max = config.body_bytes_max
        self._answer_bytes_max = config.answer_bytes_max
        self._count_seconds_max = config.timeouts.first_byte_seconds

    async def __call__(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One call. Raises what the client is to be told where nothing was sent yet; ClientDisconnected."""
        path, method = local_path(scope), scope["method"]
        if path not in {ROOT, COUNT}:
            raise NotFound("There is nothing at this address.")
        if method != "POST":
            raise not_allowed(method, "POST")
        caller = await self._calls.caller(request_id, scope)
        body = parse_body(scope, await read_body(receive, scope, self._body_bytes_max))
        chain = self._routes.find(caller.principal, model_of(body), CHAT, inner=caller.parent is not None)
        if path == COUNT:
            await self._count(caller, chain[0], body, receive, send)
            return
        asked = message_request(body, engine=all(map(_is_engine, chain)))
        reply = StreamedReply(asked, caller.request_id, send) if asked.stream else WholeReply(asked, send)
        await self._calls.run(caller, CHAT, asked.chat, orjson.dumps(asked.chat), receive, reply)

    async def _count(self, caller: Caller, target: Target, body: Body, receive: Receive, send: Send) -> None:
        """Outside admission: no token is made, and nothing is billed."""
        model = model_of(body)
        if not _is_engine(target):
            raise InvalidRequest(
                f"Tokens can be counted for models that this platform runs itself; '{model}' is none of them.",
                param="model",
            )
        asked = {**count_request(body), "model": target.model_there(model)}
        question = orjson.dumps(asked)
        if caller.principal.guards is not None:
            question = orjson.dumps(await self._privacy.seen(caller.principal, (target,), asked, len(question)))
        headers = {REQUEST_ID_HEADER: caller.request_id}
        try:
            async with HangUp(receive), asyncio.timeout(self._count_seconds_max):
                response = await target.upstream.post(TOKENIZE, question, headers, model, streamed=False)
                try:
                    answer = await response.read(self._answer_bytes_max)
                finally:
                    response.close()
        except TimeoutError:
            raise target.upstream.too_slow(model) from None
        counted = {"input_tokens": _count_of(answer, model)}
        await send_json(send, 200, counted, translated([(REQUEST_ID, caller.request_id.encode())]))


class WholeReply:
    """Gets a whole chat completion as ASGI messages, sends a whole message."""

    def __init__(self, asked: Asked, send: Send) -> None:
        self._asked = asked
        self._send = send
        self._start: Message = {}
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        """One ASGI message. Raises UpstreamError where the answer is no chat completion; nothing was sent then."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        answer = cast("Object", orjson.loads(b"".join(self._parts)))
        said = message_of(answer, self._asked.chat["model"], thinking=self._asked.thinking)
        await send_json(self._send, 200, said, translated(self._start["headers"]))


class StreamedReply:
    """Gets a chat completion's stream as ASGI messages, sends Anthropic's events as they come."""

    def __init__(self, asked: Asked, request_id: str, send: Send) -> None:
        self._events = EventStream(asked.chat["model"], request_id, thinking=asked.thinking)
        self._send = send

    async def __call__(self, message: Message) -> None:
        """One ASGI message."""
        if message["type"] == "http.response.start":
            await self._send({**message, "headers": [EVENTS, *translated(message["headers"])]})
            return
        more = message.get("more_body", False)
        events = self._events.feed(message.get("body", b""))
        if events or not more:
            await self._send({"type": "http.response.body", "body": events, "more_body": more})


def _is_engine(target: Target) -> bool:
    return target.entry is not None and target.upstream.internal and not target.upstream.own


def _count_of(answer: bytes, model: str) -> int:
    try:
        count = cast("Object", orjson.loads(answer))["count"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        count = None
    if type(count) is not int:
        raise UpstreamError(f"The model '{model}' failed to answer.")
    return count
