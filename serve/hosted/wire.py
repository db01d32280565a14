"""Answers on OpenAI's wire: the whole completion, and its chunks as they come."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from models.errors import PlatformError
from serve.asgi import Send, send_json

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True)
class ToolPiece:
    """A piece of the tool call ``index``; the first one bears its ``id`` and ``name``."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None

    def delta(self) -> dict[str, Any]:
        """As an entry of a chunk's ``tool_calls``."""
        head = {"id": self.id, "type": "function"} if self.id is not None else {}
        name = {"name": self.name} if self.name is not None else {}
        return {"index": self.index, **head, "function": {**name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them; ``prompt`` holds ``cached`` and ``written``, ``completion`` ``reasoning``."""

    prompt: int = 0
    cached: int = 0
    written: int = 0
    completion: int = 0
    reasoning: int = 0

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object; ``cache_write_tokens`` is ours, and there only where any were written."""
        written = {"cache_write_tokens": self.written} if self.written else {}
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, **written},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended. ``usage`` is None where the provider gave no figure that makes sense."""

    finish_reason: str
    usage: Usage | None


class WholeReply:
    """One JSON answer, sent at the end."""

    def __init__(self, model: str, send: Send) -> None:
        self._send = send
        self._head = head(model, "chat.completion")
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    async def text(self, piece: str) -> None:
        """Keep it."""
        self._texts.append(piece)

    async def reasoning(self, piece: str) -> None:
        """Keep it."""
        self._thoughts.append(piece)

    async def tool(self, piece: ToolPiece) -> None:
        """Keep it."""
        if piece.index == len(self._calls):
            function = {"name": piece.name, "arguments": ""}
            self._calls.append({"id": piece.id, "type": "function", "function": function})
        self._calls[piece.index]["function"]["arguments"] += piece.arguments

    async def end(self, end: End) -> None:
        """Send it."""
        content = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self._thoughts:
            message["reasoning"] = "".join(self._thoughts)
        if self._calls:
            message |= {"content": content or None, "tool_calls": self._calls}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.finish_reason}
        usage = {} if end.usage is None else {"usage": end.usage.body()}
        await send_json(self._send, 200, {**self._head, "choices": [choice], **usage})

    async def fail(self, error: PlatformError) -> None:
        """Raises ``error``: nothing has been sent."""
        raise error


class StreamedReply:
    """Server-sent chunks; the response starts with the first piece, so an error before it is still a plain answer."""

    def __init__(self, model: str, send: Send, *, include_usage: bool) -> None:
        self._send = send
        self._include_usage = include_usage
        self._head = head(model, "chat.completion.chunk")
        self._started = False

    async def text(self, piece: str) -> None:
        """Send a piece of the content."""
        await self._start()
        await self._chunk({"content": piece})

    async def reasoning(self, piece: str) -> None:
        """Send a piece of what the model thinks, under the name that our engines use."""
        await self._start()
        await self._chunk({"reasoning": piece})

    async def tool(self, piece: ToolPiece) -> None:
        """Send a piece of a tool call."""
        await self._start()
        await self._chunk({"tool_calls": [piece.delta()]})

    async def end(self, end: End) -> None:
        """The last delta, the usage where it was asked for, and the end of the stream."""
        await self._start()
        await self._chunk({}, end.finish_reason)
        if self._include_usage and end.usage is not None:
            await self._event({**self._head, "choices": [], "usage": end.usage.body()})
        await self._send({"type": "http.response.body", "body": DONE})

    async def fail(self, error: PlatformError) -> None:
        """An error after the first byte: one event, and no ``[DONE]``. Raises ``error`` where nothing has been sent."""
        if not self._started:
            raise error
        await self._event(error.body(), more=False)

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            await self._chunk({"role": "assistant", "content": "", "refusal": None})

    async def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        await self._event({**self._head, "choices": [choice], **usage})

    async def _event(self, payload: dict[str, Any], *, more: bool = True) -> None:
        body = b"data: " + orjson.dumps(payload) + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


Reply = WholeReply | StreamedReply


def head(model: str, kind: str) -> dict[str, Any]:
    """The keys that an answer and all its chunks share."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
