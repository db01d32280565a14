"""The agent runtime behind its guard on a real socket, against a peer that speaks the gateway's side of the wire.

The peer's embeddings are the real embedder over HashEmbedder, its retrieval the real one over a real LanceDB; its chat
model follows a script.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lancedb
import openai
import orjson
import pyarrow as pa
import pytest
import uvicorn
from lancedb.index import FTS
from pydantic import SecretStr

from models.agents import AgentSpec, PublishedAgent
from models.catalogue import CatalogueEntry
from models.channels import CLUSTER_SECRET_HEADER, PRINCIPAL_HEADER, REQUEST_ID_HEADER, RETRIEVAL_PREFIX
from models.documents import Chunk, table_name
from models.doubles.hash_embedder import HashEmbedder
from models.errors import NotFound, PlatformError
from models.identity import AgentRoute, Principal
from serve.agents.app import AgentsApp
from serve.agents.config import AgentRuntimeConfig
from serve.asgi import ASGIApp, Receive, Scope, Send, read_body, send_error, send_json
from serve.embedder import EmbedderApp
from serve.guard import Guard
from serve.retrieval import RetrievalApp

SECRET = "cluster-s3cret"
EMBEDDER = HashEmbedder(64)
ENTRY = CatalogueEntry.model_validate(
    {
        "id": "hash-64",
        "kind": "embedding",
        "sources": ["path:/nowhere"],
        "context_window": 40,
        "dimensions": 64,
        "prices": [{"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 0}],
    }
)
PRINCIPAL = Principal(
    organisation_id="org",
    project_id="project",
    api_key_id="key",
    allowed_models=("agent/handbook",),
    agents=(
        AgentRoute(agent_id="a1", slug="handbook", version=3, published_at=1),
        AgentRoute(agent_id="plain", slug="plain", version=1, published_at=1),
        AgentRoute(agent_id="gone", slug="gone", version=1, published_at=1),
    ),
)
SPEC = AgentSpec(instructions="You are terse.", model="tiny-chat", knowledge_base_id="kb", no_answer="No idea.")
PASSAGES = {
    "refunds.md": "Refunds are paid within fourteen days after the parcel arrives.",
    "garden.md": "The office garden opens at nine and dogs are welcome there.",
}


@dataclass
class Peer:
    """Gateway and control plane in one; ``pieces`` is what the chat model says."""

    retrieval: ASGIApp
    embedder: ASGIApp = field(default_factory=lambda: EmbedderApp(ENTRY, EMBEDDER))
    pieces: tuple[str, ...] = ("Refunds are paid ", "within fourteen days.")
    finish_reason: str | None = "stop"
    usage: dict[str, Any] = field(
        default_factory=lambda: {
            "prompt_tokens": 30,
            "completion_tokens": 7,
            "total_tokens": 37,
            "prompt_tokens_details": {"cached_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
    )
    refusals: dict[str, PlatformError] = field(default_factory=dict)
    error_in_stream: PlatformError | None = None
    raw: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    agents: dict[str, PublishedAgent] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for called, _, body in self.calls if called == path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        body = await read_body(receive, scope, 1_000_000)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.calls.append((path, headers, orjson.loads(body) if body else {}))
        answered = False

        async def again() -> dict[str, Any]:
            nonlocal answered
            if answered:
                return dict(await receive())
            answered = True
            return {"type": "http.request", "body": body}

        if path in self.refusals:
            await send_error(send, self.refusals[path])
        elif path in self.raw:
            await send_raw(send, *self.raw[path])
        elif path.startswith(RETRIEVAL_PREFIX):
            await self.retrieval({**scope, "root_path": RETRIEVAL_PREFIX}, again, send)
        elif path == "/v1/embeddings":
            await self.embedder(scope, again, send)
        elif path == "/v1/chat/completions":
            await self.chat(receive, send)
        elif (agent := self.agents.get(path)) is not None:
            await send_json(send, 200, agent.model_dump(mode="json"))
        else:
            await send_error(send, NotFound("There is nothing at this address."))

    async def chat(self, receive: Receive, send: Send) -> None:
        async def event(choices: list[dict[str, Any]], **more: Any) -> None:
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny-chat"}
            await part(orjson.dumps({**chunk, "choices": choices, "usage": None, **more}))

        async def part(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": more})

        self.asked.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for number, piece in enumerate(self.pieces):
            if number == 1 and not await self.held(receive):
                return
            await event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        if self.error_in_stream is not None:
            await part(orjson.dumps(self.error_in_stream.body()), more=False)
            return
        await event([{"index": 0, "delta": {}, "finish_reason": self.finish_reason}])
        await event([], usage=self.usage)
        await part(b"[DONE]", more=False)

    async def held(self, receive: Receive) -> bool:
        """False where the caller left before the gate opened."""
        gate = asyncio.create_task(self.gate.wait())
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait({gate, leaving}, return_when=asyncio.FIRST_COMPLETED)
        gate.cancel()
        if leaving.done():
            self.left.set()
            return False
        leaving.cancel()
        return True


async def send_raw(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


class Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """The application on a free port; yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none", timeout_graceful_shutdown=2)
    server = Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        await server.listening.wait()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


