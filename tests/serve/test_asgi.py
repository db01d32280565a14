"""Raw ASGI helpers."""

from collections.abc import Iterable

import pytest

from models.errors import BodyTooLarge, RateLimited
from serve.asgi import ClientDisconnected, Message, Receive, read_body, send_error


def source(messages: Iterable[Message]) -> Receive:
    iterator = iter(messages)

    async def receive() -> Message:
        return next(iterator)

    return receive


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_parts_is_joined() -> None:
    assert await read_body(source([part(b"ab", more=True), part(b"c")]), {"headers": []}, 3) == b"abc"


async def test_a_declared_length_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyTooLarge, match="limit of 3 bytes"):
        await read_body(source([]), {"headers": [(b"content-length", b"4")]}, 3)


async def test_a_chunked_body_is_refused_once_it_exceeds_the_limit() -> None:
    messages = iter([part(b"ab", more=True), part(b"cd", more=True), part(b"ef")])

    async def receive() -> Message:
        return next(messages)

    with pytest.raises(BodyTooLarge):
        await read_body(receive, {"headers": [(b"host", b"x")]}, 3)
    assert [message["body"] for message in messages] == [b"ef"]


async def test_a_client_that_leaves_is_told_apart() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(source([part(b"ab", more=True), {"type": "http.disconnect"}]), {"headers": []}, 10)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.25, (b"1", b"250")), (1.2, (b"2", b"1200")), (0.0, (b"1", b"1")), (None, None)]
)
async def test_an_error_says_when_to_try_again(seconds: float | None, expected: tuple[bytes, bytes] | None) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await send_error(send, RateLimited("Slow down.", retry_after_seconds=seconds))
    headers = dict(sent[0]["headers"])
    found = (headers[b"retry-after"], headers[b"retry-after-ms"]) if b"retry-after" in headers else None
    assert (sent[0]["status"], found) == (429, expected)
