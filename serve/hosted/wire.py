"""Answers on OpenAI's wire: the whole completion, and its chunks as they come."""

from dataclasses import dataclass
from typing import Any

from models.errors import PlatformError
from serve.asgi import Send, send_json
from serve.chunks import ChunkStream, head
from serve.sums import Sums


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
class End:
    """How an answer ended. ``usage`` is None where the provider gave no figure that makes sense."""

    finish_reason: str
    usage: Sums | None


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


class StreamedReply(ChunkStream):
    """Server-sent chunks, with what the model thinks and the tools it calls."""

    async def reasoning(self, piece: str) -> None:
        """Send a piece of what the model thinks, under the name that our engines use."""
        await self.delta({"reasoning": piece})

    async def tool(self, piece: ToolPiece) -> None:
        """Send a piece of a tool call."""
        await self.delta({"tool_calls": [piece.delta()]})

    async def end(self, end: End) -> None:
        """The last delta, the usage where it was asked for, and the end of the stream."""
        await self.delta({}, end.finish_reason)
        await self.close(None if end.usage is None else end.usage.body())


Reply = WholeReply | StreamedReply
