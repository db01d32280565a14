"""A gateway before the real control plane on real PostgreSQL and Redis, and providers that note what they are sent."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig, OfferedUpstream
from control_plane.migrations import migrate
from models.catalogue import CatalogueEntry
from models.doubles.scripted_engine import ScriptedEngine
from serve.asgi import ASGIApp, Receive, Scope, Send, send_bytes
from serve.config import ModelRoute, Upstream

CLUSTER_SECRET = "test-cluster-secret"
OPERATOR = "test-operator-key-0"
PLATFORM_KEY = "sk-platform-0123456789"


@dataclass
class Door:
    """The control plane's door. ``shut``: it answers nothing any more; ``asked``: paths of credentials asked for."""

    app: ASGIApp
    shut: bool = False
    asked: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "/credentials/" in scope["path"] and scope["path"].startswith("/internal"):
            self.asked.append(scope["path"])
        if self.shut:
            await send_bytes(send, 500, b"", b"text/plain")
            return
        await self.app(scope, receive, send)


@dataclass
class Tenant:
    """An organisation: its API key, and its admin at the control plane."""

    id: str
    project_id: str
    key: str
    http: httpx.AsyncClient

    async def bring(self, api_key: str, upstream: str = "provider", **more: Any) -> str:
        """Store a credential; its id."""
        body = {"upstream": upstream, "api_key": api_key, **more}
        return (await self.call("POST", "/credentials", body))["id"]

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.key}"}
        answer = await self.http.request(method, f"/api/v1/organisations/{self.id}{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()


@dataclass
class State:
    """Everything around the gateway. ``provider`` answers at ``address``, ``elsewhere`` at an address of its own."""

    door: Door
    url: str
    provider: ScriptedEngine
    address: str
    elsewhere: ScriptedEngine
    own_address: str
    http: httpx.AsyncClient
    catalogue_entry: Callable[..., CatalogueEntry]

    async def tenant(self, name: str) -> Tenant:
        headers = {"authorization": f"Bearer {OPERATOR}"}
        made = (await self.http.post("/api/v1/organisations", json={"name": name}, headers=headers)).json()
        return Tenant(made["organisation"]["id"], made["project"]["id"], made["admin_key"]["key"], self.http)

    def route(self, model: str = "hosted", fallbacks: tuple[str, ...] = (), **upstream: Any) -> ModelRoute:
        """A model of a provider: of the platform's account, unless ``upstream`` says otherwise."""
        values = {
            "name": "provider",
            "base_url": self.address,
            "api_key": SecretStr(PLATFORM_KEY),
            "headers": {"openai-organization": SecretStr("org-of-the-platform")},
            "hosted": True,
            **upstream,
        }
        entry = self.catalogue_entry(model, source=f"hosted:{values['name']}")
        return ModelRoute(entry=entry, upstream=Upstream(**values), fallbacks=fallbacks)

    def keys(self) -> list[str | None]:
        """What each call of the provider was authorized with."""
        return [headers.get("authorization") for _, headers, _ in self.provider.requests]


@pytest.fixture(scope="session")
def state_database(postgres_server: Any) -> str:
    url = postgres_server.create_database()
    migrate(url)
    return url


@pytest.fixture
async def state(
    state_database: str,
    redis_url: str,
    serve_app: Callable[[ASGIApp], Awaitable[str]],
    catalogue_entry: Callable[..., CatalogueEntry],
) -> AsyncIterator[State]:
    provider, elsewhere = ScriptedEngine(), ScriptedEngine()
    address, own_address = await serve_app(provider), await serve_app(elsewhere)
    config = ControlPlaneConfig(
        database_url=SecretStr(state_database),
        redis_url=SecretStr(redis_url),
        cluster_secret=SecretStr(CLUSTER_SECRET),
        operator_key=SecretStr(OPERATOR),
        key_pepper=SecretStr("test-pepper-test-pepper"),
        credential_key=SecretStr("ab" * 32),
        upstreams=(OfferedUpstream(name="provider", base_urls=(own_address,)), OfferedUpstream(name="second")),
        jobs_url="http://127.0.0.1:9",
        ingest_entrypoint="true",
        chat_models=("scripted",),
        embedding_models=(),
    )
    app = create_app(config)
    door = Door(app)
    url = await serve_app(door)
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        yield State(door, url, provider, address, elsewhere, own_address, http, catalogue_entry)
    await app.state.context.redis.aclose()
    await app.state.context.engine.dispose()


@pytest.fixture
def start(platform: Callable[..., Awaitable[Any]], state: State) -> Callable[..., Awaitable[Any]]:
    """Starts a gateway with these routes, beside a model of the platform's own, ``scripted``."""

    async def begin(*routes: ModelRoute, **changes: Any) -> Any:
        # Any server will do.
        engine = Upstream(name="engine", base_url=state.own_address, internal=True)
        ours = ModelRoute(entry=state.catalogue_entry("scripted"), upstream=engine)
        settings = {"control_plane_url": state.url, "cluster_secret": SecretStr(CLUSTER_SECRET), **changes}
        return await platform(routes=(*routes, ours), **settings)

    return begin


@pytest.fixture
async def acme(state: State) -> Tenant:
    return await state.tenant("Acme")


@pytest.fixture
async def rival(state: State) -> Tenant:
    return await state.tenant("Rival")
