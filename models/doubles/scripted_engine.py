"""A deterministic OpenAI-dialect upstream as a raw ASGI application: the engine of tests and benchmarks.

It answers ``words`` tokens ``w0 w1 …`` (one a chunk), counts a prompt token for each word, speaks vLLM's
``continuous_usage_stats``, and fails as told. What happened to it can be read from ``requests`` and ``aborted``.

    uvicorn models.doubles.scripted_engine:app          # runnable as it is

A model name with a colon scripts one call: ``model:chunks=64,delay=0.01,fail_after=3,status=503``.
"""

import asyncio
import base64
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, cast

import orjson

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FRAME_END = b"\n\n"
CREATED = 1_767_225_600
DIMENSIONS = 8
WINDOW = 8_192


@dataclass(frozen=True, slots=True)
class Script:
    """How calls go. ``delay`` seconds before each chunk and before a whole answer.

    ``fail_after`` chunks the connection breaks; ``error_after`` chunks vLLM's error frame comes; ``status`` other than
    200 answers ``error`` (raw body) at once. ``usage`` False: no usage is ever reported, as by a poor upstream.

    A chat's answer may begin with ``reasoning`` and end with ``calls`` (name and arguments of each; their arguments
    stream in two pieces). ``finish`` is its reason to end, ``matched`` the stop string it met (vLLM's ``stop_reason``).
    """

    chunks: int = 4
    delay: float = 0.0
    fail_after: int = -1
    error_after: int = -1
    status: int = 200
    error: bytes = b'{"error":{"message":"scripted","type":"BadRequestError","param":null,"code":400}}'
    content_type: str = "application/json"
    usage: bool = True
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = "stop"
    matched: str | None = None


class UpstreamBroken(Exception):
    """Raised to make the server cut the connection, as a crash would."""


@dataclass
class ScriptedEngine:
    """The application. ``requests`` holds the bodies and headers seen; ``aborted`` the calls whose client left."""

    models: tuple[str, ...] = ("scripted",)
    script: Script = Script()
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list[Any])
    running: int = 0
    aborted: int = 0
    gate: asyncio.Event | None = None
    """Set it to an event, and every call waits for the event before its second chunk or its whole answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            return
        path = str(scope["path"])
        if path == "/health":
            await _json(send, 200, {})
        elif path == "/v1/models":
            data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"} for name in self.models]
            await _json(send, 200, {"object": "list", "data": data})
        else:
            await self._infer(path, scope, receive, send)

    async def _infer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await _body(receive)
        body = cast("dict[str, Any]", orjson.loads(raw))
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.requests.append((path, headers, body))
        script = self._script(str(body["model"]))
        if script.status != 200:
            await _bytes(send, script.status, script.error, script.content_type)
            return
        work = asyncio.ensure_future(self._answer(path, body, script, send))
        left = asyncio.ensure_future(_left(receive))
        self.running += 1
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.aborted += 1
            else:
                work.result()
        finally:
            self.running -= 1
            work.cancel()
            left.cancel()
            await asyncio.wait({work, left})

    def _script(self, model: str) -> Script:
        _, _, settings = model.partition(":")
        kinds = {field.name: field.type for field in fields(Script)}
        changes: dict[str, Any] = {}
        for setting in filter(None, settings.split(",")):
            name, _, value = setting.partition("=")
            changes[name] = float(value) if kinds[name] is float else int(value)
        return replace(self.script, **changes) if changes else self.script

    async def _answer(self, path: str, body: dict[str, Any], script: Script, send: Send) -> None:
        if path == "/v1/embeddings":
            await _json(send, 200, embeddings(body))
        elif path == "/tokenize":
            await self._pause(script, 1)
            tokens = list(range(prompt_tokens(body)))
            await _json(send, 200, {"count": len(tokens), "max_model_len": WINDOW, "tokens": tokens})
        elif body.get("stream"):
            await self._stream(path, body, script, send)
        else:
            await self._pause(script, 1)
            await _json(send, 200, whole(path, body, script))

    async def _pause(self, script: Script, chunk: int) -> None:
        if script.delay:
            await asyncio.sleep(script.delay)
        if self.gate is not None and chunk > 0:
            await self.gate.wait()

    async def _stream(self, path: str, body: dict[str, Any], script: Script, send: Send) -> None:
        options: dict[str, Any] = body.get("stream_options") or {}
        wanted = script.usage and bool(options.get("include_usage"))
        continuous = wanted and bool(options.get("continuous_usage_stats"))
        await send({"type": "http.response.start", "status": 200, "headers": _type("text/event-stream; charset=utf-8")})
        count = _limit(body, script)
        frames = stream_frames(path, str(body["model"]), count, prompt_tokens(body), continuous, script)
        for number in range(len(frames) - 1):
            await self._pause(script, number)
            if number == script.fail_after:
                raise UpstreamBroken
            if number == script.error_after:
                await _frame(send, b"data: " + script.error + FRAME_END)
                break
            await _frame(send, frames[number])
        else:
            if wanted:
                await _frame(send, frames[-1])
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def whole(path: str, body: dict[str, Any], script: Script) -> dict[str, Any]:
    """A whole answer."""
    count = _limit(body, script)
    text = "".join(f"w{number} " for number in range(count))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if path == "/v1/completions":
        choice["text"] = text
    else:
        choice |= {"finish_reason": script.finish, "stop_reason": script.matched}
        said: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        calls = [_call(*call, number) for number, call in enumerate(script.calls)]
        more = {"reasoning": script.reasoning, "tool_calls": calls}
        choice["message"] = {**said, **{name: value for name, value in more.items() if value}}
    answer = {**_identity(path, str(body["model"]), ""), "choices": [choice]}
    return {**answer, "usage": usage(prompt_tokens(body), count)} if script.usage else answer


@lru_cache(maxsize=64)
def stream_frames(path: str, model: str, count: int, prompt: int, continuous: bool, of: Script) -> tuple[bytes, ...]:  # noqa: FBT001 - part of the cache's key
    """A stream's frames and, last, the one with the usage; the same call makes the same bytes, so they are kept."""
    payloads = [chunk(path, model, number, last=number == count - 1) for number in range(count)]
    if path == "/v1/chat/completions" and (of.reasoning or of.calls or of.matched or of.finish != "stop"):
        payloads = [{**_identity(path, model, ".chunk"), "choices": [choice]} for choice in spoken(of, count)]
        count = len(payloads)
    if continuous:
        payloads = [{**payload, "usage": usage(prompt, number + 1)} for number, payload in enumerate(payloads)]
    payloads.append({**chunk(path, model, 0, last=False), "choices": [], "usage": usage(prompt, count)})
    return tuple(b"data: " + orjson.dumps(payload) + FRAME_END for payload in payloads)


