"""A chat answer of ours on OpenAI's wire: what all of them share, whoever made the words."""

import time
import uuid
from typing import Any

import orjson

from models.errors import PlatformError
from serve.asgi import Send

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class ChunkStream:
    """Server-sent chunks; the response starts with the first piece, so an error before it is still a plain answer."""

    def __init__(self, model: str, send: Send, *, include_usage: bool) -> None:
        self._send = send
        self._include_usage = include_usage
        self._head = head(model, "chat.completion.chunk")
        self._started = False

    async def text(self, piece: str) -> None:
        """Send a piece of the content, after the chunk that names the role."""
        await self.delta({"content": piece})

    async def delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
        """Send a chunk, after the chunk that names the role."""
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            await self._chunk({"role": "assistant", "content": "", "refusal": None}, None)
        await self._chunk(delta, finish_reason)

    async def close(self, usage: dict[str, Any] | None) -> None:
        """The usage where it was asked for and is known, and the end of the stream."""
        if self._include_usage and usage is not None:
            await self._event({**self._head, "choices": [], "usage": usage})
        await self._send({"type": "http.response.body", "body": DONE})

    async def fail(self, error: PlatformError) -> None:
        """An error after the first byte: one event, and no ``[DONE]``. Raises ``error`` where nothing has been sent."""
        if not self._started:
            raise error
        await self._event(error.body(), more=False)

    async def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        await self._event({**self._head, "choices": [choice], **usage})

    async def _event(self, payload: dict[str, Any], *, more: bool = True) -> None:
        body = b"data: " + orjson.dumps(payload) + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def head(model: str, kind: str) -> dict[str, Any]:
    """The keys that an answer and all its chunks share."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
