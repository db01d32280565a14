"""The scripted OpenAI upstream behind every contender: answers at once, so what is measured is what stands before it.

``python -m benchmarks.upstream`` prints its port on one line and serves until its standard input closes. It is raw
asyncio, for an ASGI server would be the limit. A stream's chunks are separate writes, each from its own turn of the
event loop, so that the streams of many clients interleave and no proxy gets a whole answer in one read.

``--pace SECONDS`` sends a chunk every so often instead, and the content of each is the moment it was sent, in seconds
of the monotonic clock (all processes of a machine share it).
"""

import argparse
import asyncio
import sys
import time
from typing import cast

import orjson
import uvloop

from benchmarks.processes import until_input_closes

MODEL = "scripted"
MARKER = "tick"
"""Occurs once in a whole answer and once in each content chunk of a stream."""

STREAM_CHUNKS = 64

_HEAD_END = b"\r\n\r\n"
_USAGE = {"prompt_tokens": 8, "completion_tokens": STREAM_CHUNKS, "total_tokens": 8 + STREAM_CHUNKS}
_IDENTITY = {"id": "chatcmpl-scripted", "created": 1_760_000_000, "model": MODEL}


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _response(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body


def _whole() -> bytes:
    message = {"role": "assistant", "content": f"{MARKER} "}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return _response(
        orjson.dumps({**_IDENTITY, "object": "chat.completion", "choices": [choice], "usage": _USAGE}),
    )


def _event(**fields: object) -> bytes:
    data = b"data: %s\n\n" % orjson.dumps({**_IDENTITY, "object": "chat.completion.chunk", **fields})
    return b"%x\r\n%s\r\n" % (len(data), data)


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> list[dict[str, object]]:
    return [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]


def _stream(*, with_usage: bool) -> list[bytes]:
    """The writes of one stream; the head goes with the first chunk, the end with the last."""
    usage: dict[str, object] = {"usage": None} if with_usage else {}
    first = _event(choices=_choice({"role": "assistant", "content": f"{MARKER} "}), **usage)
    other = _event(choices=_choice({"content": f"{MARKER} "}), **usage)
    end = _event(choices=_choice({}, "stop"), **usage)
    if with_usage:
        end += _event(choices=[], usage=_USAGE)
    done = b"data: [DONE]\n\n"
    end += b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done)
    return [_STREAM_HEAD + first, *[other] * (STREAM_CHUNKS - 1), end]


def _dated(position: int) -> bytes:
    """A chunk that says when it was sent."""
    chunk = _event(choices=_choice({"content": f"{time.monotonic():.6f} "}))
    return chunk if position else _STREAM_HEAD + chunk


WHOLE = _whole()
STREAMS = {with_usage: _stream(with_usage=with_usage) for with_usage in (False, True)}
MODELS = _response(orjson.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0}]}))
NOTHING = _response(
    b'{"error":{"message":"nothing here","type":"not_found","param":null,"code":null}}', b"404 Not Found"
)


class ScriptedServer(asyncio.Protocol):
    """One connection. Requests are answered in order; a request with a chunked body is not understood and cut off."""

    def __init__(self, pace_seconds: float = 0.0) -> None:
        self._pace_seconds = pace_seconds
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._streaming = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the loop."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        self._answer_next()

    def _answer_next(self) -> None:
        while self._transport is not None and not self._streaming:
            head, end, rest = self._buffer.partition(_HEAD_END)
            if not end:
                return
            length = _content_length(head)
            if length is None:
                self._transport.close()
                return
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head, rest[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if not head.startswith(b"POST "):
            self._transport.write(MODELS if b"/v1/models" in head.split(b"\r\n", 1)[0] else NOTHING)
            return
        request = orjson.loads(body)
        if not request.get("stream"):
            self._transport.write(WHOLE)
            return
        self._streaming = True
        with_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self._write_next(STREAMS[with_usage], 0)

    def _write_next(self, writes: list[bytes], position: int) -> None:
        if self._transport is None:
            return
        last = position + 1 == len(writes)
        self._transport.write(_dated(position) if self._pace_seconds and not last else writes[position])
        if not last:
            self._loop.call_later(self._pace_seconds, self._write_next, writes, position + 1)
            return
        self._streaming = False
        self._answer_next()


def _content_length(head: bytes) -> int | None:
    """0 without a body; None where the length is not declared."""
    lowered = head.lower()
    if b"\r\ntransfer-encoding:" in lowered:
        return None
    _, found, value = lowered.partition(b"\r\ncontent-length:")
    return int(value.split(b"\r\n", 1)[0]) if found else 0


async def serve(pace_seconds: float = 0.0) -> None:
    """Listen on a free loopback port until standard input closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ScriptedServer(pace_seconds), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await until_input_closes()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two chunks of a stream")
    uvloop.run(serve(parser.parse_args().pace))
