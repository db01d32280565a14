"""A gateway on a real socket, between a scripted engine, a control plane's stand-in and the real Redis.

``platform(**changes)`` starts all of it and gives a ``Stage``; changes go to ``GatewayConfig``.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis.asyncio
import uvicorn
from pydantic import SecretStr

from models.catalogue import CatalogueEntry, Source
from models.channels import BUDGET_COUNTS, CLUSTER_SECRET_HEADER, INVALIDATIONS, OPEN_CALLS, USAGE_STREAM
from models.doubles.scripted_engine import ScriptedEngine
from models.errors import Unauthenticated
from models.identity import AgentRoute, Principal
from models.usage import Price, UsageEvent
from serve.asgi import ASGIApp, Receive, Scope, Send, header, read_body, send_bytes, send_error, send_json
from serve.config import GatewayConfig, KeyCache, ModelRoute, Upstream
from serve.gateway import Gateway

SECRET = "cluster-secret"
DEADLINE_SECONDS = 10.0
HANDBOOK = AgentRoute(agent_id="agt_1", slug="handbook", version=3, published_at=1_767_225_600)


def principal(**changes: Any) -> Principal:
    return Principal(**{"organisation_id": "org_a", "project_id": "prj_a", "api_key_id": "key_a", **changes})


def entry(name: str, kind: str = "chat", source: str = "path:/m", **changes: Any) -> CatalogueEntry:
    price = Price(since="2026-01-01", prompt_micro=1_000_000, cached_micro=500_000, completion_micro=2_000_000)
    values = {"id": name, "kind": kind, "sources": (Source.parse(source),), "context_window": 8_192, "prices": (price,)}
    return CatalogueEntry.model_validate({**values, **changes})


@dataclass
class ControlPlane:
    """``POST /internal/authenticate`` and ``…/budgets/counts`` as the control plane speaks them.

    ``sums`` is what the ledger holds of each window; None: it lags behind.
    """

    principals: dict[str, Principal] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    status: int = 200
    sums: dict[str, int] | None = field(default_factory=dict[str, int])
    counted: list[str] = field(default_factory=list)
    redis: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health/live":
            await send_json(send, self.status, {})
            return
        assert header(scope, CLUSTER_SECRET_HEADER.encode()) == SECRET.encode()
        asked = httpx.Response(200, content=await read_body(receive, scope, 10_000)).json()
        if scope["path"] == BUDGET_COUNTS:
            await self._count(asked["keys"], send)
            return
        key = asked["api_key"]
        self.asked.append(key)
        found = self.principals.get(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.status != 200:
            await send_json(send, self.status, {"detail": "broken"})
        elif found is None:
            await send_error(send, Unauthenticated("no"))
        else:
            await send_json(send, 200, found.model_dump(mode="json"))

    async def _count(self, keys: list[str], send: Send) -> None:
        self.counted += keys
        for key in keys if self.sums is not None else ():
            await self.redis.hset(key, "spent", self.sums.get(key, 0))
        await send_bytes(send, 503 if self.sums is None else 204, b"", b"application/json")


@asynccontextmanager
async def served(app: Any, port: int = 0) -> AsyncIterator[str]:
    """The app under uvicorn in this loop; yields its address. It ends at once, cutting what runs."""
    config = uvicorn.Config(
        app, port=port, lifespan="off", log_level="critical", access_log=False, timeout_graceful_shutdown=0
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    await server.shutdown()


async def until(condition: Callable[[], Any | Awaitable[Any]], seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of ``condition``, which may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        value = await value if isinstance(value, Awaitable) else value
        if value:
            return value
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


@dataclass
class Stage:
    """All parts. ``client(key)`` is the official client, ``http`` speaks to the gateway's bare wire."""

    engine: ScriptedEngine
    agents: ScriptedEngine
    control_plane: ControlPlane
    gateway: Gateway
    url: str
    http: httpx.AsyncClient
    redis: Any
    stack: AsyncExitStack
    until = staticmethod(until)

    def admit(self, key: str, **changes: Any) -> None:
        """Make ``key`` a key of the principal that ``changes`` describe."""
        self.control_plane.principals[key] = principal(**changes)

    def client(self, key: str = "good", **options: Any) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)
        self.stack.push_async_callback(client.close)
        return client

    async def chat(self, key: str = "good", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], **body}
        bearer = {"authorization": f"Bearer {key}", **(headers or {})}
        return await self.http.post("/v1/chat/completions", json=body, headers=bearer)

    async def stored(self) -> list[UsageEvent]:
        entries = await self.redis.xrange(USAGE_STREAM)
        return [UsageEvent.model_validate_json(fields[b"event"]) for _, fields in entries]

    async def events(self, count: int = 1) -> list[UsageEvent]:
        """All usage events, once there are ``count``; no call is open then."""

        async def enough() -> list[UsageEvent]:
            found = await self.stored()
            return found if len(found) >= count and not await self.redis.hlen(OPEN_CALLS) else []

        found = await until(enough)
        assert len(found) == count
        return found

    async def revoke(self, key: str) -> None:
        gone = self.control_plane.principals.pop(key)
        await self.redis.publish(INVALIDATIONS, f"key:{gone.api_key_id}")


