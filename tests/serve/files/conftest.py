"""A gateway with files: a folder as object store, the control plane's own application, real PostgreSQL and Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import openai
import psycopg
import pytest
import uvicorn
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.migrations import migrate
from serve.config import FileLimits

SECRET = "test-cluster-secret"
OPERATOR = "test-operator-key-0"


class Databases(Protocol):
    def create_database(self, template: str | None = None) -> str: ...


@pytest.fixture(scope="session")
def files_database(postgres_server: Databases) -> str:
    url = postgres_server.create_database()
    migrate(url)
    return url


class Door:
    """The control plane's application behind an address that can fail.

    ``broken``: calls by method and last part of the path, such as ``POST finish``. ``unheard``: likewise, but they are
    done, and only their answer is lost.
    """

    def __init__(self, app: Any) -> None:
        self.url = ""
        self.app = app
        self.broken: set[str] = set()
        self.unheard: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        call = f"{scope['method']} {scope['path'].rpartition('/')[2]}"
        unheard = call in self.unheard
        if not unheard and call not in self.broken:
            await self.app(scope, receive, send)
            return
        if unheard:
            await self.app(scope, receive, swallow)
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def swallow(message: Any) -> None:
    """An answer that is lost on its way."""


@dataclass
class FileStage:
    """``client`` is the official client of a project's key; ``http`` speaks the bare wire with the same key."""

    stage: Any
    door: Door
    folder: Path
    database: str
    key: str
    http: httpx.AsyncClient
    operator: httpx.AsyncClient
    organisation: str

    def client(self, key: str | None = None) -> openai.AsyncOpenAI:
        return self.stage.client(key or self.key)

    async def other_key(self, *, same_organisation: bool) -> str:
        """A key of another project."""
        if same_organisation:
            base = f"/api/v1/organisations/{self.organisation}"
            project = (await self.operator.post(f"{base}/projects", json={"name": "Other"})).json()
            made = await self.operator.post(f"{base}/api-keys", json={"name": "o", "project_id": project["id"]})
            return made.json()["key"]
        made = await self.operator.post("/api/v1/organisations", json={"name": "Rival"})
        return made.json()["admin_key"]["key"]

    def objects(self) -> dict[str, bytes]:
        """What is in the store, by file id."""
        return {path.name: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    async def upload(self, content: Any = b"abc", **options: Any) -> httpx.Response:
        """A form with ``purpose`` (None: without it), more ``fields``, and one file."""
        fields = {"purpose": "user_data"} | options.pop("fields", {})
        given = {name: value for name, value in fields.items() if value is not None}
        return await self.http.post("/v1/files", data=given, files={"file": ("a.txt", content)}, **options)

    async def post(self, body: Any, content_type: str = "multipart/form-data; boundary=b") -> httpx.Response:
        """A body as it is, bytes or an async iterator of them."""
        return await self.http.post("/v1/files", content=body, headers={"content-type": content_type})

    def rows(self) -> dict[str, str]:
        with psycopg.connect(self.database) as connection:
            return dict(connection.execute("SELECT id, state FROM files").fetchall())

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.database) as connection:
            connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue] - ours

    async def nothing_left(self) -> None:
        """Waits until neither a row nor an object is there."""
        await self.stage.until(lambda: not self.rows() and not self.objects())


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The app under uvicorn in this loop; yields its address."""
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_level="critical", access_log=False, timeout_graceful_shutdown=0
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    await server.shutdown()


@pytest.fixture(name="listening")
def listening_fixture() -> Any:
    return listening


Files = Callable[..., Awaitable[FileStage]]


@pytest.fixture
async def files(platform: Any, files_database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Files]:
    """``files(**limits)`` starts the stage; limits go to ``FileLimits``, ``store`` is another object store."""
    async with AsyncExitStack() as stack:

        async def start(store: str | None = None, **limits: Any) -> FileStage:
            with psycopg.connect(files_database) as connection:
                connection.execute("TRUNCATE organisations CASCADE")
            config = ControlPlaneConfig(
                database_url=files_database,
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
            door = Door(app)
            url = door.url = await stack.enter_async_context(listening(door))
            operator = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {OPERATOR}"})
            )
            made = (await operator.post("/api/v1/organisations", json={"name": "Acme"})).json()
            key = made["admin_key"]["key"]
            folder = tmp_path / "objects"
            stage = await platform(
                control_plane_url=url,
                cluster_secret=SecretStr(SECRET),
                object_store=store or str(folder),
                files=FileLimits(**limits),
            )
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=stage.url, headers={"authorization": f"Bearer {key}"}, timeout=30)
            )
            return FileStage(stage, door, folder, files_database, key, http, operator, made["organisation"]["id"])

        yield start