async def knowledge(store: Path) -> None:
    connection = await lancedb.connect_async(store)
    rows = [
        {
            **Chunk(
                chunk_id=document,
                document=document,
                ordinal=0,
                heading=("Handbook", document.removesuffix(".md").title()),
                page=2,
                start=100,
                end=100 + len(text),
                text=text,
                content_hash="0",
            ).model_dump(),
            "vector": EMBEDDER.encode([text])[0],
        }
        for document, text in PASSAGES.items()
    ]
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("chunk_id", "document", "text", "content_hash")),
            *((name, pa.int32()) for name in ("ordinal", "page", "start", "end")),
            ("heading", pa.list_(pa.string())),
            ("vector", pa.list_(pa.float32(), 64)),
        ]
    )
    table = await connection.create_table(table_name("org", "kb"), rows, schema=schema)
    await table.create_index("text", config=FTS())
    connection.close()


def published(agent_id: str, version: int, spec: AgentSpec, embedding_model: str | None) -> PublishedAgent:
    return PublishedAgent(
        agent_id=agent_id,
        organisation_id="org",
        slug=agent_id,
        version=version,
        spec=spec,
        embedding_model=embedding_model,
    )


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    await knowledge(tmp_path)
    retrieval = RetrievalApp(str(tmp_path))
    made = Peer(Guard(retrieval, SecretStr(SECRET)))
    made.gate.set()
    plain = AgentSpec(instructions="Be kind.", model="tiny-chat")
    made.agents["/internal/agents/a1/versions/3"] = published("a1", 3, SPEC, "hash-64")
    made.agents["/internal/agents/plain/versions/1"] = published("plain", 1, plain, None)
    yield made
    await retrieval.close()
    assert isinstance(made.embedder, EmbedderApp)
    await made.embedder.close()


@dataclass
class Runtime:
    """The runtime under test: its URL and a client of it, as the gateway would call."""

    url: str
    config: AgentRuntimeConfig
    client: openai.AsyncOpenAI
    headers: dict[str, str]


def headers(principal: Principal = PRINCIPAL) -> dict[str, str]:
    return {
        CLUSTER_SECRET_HEADER: SECRET,
        PRINCIPAL_HEADER: principal.to_header(),
        REQUEST_ID_HEADER: "req-1",
    }


@asynccontextmanager
async def run(peer_url: str, **settings: Any) -> AsyncIterator[Runtime]:
    addresses = {"gateway_url": peer_url, "control_plane_url": peer_url}
    config = AgentRuntimeConfig(**{**addresses, "cluster_secret": SecretStr(SECRET), **settings})
    async with serve(Guard(AgentsApp(config), config.cluster_secret)) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, default_headers=headers())
        async with client:
            yield Runtime(url, config, client, headers())


@pytest.fixture
def running() -> Callable[..., AbstractAsyncContextManager[Runtime]]:
    return run


@pytest.fixture
def serving() -> Callable[[ASGIApp], AbstractAsyncContextManager[str]]:
    return serve


@pytest.fixture
async def peer_url(peer: Peer) -> AsyncIterator[str]:
    async with serve(peer) as url:
        yield url


@pytest.fixture
async def runtime(peer_url: str) -> AsyncIterator[Runtime]:
    async with run(peer_url) as made:
        yield made
