"""A gateway before the control plane's own application (real PostgreSQL and Redis) and an upstream that echoes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.migrations import migrate
from serve.asgi import ASGIApp, Receive, Scope, Send, read_body, send_json
from serve.config import ModelRoute, Upstream

SECRET = "test-cluster-secret"
OPERATOR = "test-operator-key-0"
CHAT = "/v1/chat/completions"


class Databases(Protocol):
    def create_database(self, template: str | None = None) -> str: ...


@dataclass
class Echo:
    """Says what the last message said, ``size`` letters a piece, and calls the first tool with it, if there is one.

    ``seen``: every request's bytes.
    """

    size: int = 1_000
    seen: list[bytes] = field(default_factory=list[bytes])
    fail_after: int | None = None
    """Pieces after which the stream ends with an error."""
    gate: asyncio.Event | None = None
    """What a stream waits for after its third piece."""

    def asked(self) -> dict[str, Any]:
        return json.loads(self.seen[-1])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_body(receive, scope, 10_000_000)
        self.seen.append(raw)
        body = json.loads(raw)
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        head = {"id": "c", "object": "x", "created": 1, "model": body["model"]}
        if scope["path"] == "/tokenize":
            await send_json(send, 200, {"count": len(body["messages"][-1]["content"])})
        elif scope["path"] == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            await send_json(send, 200, {"object": "list", "data": data, "model": body["model"], "usage": usage})
        elif scope["path"] == "/v1/rerank":
            results = [{"index": 0, "relevance_score": 1.0, "document": {"text": body["documents"][0]}}]
            await send_json(send, 200, {"model": body["model"], "results": results, "usage": usage})
        elif scope["path"] == "/v1/completions":
            choices = [{"index": 0, "text": body["prompt"], "finish_reason": "stop"}]
            await send_json(send, 200, {**head, "choices": choices, "usage": usage})
        elif not body.get("stream"):
            said = {"role": "assistant", "content": body["messages"][-1]["content"], **called(body)}
            choices = [{"index": 0, "message": said, "finish_reason": "stop"}]
            await send_json(send, 200, {**head, "choices": choices, "usage": usage})
        else:
            await self.stream(body, head, usage, send)

    async def stream(self, body: Any, head: Any, usage: Any, send: Send) -> None:
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})

        async def frame(data: Any) -> None:
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in self.pieces(body["messages"][-1]["content"])]
        for call in called(body).get("tool_calls", ()):
            arguments = call["function"].pop("arguments")
            deltas.append({"tool_calls": [{"index": 0, **call}]})
            deltas += [
                {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in self.pieces(arguments)
            ]
        for number, delta in enumerate(deltas):
            if number == 4 and self.gate is not None:
                await self.gate.wait()
            if number == self.fail_after:
                await frame('{"error":{"message":"broken","type":"server_error","param":null,"code":null}}')
                break
            choice = {"index": 0, "delta": delta, "finish_reason": None if number + 1 < len(deltas) else "stop"}
            await frame(json.dumps({**head, "choices": [choice]}))
        else:
            await frame(json.dumps({**head, "choices": [], "usage": usage}))
            await frame("[DONE]")
        await send({"type": "http.response.body", "body": b""})

    def pieces(self, text: str) -> list[str]:
        return [text[at : at + self.size] for at in range(0, len(text), self.size)]


def called(body: dict[str, Any]) -> dict[str, Any]:
    """A call of the first tool with the last message as its argument."""
    if not body.get("tools"):
        return {}
    arguments = json.dumps({"text": body["messages"][-1]["content"]})
    function = {"name": body["tools"][0]["function"]["name"], "arguments": arguments}
    return {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}


@dataclass
class PrivateStage:
    """``http`` speaks to the gateway with the project's key, ``admin`` to the control plane with the operator's."""

    stage: Any
    echo: Echo
    app: Any
    key: str
    http: httpx.AsyncClient
    admin: httpx.AsyncClient
    project: str
    database: str

    async def policy(self, pii: Any = None, keep_days: int | None = None) -> None:
        answer = await self.admin.put(f"{self.project}/privacy", json={"pii": pii, "keep_days": keep_days})
        assert answer.status_code == 200, answer.text

    async def chat(self, content: Any, model: str = "hosted", **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        return await self.http.post(CHAT, json={"model": model, "messages": messages, **body})

    async def prompts(self, count: int = 1) -> list[dict[str, Any]]:
        """The kept prompts in full, the newest first, once there are ``count``."""

        async def enough() -> list[Any]:
            found = (await self.admin.get(f"{self.project}/prompts")).json()["data"]
            return found if len(found) >= count else []

        found = await self.stage.until(enough)
        assert len(found) == count
        return [(await self.admin.get(f"{self.project}/prompts/{one['id']}")).json() for one in found]

    async def metric(self, name: str) -> float:
        text = (await self.http.get("/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def everything_stored(self) -> str:
        """Every row of every table, as text."""
        with psycopg.connect(self.database) as connection:
            names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            return "".join(
                str(
                    connection.execute(
                        psycopg.sql.SQL("SELECT t::text FROM {} t").format(psycopg.sql.Identifier(name))
                    ).fetchall()
                )
                for (name,) in names
            )


@pytest.fixture(scope="session")
def privacy_database(postgres_server: Databases) -> str:
    url = postgres_server.create_database()
    migrate(url)
    return url


Private = Callable[..., Awaitable[PrivateStage]]


@pytest.fixture
async def private(
    platform: Any, serve_app: Any, catalogue_entry: Any, privacy_database: str, redis_url: str
) -> AsyncIterator[Private]:
    """``private(**changes)`` starts the stage; changes go to ``GatewayConfig``. ``front`` wraps the control plane."""
    async with AsyncExitStack() as stack:

        async def start(front: Callable[[ASGIApp], ASGIApp] = lambda app: app, **changes: Any) -> PrivateStage:
            with psycopg.connect(privacy_database) as connection:
                connection.execute("TRUNCATE organisations CASCADE")
            config = ControlPlaneConfig(
                database_url=privacy_database,
                redis_url=redis_url,
                cluster_secret=SECRET,
                operator_key=OPERATOR,
                key_pepper="test-pepper-test-pepper",
                jobs_url="http://127.0.0.1:9",
                ingest_entrypoint="none",
                chat_models=(),
                embedding_models=(),
            )
            app = create_app(config)
            stack.push_async_callback(app.state.context.engine.dispose)
            stack.push_async_callback(app.state.context.redis.aclose)
            admin = await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app),
                    base_url="http://control-plane",
                    headers={"authorization": f"Bearer {OPERATOR}"},
                )
            )
            made = (await admin.post("/api/v1/organisations", json={"name": "Acme"})).json()
            echo = Echo()
            stage = await platform(
                control_plane_url=await serve_app(front(app)),
                cluster_secret=SecretStr(SECRET),
                **{"routes": routes(await serve_app(echo), catalogue_entry), **changes},
            )
            key = made["admin_key"]["key"]
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=stage.url, headers={"authorization": f"Bearer {key}"}, timeout=30)
            )
            project = f"/api/v1/organisations/{made['organisation']['id']}/projects/{made['project']['id']}"
            return PrivateStage(stage, echo, app, key, http, admin, project, privacy_database)

        yield start


def routes(url: str, entry: Any) -> tuple[ModelRoute, ...]:
    """Hosted models of every kind, one of our own, and one of our own with a hosted fallback."""
    hosted = Upstream(name="provider", base_url=f"{url}/", api_key=SecretStr("sk-hosted"))
    ours = Upstream(name="engine", base_url=url, internal=True)
    return (
        *(
            ModelRoute(entry=entry(name, kind, source="hosted:provider"), upstream=hosted)
            for name, kind in (("hosted", "chat"), ("vectors", "embedding"), ("ranker", "rerank"))
        ),
        ModelRoute(entry=entry("own"), upstream=ours),
        ModelRoute(entry=entry("chained"), upstream=ours, fallbacks=("hosted",)),
    )
