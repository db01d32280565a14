"""A client that leaves: its upstream is cut off, or where the route drains, read to the end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve.asgi import ClientDisconnected, Message
from serve.hangup import Leaving

Start = Callable[..., Awaitable[Any]]
HI: Any = [{"role": "user", "content": "hi"}]
BODY = b'{"model":"first","messages":[{"role":"user","content":"hi"}],"stream":true}'


async def left_in_a_stream(them: Any) -> None:
    them.first.gate.clear()
    stream = await them.stage.client().chat.completions.create(model="first", messages=HI, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()


async def test_a_stream_is_read_to_its_end_and_charged_whole(authors: Start) -> None:
    them = await authors(client_gone="drain")
    await left_in_a_stream(them)
    them.first.gate.set()
    (event,) = await them.stage.events()
    assert them.first.finished == 1
    assert (event.status, event.http_status, event.source) == ("client_gone", 499, "provider")
    assert (event.usage.completion, event.cost_micro) == (8, 4 + 8 * 2)


async def test_a_whole_answer_too(authors: Start) -> None:
    them = await authors(client_gone="drain")
    them.first.gate.clear()
    call = asyncio.ensure_future(them.stage.chat(model="first"))
    await them.stage.until(lambda: them.first.asked)
    call.cancel()
    await asyncio.wait({call})
    them.first.gate.set()
    (event,) = await them.stage.events()
    assert (event.status, event.source, event.usage.completion) == ("client_gone", "provider", 8)


async def test_only_for_so_long(authors: Start) -> None:
    them = await authors(client_gone="drain", drain_seconds_max=0.2)
    await left_in_a_stream(them)
    (event,) = await them.stage.events()
    assert (event.status, event.usage.completion, them.first.finished) == ("client_gone", 1, 0)


async def test_a_client_that_stays_notices_nothing(authors: Start) -> None:
    them = await authors(client_gone="drain", drain_seconds_max=0.01)
    frames = await them.frames()
    assert them.said(frames).endswith("word7")
    assert (await them.stage.chat(model="first")).status_code == 200
    them.first.status = 400
    assert (await them.stage.chat(model="first", stream=True)).status_code == 400
    assert [event.status for event in await them.stage.events(3)] == ["ok", "ok", "error"]


async def test_a_broken_stream_is_not_resumed_for_nobody(authors: Start) -> None:
    them = await authors(client_gone="drain", mid_stream="restart")
    them.first.breaks = [3]
    await left_in_a_stream(them)
    them.first.gate.set()
    (event,) = await them.stage.events()
    assert (event.status, event.usage.completion, them.second.asked) == ("client_gone", 3, [])


async def test_a_replica_that_stops_reads_for_nobody(authors: Start) -> None:
    them = await authors(client_gone="drain")
    await left_in_a_stream(them)
    async with asyncio.timeout(5):
        await them.stage.gateway.close()
    (event,) = await them.stage.events()
    assert event.status in {"client_gone", "gateway_lost"}
    assert (event.usage.completion, them.first.finished) == (1, 0)


async def test_a_handler_that_its_server_cancels_drains_as_well(authors: Start) -> None:
    them = await authors(client_gone="drain")
    them.first.gate.clear()
    messages: list[Message] = [{"type": "http.request", "body": BODY}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer good")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    handler = asyncio.ensure_future(them.stage.gateway(scope, receive, send))
    await them.stage.until(lambda: any(b"word0" in message.get("body", b"") for message in sent))
    handler.cancel()
    await asyncio.sleep(0)
    before = len(sent)
    them.first.gate.set()
    await asyncio.wait({handler})
    assert len(sent) == before
    (event,) = await them.stage.events()
    assert (event.status, event.usage.completion) == ("client_gone", 8)


@pytest.mark.parametrize("stopping", [False, True])
async def test_who_cancels_a_call_whose_client_is_there(stopping: bool) -> None:
    sent: list[Message] = []
    leaving, work, go_on = worker(sent, lambda: stopping)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    handler = asyncio.ensure_future(leaving.outlived_by(work(), receive))
    await asyncio.sleep(0)
    handler.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError if stopping else ClientDisconnected):
        await handler
    assert sent == []


async def test_a_stop_ends_what_is_read_for_nobody(authors: Start) -> None:
    closing = False
    leaving, work, _ = worker([], lambda: closing)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    handler = asyncio.ensure_future(leaving.outlived_by(work(), receive))
    await (await authors()).stage.until(lambda: leaving.gone)
    closing = True
    handler.cancel()
    with pytest.raises(ClientDisconnected):
        await handler


def worker(sent: list[Message], closing: Callable[[], bool]) -> tuple[Leaving, Callable[[], Any], asyncio.Event]:
    async def send(message: Message) -> None:
        sent.append(message)

    leaving, go_on = Leaving(send, 60.0, closing), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        await leaving.send({"type": "http.response.body"})

    return leaving, work, go_on


async def test_an_end_that_looks_like_a_hang_up_is_none() -> None:
    left = asyncio.Event()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        left.set()
        await asyncio.sleep(0)

    leaving = Leaving(send, 5.0, lambda: False)

    async def work() -> None:
        leaving.answered()
        await leaving.send({"type": "http.response.body"})
        await asyncio.sleep(0)

    await leaving.outlived_by(work(), receive)
    assert not leaving.gone
