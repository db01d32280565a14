"""A gateway before the real control plane on real PostgreSQL, and an engine that says what it is given."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.migrations import migrate
from serve.config import ResponsesConfig

SECRET = "test-cluster-secret"
OPERATOR = "test-operator-key-0"
CREATED = 1_767_225_600
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 7,
    "total_tokens": 19,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def chunk(finish: str | None = None, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    head = {"id": "chat-1", "object": "chat.completion.chunk", "created": CREATED, "model": "scripted"}
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}]}


def call(index: int, arguments: str, call_id: str | None = None, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    named = {"id": call_id, "type": "function"} if call_id else {}
    return {"tool_calls": [{"index": index, **named, "function": function}]}


@dataclass
class Speaker:
    """An engine on vLLM's wire. ``answers``: the chunks of each call; the last answer is given again.

    ``gate``: what every call waits for after its first chunk. ``cut`` calls break off instead of ending.
    """

    answers: list[list[dict[str, Any]]] = field(default_factory=lambda: [[chunk(content="Hi"), chunk("stop")]])
    requests: list[dict[str, Any]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    cut: bool = False
    running: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        head = {"type": "http.response.start", "status": 200}
        if scope["path"] == "/health":
            await send({**head, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        raw = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            raw += message["body"]
            if not message.get("more_body"):
                break
        self.requests.append(orjson.loads(raw))
        await send({**head, "headers": [(b"content-type", b"text/event-stream")]})
        work = asyncio.ensure_future(self._speak(send))
        gone = asyncio.ensure_future(self._gone(receive))
        self.running += 1
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        self.running -= 1
        for task in (work, gone):
            task.cancel()
        await asyncio.wait({work, gone})

    async def _speak(self, send: Any) -> None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        usage = {**chunk(), "choices": [], "usage": USAGE}
        for number, payload in enumerate([*answer, usage]):
            if number == 1 and self.gate is not None:
                await self.gate.wait()
            await send({"type": "http.response.body", "body": frame(payload), "more_body": True})
        await send({"type": "http.response.body", "body": b"" if self.cut else b"data: [DONE]\n\n"})

    async def _gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def frame(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(name="chunk")
def chunk_fixture() -> Callable[..., dict[str, Any]]:
    return chunk


@pytest.fixture(name="call")
def call_fixture() -> Callable[..., dict[str, Any]]:
    return call


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="critical", timeout_graceful_shutdown=0)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    await task
    listening.close()


@pytest.fixture(name="serving")
def serving_fixture() -> Callable[..., Any]:
    return serving


@dataclass
class State:
    """The control plane. ``tenant()``: a new organisation; ``project(…)``: one more project of one, with its key."""

    app: FastAPI
    url: str
    database_url: str
    http: httpx.AsyncClient

    async def tenant(self, name: str) -> dict[str, Any]:
        made = await self._post("/api/v1/organisations", {"name": name})
        return {"id": made["organisation"]["id"], "key": made["admin_key"]["key"]}

    async def project(self, tenant: dict[str, Any], name: str) -> str:
        root = f"/api/v1/organisations/{tenant['id']}"
        project = await self._post(f"{root}/projects", {"name": name})
        return (await self._post(f"{root}/api-keys", {"name": name, "project_id": project["id"]}))["key"]

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.http.post(path, json=body, headers={"authorization": f"Bearer {OPERATOR}"})
        assert answer.status_code == 201, answer.text
        return answer.json()


@pytest.fixture(scope="session")
def state_database(postgres_server: Any) -> str:
    url = postgres_server.create_database()
    migrate(url)
    return url


@pytest.fixture
async def state(state_database: str, redis_url: str) -> AsyncIterator[State]:
    config = ControlPlaneConfig(
        database_url=state_database,
        redis_url=redis_url,
        cluster_secret=SECRET,
        operator_key=OPERATOR,
        key_pepper="test-pepper-test-pepper",
        jobs_url="http://127.0.0.1:9",
        ingest_entrypoint="true",
        chat_models=("scripted",),
        embedding_models=(),
        response_grace_seconds=0.01,
        reap_seconds=0.02,
    )
    app = create_app(config)
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        yield State(app, url, state_database, http)
    await app.state.context.redis.aclose()
    await app.state.context.engine.dispose()


@pytest.fixture
def settings(state: State) -> dict[str, Any]:
    """What a gateway is told, so that it finds the control plane."""
    return {
        "control_plane_url": state.url,
        "cluster_secret": SecretStr(SECRET),
        "responses": ResponsesConfig(lease_seconds=2.0, beat_seconds=0.05),
    }


@pytest.fixture
async def stage(platform: Callable[..., Awaitable[Any]], speaker: Speaker, settings: dict[str, Any]) -> Any:
    return await platform(speaker, **settings)


@pytest.fixture
async def acme(state: State) -> dict[str, Any]:
    return await state.tenant("Acme")


@pytest.fixture
def client(stage: Any, acme: dict[str, Any]) -> Any:
    """The official client with Acme's key."""
    return stage.client(acme["key"])


@pytest.fixture
def post(stage: Any, acme: dict[str, Any]) -> Callable[..., Awaitable[httpx.Response]]:
    """A request for a response on the bare wire."""

    async def send(path: str = "/v1/responses", **body: Any) -> httpx.Response:
        if path == "/v1/responses":
            body = {"model": "scripted", "input": "hi", **body}
        return await stage.http.post(path, json=body, headers={"authorization": f"Bearer {acme['key']}"})

    return send
