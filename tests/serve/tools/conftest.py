"""vLLM's part, played: an application that answers a chat request with a text given to it, whole or token by token."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from serve.asgi import Receive, Scope, Send, read_body, send_bytes, send_json
from serve.tools.middleware import PROMPTED, Tools


@dataclass
class Engine:
    """vLLM as far as its wire goes. ``texts``: one a choice; ``cut``: how a stream is cut into tokens."""

    texts: list[str] = field(default_factory=lambda: ["hi"])
    reason: str = "stop"
    cut: Callable[[str], Iterable[str]] = list
    bodies: list[dict[str, Any]] = field(default_factory=list[Any])
    raw: list[bytes] = field(default_factory=list[bytes])
    message: dict[str, Any] | None = None
    deltas: list[dict[str, Any]] | None = None
    reply: tuple[int, bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_body(receive, scope, 1 << 30)
        self.raw.append(raw)
        body: dict[str, Any] = json.loads(raw) if raw.endswith(b"}") else {}
        self.bodies.append(body)
        if self.reply is not None:
            await send_bytes(send, *self.reply, b"application/json")
        elif body.get("stream"):
            await self._stream(body, send)
        else:
            await send_json(send, 200, self._whole())

    def _whole(self) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": self.message or {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": self.reason,
            }
            for index, text in enumerate(self.texts)
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
        return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}

    async def _stream(self, body: dict[str, Any], send: Send) -> None:
        options = body.get("stream_options") or {}
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
            }
        )
        total = 0
        for index, text in enumerate(self.texts):
            deltas = self.deltas or [{"content": piece} for piece in self.cut(text)]
            await self._chunk(send, options, 0, index, {"role": "assistant", "content": ""})
            for written, delta in enumerate(deltas):
                await self._chunk(send, options, written + 1, index, delta)
            await self._chunk(send, options, len(deltas), index, {"content": ""}, self.reason)
            total += len(deltas)
        if options.get("include_usage"):
            await self._chunk(send, {"continuous_usage_stats": True}, total)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _chunk(
        self,
        send: Send,
        options: dict[str, Any],
        written: int,
        index: int | None = None,
        delta: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunk["choices"] = [] if index is None else [choice | ({"stop_reason": None} if reason else {})]
        if options.get("continuous_usage_stats"):
            chunk["usage"] = {"prompt_tokens": 7, "completion_tokens": written, "total_tokens": 7 + written}
        data = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})


@dataclass
class Stage:
    """The middleware over the engine, driven over HTTP's words."""

    engine: Engine
    http: httpx.AsyncClient

    async def chat(self, **body: Any) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
        return await self.http.post("/v1/chat/completions", json=body)

    async def choice(self, **body: Any) -> dict[str, Any]:
        answer = await self.chat(**body)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    async def chunks(self, **body: Any) -> list[dict[str, Any]]:
        answer = await self.chat(stream=True, **body)
        assert answer.status_code == 200, answer.text
        frames = answer.text.split("\n\n")
        assert frames[-2:] == ["data: [DONE]", ""]
        return [json.loads(frame[6:]) for frame in frames[:-2]]

    async def refused(self, **body: Any) -> dict[str, Any]:
        answer = await self.chat(**body)
        assert answer.status_code == 400, answer.text
        assert self.engine.bodies == []
        return answer.json()["error"]


@pytest.fixture
def tools() -> Callable[..., Stage]:
    """``tools(*texts, parser=…, **engine)``: the middleware over an engine that answers the texts."""

    def stage(*texts: str, parser: str = PROMPTED, **options: Any) -> Stage:
        engine = Engine(list(texts), **options)
        transport = httpx.ASGITransport(Tools(engine, parser))
        return Stage(engine, httpx.AsyncClient(transport=transport, base_url="http://engine"))

    return stage
