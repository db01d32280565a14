"""One migrated database a session, copied for each test; the application in process, its peers real."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.migrations import migrate
from models.channels import CLUSTER_SECRET_HEADER

SECRET = "test-cluster-secret"
OPERATOR = "test-operator-key-0"
PEPPER = "test-pepper-test-pepper"
CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"


class Databases(Protocol):
    def create_database(self, template: str | None = None) -> str: ...


@pytest.fixture(scope="session")
def template_database(postgres_server: Databases) -> str:
    url = postgres_server.create_database()
    migrate(url)
    return url


@pytest.fixture
def database_url(postgres_server: Databases, template_database: str) -> str:
    return postgres_server.create_database(template=template_database)


@pytest.fixture
def config(database_url: str, redis_url: str, tmp_path: Path) -> ControlPlaneConfig:
    root = tmp_path / "documents"
    root.mkdir()
    return ControlPlaneConfig(
        database_url=database_url,
        redis_url=redis_url,
        cluster_secret=SECRET,
        operator_key=OPERATOR,
        key_pepper=PEPPER,
        jobs_url=f"http://127.0.0.1:9{tmp_path.name[-1:]}",
        jobs_token="test-ray-token",
        ingest_entrypoint="python -m deployments.ingest",
        ingestion_roots=(root,),
        chat_models=(CHAT,),
        embedding_models=(EMBEDDING,),
        watch_seconds=0.05,
        reap_seconds=0.05,
        reap_grace_seconds=0.0,
        claim_idle_seconds=0.05,
        restart_seconds_max=0.2,
    )


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://control-plane", headers=headers)


@pytest.fixture
async def app(config: ControlPlaneConfig) -> AsyncIterator[FastAPI]:
    """The application without its background tasks."""
    app = create_app(config)
    yield app
    await app.state.context.redis.aclose()
    await app.state.context.engine.dispose()


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, authorization=f"Bearer {OPERATOR}") as client:
        yield client


@pytest.fixture
async def internal(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A process of the platform."""
    async with client_of(app, **{CLUSTER_SECRET_HEADER: SECRET}) as client:
        yield client


@dataclass(frozen=True)
class Tenant:
    """An organisation and its admin; paths given to ``client`` are absolute."""

    id: str
    project_id: str
    key_id: str
    key: str
    client: httpx.AsyncClient

    def path(self, rest: str = "") -> str:
        return f"/api/v1/organisations/{self.id}{rest}"

    async def make(self, rest: str, body: dict[str, Any], status: int = 201) -> dict[str, Any]:
        answer = await self.client.post(self.path(rest), json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


async def new_tenant(app: FastAPI, operator: httpx.AsyncClient, name: str) -> Tenant:
    answer = await operator.post("/api/v1/organisations", json={"name": name})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    key = made["admin_key"]
    client = client_of(app, authorization=f"Bearer {key['key']}")
    return Tenant(made["organisation"]["id"], made["project"]["id"], key["id"], key["key"], client)


@pytest.fixture
async def acme(app: FastAPI, operator: httpx.AsyncClient) -> AsyncIterator[Tenant]:
    tenant = await new_tenant(app, operator, "Acme")
    yield tenant
    await tenant.client.aclose()


@pytest.fixture
async def rival(app: FastAPI, operator: httpx.AsyncClient) -> AsyncIterator[Tenant]:
    tenant = await new_tenant(app, operator, "Rival")
    yield tenant
    await tenant.client.aclose()


RedisFactory = Callable[[], Any]
