"""The edge of internal applications."""

import asyncio

import httpx
import pytest
from pydantic import BaseModel

from models.errors import InvalidRequest, PlatformError, UpstreamError
from serve.asgi import ClientDisconnected, Message, Receive, Scope, Send, read_body
from serve.edge import Edge, Route, parse, unless_disconnected

closed: list[bool] = []


async def close() -> None:
    closed.append(True)


async def unforeseen(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise KeyError("inner secret")


async def late(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part"})
    raise UpstreamError("too late")


async def read(scope: Scope, receive: Receive, _send: Send) -> None:
    await read_body(receive, scope, 10)


EDGE = Edge({"/unforeseen": Route("GET", unforeseen), "/late": Route("GET", late), "/read": Route("POST", read)}, close)


async def test_an_unforeseen_error_answers_500_and_tells_nothing() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(EDGE), base_url="http://x") as client:
        answer = await client.get("/unforeseen")
        part = await client.get("/late")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "inner secret" not in answer.text
    assert part.text == "part"


async def drive(scope: Scope, incoming: list[Message]) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await EDGE(scope, receive, send)
    return sent


async def test_lifespan_closes_and_websockets_are_refused() -> None:
    sent = await drive({"type": "lifespan"}, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert closed == [True]
    assert await drive({"type": "websocket"}, []) == [{"type": "websocket.close", "code": 1008}]


async def test_a_client_that_left_while_sending_gets_no_answer() -> None:
    scope = {"type": "http", "method": "POST", "path": "/read", "headers": []}
    assert await drive(scope, [{"type": "http.disconnect"}]) == []


async def test_work_ends_with_its_result_its_error_or_the_hang_up() -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()

    async def value() -> int:
        return 7

    async def fails() -> int:
        raise PlatformError("no")

    cancelled = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert await unless_disconnected(messages.get, value()) == 7
    with pytest.raises(PlatformError, match="no"):
        await unless_disconnected(messages.get, fails())
    messages.put_nowait({"type": "http.request"})
    messages.put_nowait({"type": "http.disconnect"})
    with pytest.raises(ClientDisconnected):
        await unless_disconnected(messages.get, hangs())
    assert cancelled.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Part(BaseModel):
    kind: str


class Line(BaseModel):
    content: str | list[Part]


class Body(BaseModel):
    lines: list[Line]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"lines":[{"content":[{}]}]}', "lines[0].content"),
        (b'{"lines":[{"content":"a"},{}]}', "lines[1].content"),
        (b'{"lines":3}', "lines"),
    ],
)
def test_a_field_at_fault_is_named_as_the_caller_wrote_it(body: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(Body, body)
    assert caught.value.param == param
