"""An upstream's answer on its way to the client, whole or streamed; the call's record learns what came of it.

Invariants
1. Nothing is sent before the upstream's first frame: until then a failure is still an error with its own status.
2. A stream that ends without ``[DONE]`` ends with an error frame.
3. The upstream's connection is closed when these return or raise: a client that left costs no more tokens.
"""

import asyncio
from typing import Any, cast

import orjson

from models.errors import PlatformError, UpstreamError
from serve.asgi import Send
from serve.hangup import HangUp, Leaving
from serve.http1 import Answer, WireError
from serve.partial import Partial
from serve.policies import Policy
from serve.records import Call
from serve.streams import StreamFilter
from serve.usage import find_usage

HeaderList = list[tuple[bytes, bytes]]

# How far a deadline may lag behind the last read: moving it for every chunk would cost more than the chunk.
SLACK_SECONDS = 1.0


class Patience:
    """Deadlines of one attempt: for the first byte, then between reads, and until the ``end`` of the whole call.

    ``timeout`` is to be entered at once.
    """

    __slots__ = ("_idle_seconds", "_loop", "_moved_at", "_policy", "end", "timeout")

    def __init__(self, policy: Policy, end: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self.end = now + policy.total_seconds if end is None else end
        self.timeout = asyncio.timeout_at(min(now + policy.first_byte_seconds, self.end))
        self._policy = policy
        self._idle_seconds = policy.idle_seconds
        self._moved_at = 0.0

    def more(self) -> None:
        """Something came: wait for the next."""
        now = self._loop.time()
        if now > self._moved_at + min(SLACK_SECONDS, self._idle_seconds / 4):
            self._moved_at = now
            self.timeout.reschedule(min(now + self._idle_seconds, self.end))

    def spent(self) -> str:
        """Which deadline it was that passed, in a caller's words."""
        if self._loop.time() >= self.end:
            return f"its whole answer took longer than {self._policy.total_seconds:g} seconds"
        if not self._moved_at:
            return f"nothing of its answer came for {self._policy.first_byte_seconds:g} seconds"
        return f"its answer stopped for {self._idle_seconds:g} seconds"


async def relay_whole(response: Answer, call: Call, bytes_max: int, patience: Patience) -> bytes:
    """The answer's body under the model's name the client used. Raises UpstreamError; notes the usage."""
    parts: list[bytes] = []
    size = 0
    try:
        while data := await response.readany():
            patience.more()
            size += len(data)
            if size > bytes_max:
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
    """One stream to one client, made of one attempt, or of several.

    ``passed``: the client got something of the present attempt; ``head``: its first piece. ``partial``: where what was
    sent is kept, if it is.
    """

    def __init__(
        self, call: Call, stream: StreamFilter, send: Send, watch: HangUp | Leaving, partial: Partial | None
    ) -> None:
        self._call = call
        self._filter = stream
        self._send = send
        self._watch = watch
        self._started = False
        self.partial = partial
        self.passed = False
        self.head = b""

    def again(self, stream: StreamFilter, partial: Partial | None) -> None:
        """Another attempt's stream follows what was sent."""
        self._filter = stream
        self.partial = partial
        self.passed = False

    async def run(self, response: Answer, headers: HeaderList, patience: Patience) -> UpstreamError | None:
        """Relay to the end; how the upstream was lost, if it was: the stream is still open then."""
        call, stream = self._call, self._filter
        try:
            lost = not await self._frames(response, headers, patience)
        finally:
            response.close()
            call.first_token(stream.first_token_at)
            call.reported, call.texts = stream.usage(), stream.texts
        if lost:
            return failed(call.asked)
        await self.close(b"")
        return None

    async def close(self, data: bytes) -> None:
        """End the stream well, after ``data``."""
        self._call.end("ok", 200)
        await self._end(data)

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
        if not self.passed:
            self.passed, self.head = True, data
            if not self._started:
                self._started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if self.partial is not None:
            self.partial.add(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


def failed(model: str) -> UpstreamError:
    """The error of an upstream that did not do its part."""
    return UpstreamError(f"The model '{model}' failed to answer.")
