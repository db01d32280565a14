from typing import Any

import pytest

from serve.allowlist import Allowlist, local_path
from serve.asgi import Message, Receive, Scope, Send


async def inner(scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "inner", "kind": scope["type"]})


async def call(scope: dict[str, Any]) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body must not be read")

    async def send(message: Message) -> None:
        sent.append(message)

    await Allowlist(inner, frozenset({"/v1/models"}))(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("path", "root"),
    [("/v1/models", ""), ("/internal/engines/m/v1/models", "/internal/engines/m"), ("/v1/models", "/m")],
)
async def test_a_named_path_passes_wherever_it_is_mounted(path: str, root: str) -> None:
    sent = await call({"type": "http", "path": path, "root_path": root})
    assert sent == [{"type": "inner", "kind": "http"}]


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/docs", "/v1/models/", "/metrics"])
async def test_any_other_path_is_not_there(path: str) -> None:
    sent = await call({"type": "http", "path": path, "root_path": ""})
    assert sent[0]["status"] == 404


async def test_lifespan_passes_and_websockets_are_closed() -> None:
    assert await call({"type": "lifespan"}) == [{"type": "inner", "kind": "lifespan"}]
    assert await call({"type": "websocket", "path": "/v1/models"}) == [{"type": "websocket.close", "code": 1008}]


def test_a_mount_point_is_cut_at_a_slash_only() -> None:
    assert local_path({"path": "/models", "root_path": "/mod"}) == "/models"
