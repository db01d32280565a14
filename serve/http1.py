"""One connection to an upstream as HTTP/1.1's client (RFC 9112), parsed by llhttp, as uvicorn does.

Invariants
1. A connection carries one request at a time. It is used again only after a whole answer whose server keeps it open.
2. At most ``BUFFER_BYTES`` of an answer wait to be read, and one read of the socket; then the server has to wait.
3. An answer that is closed before its end cuts its connection.
"""

import asyncio
from collections import deque
from typing import cast

import httptools

BUFFER_BYTES = 256 * 1024
HEAD_BYTES_MAX = 64 * 1024
INFORMATIONAL = range(100, 200)
FRAMED = frozenset({b"content-length", b"transfer-encoding"})


class WireError(OSError):
    """The connection was lost, or what came is not HTTP. Its message is for logs."""


class Answer:
    """One answer: its head at once, its body as it comes. Close it, read or not."""

    __slots__ = ("_connection", "_done", "_error", "_parts", "_size", "_waiter", "headers", "status")

    def __init__(self, connection: "Connection") -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._connection: Connection | None = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._done = False
        self._error: WireError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; ``name`` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def content_type(self) -> str:
        """Without its parameters, in lower case; empty where there is none."""
        return (self.header(b"content-type") or b"").partition(b";")[0].strip().lower().decode("latin-1")

    async def head(self) -> None:
        """Returns when status and headers are there. Raises WireError."""
        while not self.status:
            await self._more()

    async def readany(self) -> bytes:
        """What has come of the body, at least a byte of it; empty at its end. Raises WireError."""
        while not self._parts:
            if self._done:
                return b""
            await self._more()
        parts, self._parts = self._parts, []
        if self._size > BUFFER_BYTES and self._connection is not None:
            self._connection.resume()
        self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self, bytes_max: int) -> bytes:
        """The body's beginning. Raises WireError."""
        data = b""
        while len(data) < bytes_max and (more := await self.readany()):
            data += more
        return data[:bytes_max]

    def close(self) -> None:
        """Give the connection up, unless the answer is whole."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def began(self, status: int) -> None:
        """Told by the connection: the head is whole."""
        self.status = status
        self._wake()

    def came(self, data: bytes) -> bool:
        """Told by the connection: more of the body; whether there is room for more."""
        self._parts.append(data)
        self._size += len(data)
        self._wake()
        return self._size <= BUFFER_BYTES

    def ended(self) -> None:
        """Told by the connection: that was all of it."""
        self._done = True
        self._connection = None
        self._wake()

    def lost(self, error: WireError) -> None:
        """Told by the connection: no more will come."""
        self._connection = None
        self._error = error
        self._wake()


class Connection(asyncio.Protocol):
    """One connection of a pool. httptools calls the ``on_*`` methods."""

    def __init__(self, idle: "deque[Connection]") -> None:
        self._idle = idle
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._head_bytes = 0
        self._paused = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        answer, self._answer = self._answer, None
        if answer is None:
            if self in self._idle:
                self._idle.remove(self)
        elif exc is None and answer.status and FRAMED.isdisjoint(name for name, _ in answer.headers):
            # Such a body ends with its connection.
            answer.ended()
        else:
            answer.lost(WireError("the connection was lost"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("what came is no HTTP/1.1 answer")
            return
        if self._answer is not None and not self._answer.status:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._fail("the answer's head is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if self._answer is not None:
            self._answer.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        status = self._parser.get_status_code()
        answer = self._answer
        self._head_bytes = 0
        if answer is None:
            self.abort()
        elif status in INFORMATIONAL:
            answer.headers.clear()
        else:
            answer.began(status)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._answer is not None and not self._answer.came(body) and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        answer = self._answer
        if answer is None or not answer.status:
            return
        self._answer = None
        if self._parser.should_keep_alive() and self._transport is not None and not self._transport.is_closing():
            self.resume()
            self.idle_since = asyncio.get_running_loop().time()
            self._idle.append(self)
        else:
            self.abort()
        answer.ended()

    @property
    def usable(self) -> bool:
        """Whether a request can be written to it."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, head: bytes, body: bytes) -> Answer:
        """Write a request; its answer will come. The connection must be usable and idle."""
        answer = self._answer = Answer(self)
        transport = cast("asyncio.Transport", self._transport)
        if len(body) < BUFFER_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        return answer

    def resume(self) -> None:
        """There is room again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, reason: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.lost(WireError(reason))
        self.abort()
