"""Giving a file's bytes out, block by block, whole or one range of it."""

import asyncio
import logging
import re
from contextlib import suppress
from urllib.parse import quote

from models.files import FileObject
from serve.asgi import ClientDisconnected, Headers, Receive, Send
from serve.config import FileLimits
from serve.files.store import ObjectStore, Reader
from serve.files.uploads import store_away
from serve.hangup import HangUp

BLOCK_BYTES = 1024 * 1024
# More digits than any file has bytes.
RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})")

logger = logging.getLogger(__name__)


class Downloads:
    """All downloads of one replica."""

    def __init__(self, store: ObjectStore, limits: FileLimits) -> None:
        self._store = store
        self._limits = limits

    async def send(
        self, file: FileObject, name: str, asked: bytes | None, headers: Headers, receive: Receive, send: Send
    ) -> None:
        """The object ``name`` as the answer; ``asked`` is the request's range header.

        Raises Unavailable where the store fails: before the first byte the client is told, later its answer is cut.
        ClientDisconnected where it left, or does not read.
        """
        span = part(asked, file.bytes)
        start, length = (span.start, len(span)) if span else (0, file.bytes)
        reader = self._store.reader(name, start)
        try:
            async with HangUp(receive) as watch:
                await reader.open()
                first = await reader.read(min(length, BLOCK_BYTES))
                await send(opening(file, span, headers))
                await self._relay(reader, first, length, send, watch)
        except OSError as error:
            logger.warning("file %s could not be read: %r", file.id, error)
            raise store_away() from None
        finally:
            await asyncio.shield(self._close(reader))

    async def _relay(self, reader: Reader, block: bytes, length: int, send: Send, watch: HangUp) -> None:
        while block:
            length -= len(block)
            if not length:
                watch.answered()
            try:
                async with asyncio.timeout(self._limits.idle_seconds):
                    await send({"type": "http.response.body", "body": block, "more_body": length > 0})
            except TimeoutError:
                raise ClientDisconnected from None
            block = await reader.read(min(length, BLOCK_BYTES)) if length else b""
        if length:
            raise OSError("the object is shorter than its row says")

    async def _close(self, reader: Reader) -> None:
        with suppress(OSError):
            await reader.close()


def part(asked: bytes | None, size: int) -> range | None:
    """The bytes that a range header asks for; None for the whole file.

    What is no single range within the file is ignored, as RFC 9110 (14.2) allows.
    """
    found = RANGE.fullmatch(asked.strip()) if asked else None
    if found is None:
        return None
    first, last = found.groups()
    if first:
        span = range(int(first), min(int(last) + 1, size) if last else size)
    elif last:
        span = range(max(0, size - int(last)), size)
    else:
        return None
    return span or None


def opening(file: FileObject, span: range | None, headers: Headers) -> dict[str, object]:
    """The answer's start. A browser must store the file, never show it."""
    length = len(span) if span else file.bytes
    own = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % length),
        (b"content-disposition", disposition(file.filename)),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"default-src 'none'; sandbox"),
        (b"accept-ranges", b"bytes"),
        (b"etag", f'"{file.sha256}"'.encode()),
    ]
    if span:
        own.append((b"content-range", b"bytes %d-%d/%d" % (span[0], span[-1], file.bytes)))
    return {"type": "http.response.start", "status": 206 if span else 200, "headers": [*own, *headers]}


def disposition(filename: str) -> bytes:
    """``content-disposition`` of a download, whatever letters its name has (RFC 6266)."""
    plain = "".join(letter if letter.isascii() and letter not in '"\\%' else "_" for letter in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}".encode()