Platform = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def platform(redis_url: str, tmp_path: Path) -> AsyncIterator[Platform]:
    async with AsyncExitStack() as stack:

        async def start(engine: ASGIApp | None = None, redis: str = redis_url, **changes: Any) -> Stage:
            return await staged(stack, engine, redis, tmp_path / "spool", changes)

        yield start


@pytest.fixture
async def serve_app() -> AsyncIterator[Callable[[ASGIApp], Awaitable[str]]]:
    """Serves an application until the test ends; its address."""
    async with AsyncExitStack() as stack:
        yield lambda app: stack.enter_async_context(served(app))


@pytest.fixture
def catalogue_entry() -> Callable[..., CatalogueEntry]:
    return entry


async def staged(
    stack: AsyncExitStack, engine: ASGIApp | None, redis_url: str, spool: Path, changes: dict[str, Any]
) -> Stage:
    scripted, agents, control_plane = ScriptedEngine(), ScriptedEngine(), ControlPlane()
    control_plane.principals["good"] = principal(agents=(HANDBOOK,))
    engine_url = await stack.enter_async_context(served(engine or scripted))
    agents_url = await stack.enter_async_context(served(agents))
    ours = Upstream(name="engine", base_url=engine_url, internal=True)
    hosted = Upstream(name="hosted", base_url=engine_url + "/", api_key=SecretStr("sk-hosted"))
    settings: dict[str, Any] = {
        "control_plane_url": await stack.enter_async_context(served(control_plane)),
        "cluster_secret": SecretStr(SECRET),
        "redis_url": SecretStr(redis_url),
        "spool_folder": spool,
        "routes": (
            ModelRoute(entry=entry("scripted"), upstream=ours),
            ModelRoute(entry=entry("hosted/model", source="hosted:hosted"), upstream=hosted),
            ModelRoute(entry=entry("embedder", "embedding"), upstream=ours),
        ),
        "agents": Upstream(name="agents", base_url=agents_url, internal=True),
        "drain_seconds": 0.05,
        "redis_rest_seconds": 0.05,
        # A loaded machine answers late: only what is away on purpose may be found away.
        "keys": KeyCache(ask_seconds_max=DEADLINE_SECONDS),
        "redis_seconds_max": DEADLINE_SECONDS,
        **changes,
    }
    gateway = Gateway(GatewayConfig(**settings))
    await gateway.start()
    stack.push_async_callback(gateway.close)
    url = await stack.enter_async_context(served(gateway))
    http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=DEADLINE_SECONDS))
    client = redis.asyncio.Redis.from_url(redis_url)
    stack.push_async_callback(client.aclose)
    control_plane.redis = client
    return Stage(scripted, agents, control_plane, gateway, url, http, client, stack)
