"""A chat completion's stream, as the gateway sends it, on its way into a response."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import orjson

from models.errors import PlatformError, UpstreamError
from serve.asgi import Message
from serve.relay import HeaderList, failed
from serve.responses.composer import Composer

FRAME_END = b"\n\n"
DONE = b"[DONE]"
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
BODY_HEADERS = frozenset({b"content-type", b"content-length"})

Forward = Callable[[Message], Awaitable[None]]


class Intake:
    """Called with a chat completion's ASGI messages; ``forward`` gets the response's own, but for the last event.

    ``started``: the model has begun to answer; ``headers``: the answer's, without those of its body.
    """

    def __init__(self, composer: Composer, model: str, forward: Forward | None) -> None:
        self._composer = composer
        self._model = model
        self._forward = forward
        self._rest = b""
        self._done = False
        self._error: PlatformError | None = None
        self.started = False
        self.headers: HeaderList = []

    async def __call__(self, message: Message) -> None:
        """One message. Raises UpstreamError for what is no chat completion's stream."""
        if message["type"] == "http.response.start":
            self.started = True
            self.headers = [pair for pair in message["headers"] if pair[0] not in BODY_HEADERS]
            self._composer.begin()
            if self._forward is not None:
                await self._forward({**message, "headers": [EVENTS, *self.headers]})
            return
        *frames, self._rest = (self._rest + message.get("body", b"")).split(FRAME_END)
        try:
            for frame in frames:
                self._frame(frame.strip())
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise failed(self._model) from None
        await self._pass_on()

    async def _pass_on(self) -> None:
        events = self._composer.take()
        if events and self._forward is not None:
            await self._forward({"type": "http.response.body", "body": events, "more_body": True})

    def _frame(self, frame: bytes) -> None:
        if not frame.startswith(b"data:"):
            return
        data = frame[5:].strip()
        if data == DONE:
            self._done = True
            return
        chunk = cast("dict[str, Any]", orjson.loads(data))
        if "error" in chunk:
            self._error = UpstreamError(chunk["error"]["message"], code=chunk["error"].get("code"))
        elif self._error is None:
            self._composer.feed(chunk)

    def ended(self) -> None:
        """The stream is over. Raises UpstreamError where it was not whole."""
        if not self._done or self._error is not None:
            raise self._error or failed(self._model)

    async def finale(self) -> None:
        """Hand on the last event."""
        last = self._composer.finale()
        if self._forward is not None:
            await self._forward({"type": "http.response.body", "body": last, "more_body": False})