def spoken(script: Script, count: int) -> list[dict[str, Any]]:
    """The choice of each chunk of a chat's answer that is more than words."""
    deltas: list[dict[str, Any]] = [{"reasoning": script.reasoning}] if script.reasoning else []
    deltas += [{"content": f"w{number} "} for number in range(count)]
    for number, (name, arguments) in enumerate(script.calls):
        half = len(arguments) // 2
        deltas.append({"tool_calls": [_call(name, "", number)]})
        for piece in (arguments[:half], arguments[half:]):
            deltas.append({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    deltas[0]["role"] = "assistant"
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices[-1] |= {"finish_reason": script.finish, "stop_reason": script.matched}
    return choices


def _call(name: str, arguments: str, number: int) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": number, "id": f"call_{number}", "type": "function", "function": function}


def chunk(path: str, model: str, number: int, *, last: bool) -> dict[str, Any]:
    """One chunk of a stream."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if last else None}
    if path == "/v1/completions":
        choice["text"] = f"w{number} "
    else:
        choice["delta"] = {"content": f"w{number} "} if number else {"role": "assistant", "content": "w0 "}
    return {**_identity(path, model, ".chunk"), "choices": [choice]}


def prompt_tokens(body: dict[str, Any]) -> int:
    """One for each word of the request's texts."""
    return len(orjson.dumps(body.get("messages", body.get("prompt", ""))).split())


def usage(prompt: int, completion: int) -> dict[str, int]:
    """OpenAI's usage object."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """A vector for each input, a function of its length alone."""
    given: Any = body["input"]
    inputs = cast("list[Any]", given if isinstance(given, list) and isinstance(given[0], str | list) else [given])
    data: list[dict[str, Any]] = []
    tokens = 0
    for index, item in enumerate(inputs):
        length = len(item.split()) if isinstance(item, str) else len(item)
        tokens += length
        vector = [float(length + place) for place in range(DIMENSIONS)]
        packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        embedding: Any = packed if body.get("encoding_format") == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    return {
        "object": "list",
        "data": data,
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _limit(body: dict[str, Any], script: Script) -> int:
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or script.chunks
    return min(int(asked), script.chunks)


def _identity(path: str, model: str, suffix: str) -> dict[str, Any]:
    kind = "text_completion" if path == "/v1/completions" else f"chat.completion{suffix}"
    return {"id": "scripted-1", "object": kind, "created": CREATED, "model": model}


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _type(content_type: str) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", content_type.encode())]


async def _frame(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _json(send: Send, status: int, payload: dict[str, Any]) -> None:
    await _bytes(send, status, orjson.dumps(payload), "application/json")


async def _bytes(send: Send, status: int, body: bytes, content_type: str) -> None:
    headers = [*_type(content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = ScriptedEngine()
