"""One migrated database a session, emptied for each test; the application in process, its peers real."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.migrations import migrate
from control_plane.schema import TABLES
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


@pytest.fixture(scope="session")
def shared_database(postgres_server: Databases, template_database: str) -> str:
    return postgres_server.create_database(template=template_database)


@pytest.fixture
def database_url(shared_database: str) -> str:
    """An empty, migrated database. Emptied for each test: four times as fast as a copy of the template."""
    names = ", ".join(table.__tablename__ for table in TABLES)
    with psycopg.connect(shared_database, options="-c lock_timeout=10s") as connection:
        connection.execute(psycopg.sql.SQL(f"TRUNCATE {names} RESTART IDENTITY"))
    return shared_database


@pytest.fixture
def own_database_url(postgres_server: Databases, template_database: str) -> str:
    """A database for a test that does more to it than write rows."""
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
        credential_key="ab" * 32,
        upstreams=({"name": "openai", "base_urls": ("https://eu.api.openai.com",)}, {"name": "anthropic"}),
        jobs_url="http://127.0.0.1:9",
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


class JobsApi:
    """A peer on a socket that speaks Ray's Jobs API as Ray 2.60 does: job_head.py, http_token_authentication.py."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.jobs: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.broken: int | None = None
        self.garbled = False
        self.takes_but_fails = False
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await self._answer(request, await request.body())(scope, receive, send)

    def _answer(self, request: Request, body: bytes) -> Response:
        given = request.headers.get("authorization", "")
        if given != f"Bearer {self.token}":
            return PlainTextResponse("Unauthorized", 403 if given else 401)
        if self.broken:
            return PlainTextResponse("Traceback (most recent call last): …", self.broken)
        if self.garbled:
            return PlainTextResponse("<html>")
        parts = request.url.path.strip("/").split("/")
        if request.url.path == "/api/jobs/" and request.method == "POST":
            return self._submit(json.loads(body))
        job = self.jobs.get(parts[2])
        if job is None:
            return PlainTextResponse(f"Job {parts[2]} does not exist", 404)
        if parts[3:] == ["stop"] and request.method == "POST":
            self.stopped.append(parts[2])
            return JSONResponse({"stopped": True})
        return JSONResponse(job)

    def _submit(self, order: dict[str, Any]) -> Response:
        if not isinstance(order.get("entrypoint"), str) or set(order) - {
            *("entrypoint", "submission_id", "metadata", "entrypoint_num_cpus", "runtime_env")
        }:
            return PlainTextResponse("Traceback (most recent call last): …", 400)
        name = order["submission_id"]
        if name in self.jobs:
            return PlainTextResponse("RuntimeError: … already exists", 500)
        self.jobs[name] = {"type": "SUBMISSION", "submission_id": name, "status": "PENDING", **order}
        if self.takes_but_fails:
            return PlainTextResponse("Traceback (most recent call last): …", 500)
        return JSONResponse({"job_id": name, "submission_id": name})


@pytest.fixture
async def jobs_api() -> AsyncIterator[JobsApi]:
    api = JobsApi("test-ray-token")
    server = uvicorn.Server(uvicorn.Config(api, port=0, lifespan="off", log_level="error", ws="none"))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    api.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield api
    server.should_exit = True
    await serving
    listening.close()


async def eventually(look: Callable[[], Awaitable[Any]], seconds_max: float = 20.0) -> Any:
    """What ``look`` answers as soon as it is true."""
    async with asyncio.timeout(seconds_max):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.02)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Awaitable[Any]]:
    return eventually


@pytest.fixture
def running() -> Callable[[FastAPI], Any]:
    """The application's lifespan as a context manager: its tasks run inside it."""
    return lambda app: app.router.lifespan_context(app)
