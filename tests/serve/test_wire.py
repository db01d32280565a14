"""Our HTTP/1.1 client against servers that say, byte for byte, what the test tells them to."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve.http1 import BUFFER_BYTES, WireError
from serve.wire import NotConnected, Wire, place

DEADLINE_SECONDS = 20.0
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """``asked``: heads and bodies as they came. ``connections``: how many were made, ``lost``: how many ended."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.asked: list[bytes] = []
        self.connections = 0
        self.lost = asyncio.Semaphore(0)
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    self.asked.append(head + await reader.readexactly(length))
                    await self.talk(reader, writer)
        finally:
            writer.close()
            self.lost.release()


@contextlib.asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(talk)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1/x"
    async with listening, asyncio.timeout(DEADLINE_SECONDS):
        yield server
        listening.close()


def says(*parts: bytes, close: bool = False) -> Talk:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()

    return talk


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire(connect_seconds=DEADLINE_SECONDS)
    yield made
    made.close()


async def whole(answer: Any) -> bytes:
    return await answer.read(2**40)


async def until(condition: Callable[[], Any]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\ncontent-length: 2\r\n\r\n{}"


async def test_a_request_is_one_head_and_one_body_and_the_connection_is_used_again(wire: Wire) -> None:
    async with serving(says(OK)) as server:
        for body in (b"{}", b"x" * (BUFFER_BYTES + 1)):
            answer = await wire.send(place(server.url), {"a": "1", "b": "2"}, body)
            assert (answer.status, answer.content_type, await whole(answer)) == (200, "application/json", b"{}")
            answer.close()
        host = server.url.split("/")[2]
        assert server.asked[0].decode() == (
            f"POST /v1/x HTTP/1.1\r\nhost: {host}\r\na: 1\r\nb: 2\r\ncontent-length: 2\r\n\r\n" + "{}"
        )
        assert server.asked[1].endswith(b"x" * (BUFFER_BYTES + 1))
        assert server.connections == 1


async def test_requests_at_once_have_connections_of_their_own(wire: Wire) -> None:
    async with serving(says(OK)) as server:
        answers = await asyncio.gather(*(wire.send(place(server.url), {}) for _ in range(5)))
        assert [await whole(answer) for answer in answers] == [b"{}"] * 5
        assert server.connections == 5


@pytest.mark.parametrize(
    ("parts", "close"),
    [
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab", b"c\r\n0\r\n\r\n"), False),
        ((b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", b"abc"), False),
        ((b"HTTP/1.0 200 OK\r\n\r\na", b"bc"), True),
        ((b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc",), True),
        ((b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",), False),
    ],
    ids=["chunked", "informational", "ends with its connection", "says that it closes", "closes after its length"],
)
async def test_every_way_to_frame_a_body(wire: Wire, parts: tuple[bytes, ...], close: bool) -> None:
    async with serving(says(*parts, close=close)) as server:
        for number in (1, 2):
            answer = await wire.send(place(server.url), {})
            assert (answer.status, answer.header(b"x"), await whole(answer)) == (200, None, b"abc")
            once = parts[0].startswith((b"HTTP/1.0", b"HTTP/1.1 200 OK\r\nconnection: close"))
            assert server.connections == (number if once else 1)


@pytest.mark.parametrize(
    ("said", "close"),
    [
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"", True),
        (b"HTTP/1.1 200", True),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 70_000, False),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 70_000 + b"\r\n", False),
    ],
    ids=["no http", "nothing", "half a line", "an upgrade", "a long header", "many headers"],
)
async def test_what_is_no_answer_is_an_error_and_its_connection_is_cut(wire: Wire, said: bytes, close: bool) -> None:
    async with serving(says(said, close=close)) as server:
        with pytest.raises(WireError) as caught:
            await wire.send(place(server.url), {})
        assert not isinstance(caught.value, NotConnected)
        await server.lost.acquire()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nno length\r\n",
    ],
)
async def test_a_body_that_breaks_off_is_an_error_after_what_came_of_it(wire: Wire, said: bytes) -> None:
    async with serving(says(said, close=True)) as server:
        answer = await wire.send(place(server.url), {})
        assert await answer.readany() == b"abc"
        with pytest.raises(WireError):
            await answer.readany()


async def test_a_connection_that_the_server_closed_is_not_used_again(wire: Wire) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(OK)(reader, writer)
        writer.close()
        await writer.wait_closed()

    async with serving(talk) as server:
        await whole(await wire.send(place(server.url), {}))
        await server.lost.acquire()
        await until(lambda: not wire.idle)
        await whole(await wire.send(place(server.url), {}))
        assert server.connections == 2


async def test_what_comes_unasked_cuts_the_connection(wire: Wire) -> None:
    async with serving(says(OK, OK)) as server:
        await whole(await wire.send(place(server.url), {}))
        await server.lost.acquire()
        assert wire.idle == 0


async def test_an_answer_closed_before_its_end_and_a_cancelled_call_cut_their_connections(wire: Wire) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"
    async with serving(says(half)) as server:
        (await wire.send(place(server.url), {})).close()
        await server.lost.acquire()
    async with serving(says(b"")) as server:
        call = asyncio.ensure_future(wire.send(place(server.url), {}))
        await until(lambda: server.asked)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.lost.acquire()
        assert wire.idle == 0


async def test_a_server_that_sends_faster_than_is_read_has_to_wait(wire: Wire) -> None:
    size = 64 * 1024 * 1024
    sent = 0

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(65_536))
            await writer.drain()
            sent += 65_536

    async with serving(talk) as server:
        answer = await wire.send(place(server.url), {})
        seen = -1
        while seen != sent:
            # It has stopped when a thousand turns of the loop brought nothing.
            seen = sent
            for _ in range(1_000):
                await asyncio.sleep(0)
        assert sent < size / 2
        read = 0
        while data := await answer.readany():
            assert len(data) <= BUFFER_BYTES + 1024 * 1024
            read += len(data)
        assert read == size


async def test_nobody_there_is_told_from_a_request_that_may_have_been_read(wire: Wire) -> None:
    async with serving(says(OK)) as server:
        url = server.url
    with pytest.raises(NotConnected):
        await wire.send(place(url), {})
    with pytest.raises(NotConnected):
        await wire.send(place("http://no-such-host.invalid/"), {})


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "ä"])
async def test_a_header_cannot_become_two(wire: Wire, value: str) -> None:
    async with serving(says(OK)) as server:
        with pytest.raises(ValueError, match=r"one line|ordinal not in range"):
            await wire.send(place(server.url), {"a": value})
        assert server.connections == 0


@pytest.mark.parametrize("url", ["ftp://x/", "http:///x", "http://u:p@x/", "x", "http://a b/", "http://x/a b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="an upstream's address"):
        place(url)


def test_an_address_has_its_schemes_port() -> None:
    assert place("https://a.example/v1?x=1", "GET")[:3] == ("a.example", 443, True)
    assert place("http://[::1]:81/")[:3] == ("::1", 81, False)
    assert place("http://a.example")[3] == b"POST / HTTP/1.1\r\nhost: a.example\r\n"


def certified(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS with a certificate of 127.0.0.1 that signs itself; ``folder`` gets its PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(pem)
    (folder / "all.pem").write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "all.pem")
    return context


async def test_a_secure_address_is_verified(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(says(OK), certified(tmp_path)) as server:
        with pytest.raises(NotConnected):
            await wire.send(place(server.url), {})
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        trusting = Wire(connect_seconds=DEADLINE_SECONDS)
        for _ in (1, 2):
            assert await whole(await trusting.send(place(server.url), {})) == b"{}"
        trusting.close()
        assert len(server.asked) == 2
