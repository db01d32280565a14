"""An upstream's answer on its way to the client, whole or streamed; the call's record learns what came of it.

Invariants
1. Nothing is sent before the upstream's first frame: until then a failure is still an error with its own status.
2. After it a failure is an error frame, and the stream ends without ``[DONE]``.
3. The upstream's connection is closed when these return or raise: a client that left costs no more tokens.
"""

import asyncio
from typing import Any, cast

import orjson

from models.errors import PlatformError, UpstreamError
from serve.asgi import Send
from serve.config import GatewayConfig
from serve.hangup import HangUp
from serve.http1 import Answer, WireError
from serve.records import Call
from serve.streams import StreamFilter, StreamShape
from serve.usage import find_usage

HeaderList = list[tuple[bytes, bytes]]

# How far a deadline may lag behind the last read: moving it for every chunk would cost more than the chunk.
SLACK_SECONDS = 1.0


class Patience:
    """Deadlines of one call: for the first byte, then between reads, and for the whole."""

    def __init__(self, timeout: asyncio.Timeout, idle_seconds: float, total_seconds: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._idle_seconds = idle_seconds
        self._end = self._loop.time() + total_seconds
        self._moved_at = 0.0

    def more(self) -> None:
        """Something came: wait for the next."""
        now = self._loop.time()
        if now > self._moved_at + min(SLACK_SECONDS, self._idle_seconds / 4):
            self._moved_at = now
            self._timeout.reschedule(min(now + self._idle_seconds, self._end))


async def relay_whole(response: Answer, call: Call, config: GatewayConfig, patience: Patience) -> bytes:
    """The answer's body under the model's name the client used. Raises UpstreamError; notes the usage."""
    parts: list[bytes] = []
    size = 0
    try:
        while data := await response.readany():
            patience.more()
            size += len(data)
            if size > config.answer_bytes_max:
                raise failed(call.asked)
            parts.append(data)
    except WireError:
        raise failed(call.asked) from None
    finally:
        response.close()
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    body = _under_its_name(body, call.asked)
    call.reported = find_usage(body)
    return body


def _under_its_name(body: bytes, model: str) -> bytes:
    if body.startswith(b"{") and body.rstrip().endswith(b"}") and b'"model":' + orjson.dumps(model) in body:
        return body
    try:
        answer: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise failed(model)
    return orjson.dumps({**cast("dict[str, Any]", answer), "model": model})


class StreamRelay:
    """One stream to one client."""

    def __init__(self, call: Call, shape: StreamShape, send: Send, watch: HangUp) -> None:
        self._call = call
        self._filter = StreamFilter(shape)
        self._send = send
        self._watch = watch
        self._started = False

    async def run(self, response: Answer, headers: HeaderList, patience: Patience) -> None:
        """Relay to the end. Raises UpstreamError where the upstream was lost before its first frame."""
        call, stream = self._call, self._filter
        try:
            lost = not await self._frames(response, headers, patience)
        finally:
            response.close()
            call.first_token(stream.first_token_at)
            call.reported, call.texts = stream.usage(), stream.texts
        if lost:
            await self.fail(failed(call.asked))
            return
        call.end("ok", 200)
        await self._end(b"")

    async def fail(self, error: PlatformError) -> None:
        """End the stream with an error frame; raises the error where nothing was sent yet."""
        if not self._started:
            raise error
        self._call.end("upstream_lost", 200)
        await self._end(b"data: " + orjson.dumps(error.body()) + b"\n\n")

    async def _end(self, data: bytes) -> None:
        self._watch.answered()
        await self._send({"type": "http.response.body", "body": data})

    async def _frames(self, response: Answer, headers: HeaderList, patience: Patience) -> bool:
        """Whether the stream came to its own end."""
        stream, read = self._filter, response.readany
        try:
            while data := await read():
                patience.more()
                if out := stream.feed(data):
                    await self._pass(out, headers)
                if stream.failed:
                    return False
        except WireError:
            return False
        if out := stream.finish():
            await self._pass(out, headers)
        return stream.done and not stream.failed

    async def _pass(self, data: bytes, headers: HeaderList) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


def failed(model: str) -> UpstreamError:
    """The error of an upstream that did not do its part."""
    return UpstreamError(f"The model '{model}' failed to answer.")
