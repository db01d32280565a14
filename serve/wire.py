"""HTTP/1.1 to upstreams, and no more of it than a gateway needs: a pool of connections and how to ask on one.

A general client's request costs a gateway as much as all of its own work; this one writes a request in one piece. It
follows no redirect, proxy or cookie, and asks for no encoding.

``NotConnected`` means that no byte of the request can have been read; after any other failure it may have been.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohappyeyeballs

from serve.http1 import Answer, Connection, WireError

KEEPALIVE_SECONDS = 15.0
# RFC 8305, section 8: the delay between attempts to connect.
ATTEMPT_DELAY_SECONDS = 0.25


class NotConnected(WireError):
    """There was nobody to send the request to; ``late``: none who took it in time."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Place(NamedTuple):
    """Where a request goes; ``start`` is its first line and what follows of its head in every request."""

    host: str
    port: int
    secure: bool
    start: bytes


def place(url: str, method: str = "POST") -> Place:
    """Of an ``http`` or ``https`` URL. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("an upstream's address is http:// or https:// with a host")
    secure = parts.scheme == "https"
    authority = parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method.encode(), target.encode("ascii"), authority)
    if b" " in authority or head.count(b" ") != 3 or head.count(b"\n") != 2:
        raise ValueError("an upstream's address holds neither blanks nor line ends")
    return Place(parts.hostname, parts.port or (443 if secure else 80), secure, head)


class Wire:
    """All connections of one process to its upstreams."""

    def __init__(self, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._idle: dict[tuple[str, int, bool], deque[Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return sum(map(len, self._idle.values()))

    async def send(
        self, where: Place, headers: Mapping[str, str], body: bytes = b"", connect_seconds: float | None = None
    ) -> Answer:
        """The answer, its head read and its body to come. Raises NotConnected, WireError.

        Raises ValueError where a header holds a line end or a letter that is none of ASCII's.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\r") != len(headers) or lines.count("\n") != len(headers) or "\0" in lines:
            raise ValueError("a header's value is one line")
        head = b"%b%bcontent-length: %d\r\n\r\n" % (where.start, lines.encode("ascii"), len(body))
        connection = self._kept(where) or await self._connect(where, connect_seconds or self._connect_seconds)
        answer = connection.ask(head, body)
        try:
            await answer.head()
        except BaseException:
            answer.close()
            raise
        return answer

    def close(self) -> None:
        """Cut what is idle; what is in use ends with its answer."""
        for kept in self._idle.values():
            for connection in tuple(kept):
                connection.abort()
            kept.clear()

    def _kept(self, where: Place) -> Connection | None:
        kept = self._idle.get(where[:3])
        if not kept:
            return None
        old = asyncio.get_running_loop().time() - KEEPALIVE_SECONDS
        while kept and kept[0].idle_since < old:
            kept.popleft().abort()
        while kept:
            # The one used last is the one least likely to be closed meanwhile.
            connection = kept.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, where: Place, seconds: float) -> Connection:
        key = where[:3]
        idle = self._idle.setdefault(key, deque())
        loop = asyncio.get_running_loop()
        context = self._context() if where.secure else None
        try:
            async with asyncio.timeout(seconds):
                found = await loop.getaddrinfo(where.host, where.port, type=1)
                infos = [(family, kind, proto, "", address) for family, kind, proto, _, address in found]
                sock = await aiohappyeyeballs.start_connection(  # pyright: ignore[reportUnknownMemberType] - a bare tuple
                    infos, happy_eyeballs_delay=ATTEMPT_DELAY_SECONDS, interleave=1, loop=loop
                )
                try:
                    _, connection = await loop.create_connection(
                        lambda: Connection(idle),
                        sock=sock,
                        ssl=context,
                        server_hostname=where.host if context else None,
                    )
                except BaseException:
                    sock.close()
                    raise
        except (OSError, ssl.CertificateError) as error:
            why = f"{where.host}:{where.port} cannot be reached: {type(error).__name__}"
            raise NotConnected(why, late=isinstance(error, TimeoutError)) from None
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
