"""The guard of internal applications."""

import httpx
import pytest
from pydantic import SecretStr

from serve.asgi import Message, Receive, Scope, Send, header, read_body, send_json
from serve.guard import Guard


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        body = await read_body(receive, scope, 1_000)
        seen = header(scope, b"x-objecta-cluster-secret")
        await send_json(send, 200, {"length": len(body), "secret_seen": seen is not None})
    else:
        await send({"type": f"{scope['type']}.passed"})


def client(secret: str = "s3cret") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(Guard(inner, SecretStr(secret))), base_url="http://x")


async def never() -> Message:
    raise AssertionError("the guard must not read the body")


async def test_the_secret_opens_and_goes_no_further() -> None:
    async with client() as http:
        answer = await http.post("/", content=b"abc", headers={"x-objecta-cluster-secret": "s3cret"})
    assert (answer.status_code, answer.json()) == (200, {"length": 3, "secret_seen": False})


@pytest.mark.parametrize("headers", [{}, {"x-objecta-cluster-secret": "wrong"}, {"x-objecta-cluster-secret": ""}])
async def test_without_the_secret_there_is_nothing(headers: dict[str, str]) -> None:
    async with client() as http:
        answer = await http.post("/internal/anything", content=b"abc", headers=headers)
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "There is nothing at this address.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
    }


async def test_a_refused_body_is_not_read() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Guard(inner, SecretStr("s3cret"))({"type": "http", "headers": []}, never, send)
    assert sent[0]["status"] == 404


async def test_lifespan_passes_and_a_stranger_s_websocket_is_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    guard = Guard(inner, SecretStr("s3cret"))
    await guard({"type": "lifespan"}, never, send)
    await guard({"type": "websocket", "headers": []}, never, send)
    await guard({"type": "websocket", "headers": [(b"x-objecta-cluster-secret", b"s3cret")]}, never, send)
    assert [message["type"] for message in sent] == ["lifespan.passed", "websocket.close", "websocket.passed"]


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Guard(inner, SecretStr(""))
