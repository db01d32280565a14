"""A gateway before authors: engines that know one text by heart, go on where a last message breaks off, and break."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from serve.asgi import Receive, Scope, Send, read_body, send_json
from serve.config import ModelRoute, RoutePolicy, Upstream

WORDS = [f"word{number}" for number in range(8)]
TEXT = " ".join(WORDS)
CHEAP = {"since": "2026-01-01", "prompt_micro": 1_000_000, "cached_micro": 0, "completion_micro": 2_000_000}
DEAR = {"since": "2026-01-01", "prompt_micro": 50_000_000, "cached_micro": 0, "completion_micro": 90_000_000}


class Broken(Exception):
    """Makes the server cut the connection."""


@dataclass
class Author:
    """vLLM's wire. ``breaks``: for each call in turn after how many pieces it breaks; then none does.

    ``stalls`` in place of breaking. ``extra`` is put into each piece's delta. ``prologue``: the role comes first, in a
    chunk of its own. ``status``: answered at once, unless 200.
    """

    name: str
    breaks: list[int] = field(default_factory=list)
    stalls: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    prologue: bool = True
    status: int = 200
    usage: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    finished: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Closed, an answer stops before its second piece."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health":
            await send_json(send, 200, {})
            return
        body = orjson.loads(await read_body(receive, scope, 1_000_000))
        self.asked.append(body)
        if self.status != 200:
            await send_json(send, self.status, {"error": {"message": "no", "code": self.status}})
            return
        last = body["messages"][-1]
        told = last["content"] if body.get("continue_final_message") else ""
        assert not told or (last["role"] == "assistant" and body["add_generation_prompt"] is False)
        # A token is a word with the blank before it.
        rest = TEXT[len(told) :]
        pieces = [f" {word}" if number or told else word for number, word in enumerate(rest.split())]
        pieces = pieces[: body.get("max_tokens") or len(pieces)]
        whole = len(told.split()) + len(pieces) == len(WORDS)
        prompt = len(json.dumps(body["messages"]).split())
        if body.get("stream"):
            await self._stream(body, pieces, prompt, send, reason="stop" if whole else "length")
        else:
            await self.gate.wait()
            self.finished += 1
            message = {"role": "assistant", "content": "".join(pieces)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = self._usage(prompt, len(pieces))
            await send_json(send, 200, {"id": "x", "model": self.name, "choices": [choice], "usage": usage})

    async def _stream(self, body: dict[str, Any], pieces: list[str], prompt: int, send: Send, reason: str) -> None:
        kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        breaks = self.breaks.pop(0) if self.breaks else None
        deltas: list[tuple[dict[str, Any], str | None]] = [({"content": piece, **self.extra}, None) for piece in pieces]
        if self.prologue:
            deltas.insert(0, ({"role": "assistant", "content": ""}, None))
        deltas.append(({}, reason))
        for number, (delta, finish) in enumerate(deltas):
            made = number - self.prologue
            if made == breaks:
                await self._break()
            if made > 0:
                await self.gate.wait()
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            await self._chunk(send, [choice], self._usage(prompt, min(made + 1, len(pieces))))
        if breaks == len(pieces) + 1:
            await self._break()
        self.finished += 1
        if self.usage and body["stream_options"].get("include_usage"):
            await self._chunk(send, [], self._usage(prompt, len(pieces)))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _break(self) -> None:
        if self.stalls:
            await asyncio.Event().wait()
        raise Broken

    def _usage(self, prompt: int, completion: int) -> dict[str, int]:
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    async def _chunk(self, send: Send, choices: list[Any], usage: dict[str, int]) -> None:
        head = {"id": f"chatcmpl-{self.name}-{len(self.asked)}", "object": "chat.completion.chunk", "created": 1}
        chunk = {**head, "model": self.name, "choices": choices, **({"usage": usage} if self.usage else {})}
        data = b"data: " + orjson.dumps(chunk) + b"\n\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})


@dataclass
class Authors:
    """``first`` and its fallback ``second``, which is dearer, behind a gateway."""

    stage: Any
    first: Author
    second: Author

    async def frames(self, headers: dict[str, str] | None = None, **body: Any) -> list[tuple[str, Any]]:
        """A stream's events as (name, data), the last data ``[DONE]`` where it ended well."""
        answer = await self.stage.chat(model="first", stream=True, headers=headers, **body)
        assert answer.status_code == 200, answer.text
        assert answer.text.endswith("\n\n")
        found: list[tuple[str, Any]] = []
        for frame in answer.text.removesuffix("\n\n").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in frame.split("\n"))
            data = fields["data"]
            found.append((fields.get("event", "message"), data if data == "[DONE]" else json.loads(data)))
        return found

    def said(self, frames: list[tuple[str, Any]]) -> str:
        """The text of the chunks."""
        chunks = [data for _, data in frames if isinstance(data, dict)]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


@pytest.fixture
def authors(platform: Any, serve_app: Any, catalogue_entry: Any) -> Callable[..., Awaitable[Authors]]:
    """``authors(policy, alone=…, hosted=…)``: ``policy`` is the first one's route's; ``alone``: it has no fallback."""

    async def start(alone: bool = False, hosted: bool = False, config: Any = None, **policy: Any) -> Authors:
        first, second = Author("first"), Author("second")
        for author in (first, second):
            author.gate.set()
        urls = [await serve_app(first), await serve_app(second)]
        names = () if alone else ("second",)
        entries = [catalogue_entry("first", prices=(CHEAP,)), catalogue_entry("second", prices=(DEAR,))]
        upstreams = [
            Upstream(name="one", base_url=urls[0], internal=True),
            Upstream(name="two", base_url=urls[1], internal=not hosted),
        ]
        stage = await platform(
            routes=(
                ModelRoute(entry=entries[0], upstream=upstreams[0], fallbacks=names, policy=RoutePolicy(**policy)),
                ModelRoute(entry=entries[1], upstream=upstreams[1]),
            ),
            **(config or {}),
        )
        return Authors(stage, first, second)

    return start
