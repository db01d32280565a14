"""The adapter behind its guard on a real socket, before a server that speaks Anthropic's wire.

``adapter(**changes)`` starts it; changes go to ``HostedConfig``.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import orjson
import pytest
import uvicorn
from pydantic import SecretStr

from models.channels import CLUSTER_SECRET_HEADER
from serve.asgi import ASGIApp, Receive, Scope, Send, read_body, send_json
from serve.guard import Guard
from serve.hosted.app import HostedApp
from serve.hosted.config import HostedConfig

SECRET = "cluster-secret"
KEY = "sk-ant-secret"
MODEL = "claude-test"
# LangChain's class keeps one pool for an address and a timeout, and each test has an event loop of its own.
TIMEOUTS = itertools.count(100)
# How a block begins in a stream.
EMPTY: dict[str, dict[str, Any]] = {"text": {"text": ""}, "thinking": {"thinking": ""}, "tool_use": {"input": {}}}


@dataclass
class Anthropic:
    """``POST /v1/messages`` as Anthropic answers it; what it says follows its fields.

    Source: https://docs.claude.com/en/api/messages-streaming
    """

    blocks: list[dict[str, Any]] = field(default_factory=lambda: [{"type": "text", "text": "Hello there, friend."}])
    stop_reason: str | None = "end_turn"
    usage: dict[str, Any] = field(default_factory=lambda: {"input_tokens": 12, "output_tokens": 5})
    refusal: tuple[int, str, str] | None = None
    """Status, type and message of an error."""
    headers: dict[str, str] = field(default_factory=dict)
    error_in_stream: str | None = None
    cut: bool = False
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Closed, an answer stops after its first delta."""
    door: asyncio.Event = field(default_factory=asyncio.Event)
    """Closed, an answer does not begin."""
    called: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def asked(self) -> dict[str, Any]:
        """The last request's body."""
        return self.requests[-1][1]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] == "/v1/messages"
        body = orjson.loads(await read_body(receive, scope, 10_000_000))
        self.requests.append(({name.decode(): value.decode() for name, value in scope["headers"]}, body))
        self.called.set()
        if not await self.passes(self.door, receive):
            return
        if self.refusal is not None:
            status, kind, message = self.refusal
            headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
            await send_json(send, status, {"type": "error", "error": {"type": kind, "message": message}}, headers)
        elif body.get("stream"):
            await self.stream(body, receive, send)
        else:
            await send_json(send, 200, {**self.message(body), "content": self.blocks, "stop_reason": self.stop_reason})

    def message(self, body: dict[str, Any]) -> dict[str, Any]:
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        return {**head, "stop_reason": None, "stop_sequence": None, "usage": self.usage}

    async def stream(self, body: dict[str, Any], receive: Receive, send: Send) -> None:
        kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for number, event in enumerate(self.events(body)):
            if number == 4 and not await self.passes(self.gate, receive):
                return
            data = b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = [{"type": "message_start", "message": self.message(body)}, {"type": "ping"}]
        for index, block in enumerate(self.blocks):
            start = {**block, **EMPTY[block["type"]]}
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas(block)]
            events.append({"type": "content_block_stop", "index": index})
        if self.error_in_stream is not None:
            return [*events, {"type": "error", "error": {"type": self.error_in_stream, "message": "secret words"}}]
        if self.cut:
            return events
        delta = {"stop_reason": self.stop_reason, "stop_sequence": None}
        return [*events, {"type": "message_delta", "delta": delta, "usage": self.usage}, {"type": "message_stop"}]

    async def passes(self, gate: asyncio.Event, receive: Receive) -> bool:
        """False where the caller left before the gate opened."""
        opening, leaving = asyncio.ensure_future(gate.wait()), asyncio.ensure_future(receive())
        await asyncio.wait({opening, leaving}, return_when=asyncio.FIRST_COMPLETED)
        gone = not opening.done()
        opening.cancel()
        leaving.cancel()
        if gone:
            self.left.set()
        return not gone


def deltas(block: dict[str, Any]) -> list[dict[str, str]]:
    """Text by words, arguments in halves; none for an empty object, as Anthropic does it."""
    if block["type"] == "thinking":
        return [{"type": "thinking_delta", "thinking": block["thinking"]}]
    if block["type"] == "text":
        return [{"type": "text_delta", "text": f"{word} "} for word in block["text"].split()]
    if not block["input"]:
        return [{"type": "input_json_delta", "partial_json": ""}]
    arguments = json.dumps(block["input"])
    middle = len(arguments) // 2
    return [{"type": "input_json_delta", "partial_json": part} for part in ("", arguments[:middle], arguments[middle:])]


class Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """The application on a free port; yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none", timeout_graceful_shutdown=2)
    server = Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        await server.listening.wait()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@dataclass
class Adapter:
    """The adapter under test: a client as the gateway would call it, and the provider behind it."""

    url: str
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    provider: Anthropic

    async def chat(self, content: Any = "Hi", **body: Any) -> Any:
        messages = body.pop("messages", [{"role": "user", "content": content}])
        return await self.client.chat.completions.create(**{"model": MODEL, "messages": messages, **body})

    async def refused(self, content: Any = "Hi", **body: Any) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            await self.chat(content, **body)
        return caught.value

    async def frames(self, **body: Any) -> list[dict[str, Any]]:
        """The frames of a stream, the last one as ``{"done": True}`` where it ended well."""
        messages = body.pop("messages", [{"role": "user", "content": "Hi"}])
        request = {"model": MODEL, "messages": messages, "stream": True, **body}
        response = await self.http.post("/v1/chat/completions", json=request)
        assert response.status_code == 200, response.text
        frames = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        return [{"done": True} if frame == "[DONE]" else orjson.loads(frame) for frame in frames]


Adapters = Callable[..., Awaitable[Adapter]]


@pytest.fixture
def serving() -> Callable[[ASGIApp], Any]:
    return serve


@pytest.fixture
async def adapter() -> AsyncIterator[Adapters]:
    async with AsyncExitStack() as stack:

        async def start(provider: ASGIApp | None = None, **changes: Any) -> Adapter:
            anthropic = Anthropic()
            anthropic.gate.set()
            anthropic.door.set()
            address = await stack.enter_async_context(serve(provider or anthropic))
            settings = {
                "name": "anthropic",
                "model_class": "langchain_anthropic:ChatAnthropic",
                "base_url": address,
                "api_key": SecretStr(KEY),
                "idle_seconds_max": next(TIMEOUTS),
                **changes,
            }
            url = await stack.enter_async_context(serve(Guard(HostedApp(HostedConfig(**settings)), SecretStr(SECRET))))
            headers = {CLUSTER_SECRET_HEADER: SECRET}
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, default_headers=headers)
            stack.push_async_callback(client.close)
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=10))
            return Adapter(url, client, http, anthropic)

        yield start
