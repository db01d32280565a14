"""The whole request path on real sockets, without Ray and a language model's weights.

The gateway with files and batches, the control plane's own application with PostgreSQL and Redis, the agent runtime
calling back into the gateway, the real embedder and reranker over deterministic encoders, and in place of an engine the
scripted one behind our own check of tools and formats.
"""

import asyncio
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.migrations import migrate
from models.budgets import AMOUNT_MAX
from models.catalogue import CatalogueEntry
from models.doubles.hash_embedder import HashEmbedder
from models.doubles.overlap_scorer import OverlapScorer
from models.doubles.scripted_engine import ScriptedEngine
from serve.agents.app import AgentsApp
from serve.agents.config import AgentRuntimeConfig
from serve.asgi import ASGIApp, Receive, Scope, Send, read_body, send_bytes
from serve.config import GatewayConfig, ModelRoute, Upstream
from serve.embedder import EmbedderApp
from serve.gateway import Gateway
from serve.guard import Guard
from serve.reranker import RerankerApp
from serve.tools.middleware import Tools

SECRET = "test-cluster-secret"
OPERATOR = "test-operator-key-0"
CHAT, EMBEDDER, RANKER, HOSTED, AGENT = "talker", "embedder", "ranker", "hosted/model", "agent/plain"
REFUSED = b'{"error":{"message":"This engine writes no forms.","type":"BadRequestError","param":null,"code":400}}'
BODY_BYTES_MAX = 20_000_000
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "unsupported_method"),
)
METHODS = frozenset({"get", "post", "put", "patch", "delete"})
SEED = 20_261_124


class Formless:
    """The scripted engine, which refuses to write in a form: what it writes is always the same."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self.engine(scope, receive, send)
            return
        body = await read_body(receive, scope, BODY_BYTES_MAX)
        if b'"structural_tag"' in body:
            await send_bytes(send, 400, REFUSED, b"application/json")
            return
        given = False

        async def again() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body}

        await self.engine(scope, again, send)


class Later:
    """An application whose address must be known before it is made."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The app under uvicorn in this loop; yields its address."""
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_level="critical", access_log=False, timeout_graceful_shutdown=0, backlog=512
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        await server.shutdown()


def entry(name: str, kind: str, source: str = "path:/m") -> CatalogueEntry:
    price = {"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 2}
    values = {"id": name, "kind": kind, "sources": [source], "context_window": 8_192, "prices": [price]}
    return CatalogueEntry.model_validate(values)


@dataclass
class World:
    """``organisation`` and ``key``: a tenant and its admin's key; ``operator`` speaks to the control plane."""

    gateway: str
    control_plane: str
    key: str
    organisation: str
    project: str
    documents: Path
    operator: httpx.AsyncClient
    caller: httpx.AsyncClient

    async def make(self, rest: str, **body: Any) -> dict[str, Any]:
        """Something of the organisation's."""
        answer = await self.operator.post(f"/api/v1/organisations/{self.organisation}{rest}", json=body)
        assert answer.status_code in {200, 201, 202}, answer.text
        return answer.json()


@pytest.fixture(scope="session")
def fuzz_database(postgres_server: Any) -> str:
    url = postgres_server.create_database()
    migrate(url)
    return url


@pytest.fixture
async def world(fuzz_database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        app = control_plane_of(fuzz_database, redis_url, tmp_path)
        stack.push_async_callback(app.state.context.engine.dispose)
        stack.push_async_callback(app.state.context.redis.aclose)
        url = await stack.enter_async_context(served(app))
        gateway_url = await gateway_of(stack, url, redis_url, tmp_path)
        operator = await stack.enter_async_context(client(url, OPERATOR))
        made = (await operator.post("/api/v1/organisations", json={"name": "Acme"})).json()
        key = made["admin_key"]["key"]
        caller = await stack.enter_async_context(client(gateway_url, key))
        tenant, project = made["organisation"]["id"], made["project"]["id"]
        world = World(gateway_url, url, key, tenant, project, tmp_path / "documents", operator, caller)
        # Limits that nobody reaches, so that each call is claimed for.
        limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "concurrent_requests": 10**6}
        place = f"/api/v1/organisations/{tenant}/projects/{project}"
        assert (await operator.patch(place, json={"limits": limits})).status_code == 200
        await world.make("/budgets", scope="organisation", period="total", limit_micro=AMOUNT_MAX)
        agent = await world.make("/agents", slug="plain", name="Plain")
        await world.make(f"/agents/{agent['id']}/versions", instructions="Be brief.", model=CHAT)
        await world.make(f"/agents/{agent['id']}/publish", version=1)
        yield world


def client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def control_plane_of(database: str, redis_url: str, folder: Path) -> FastAPI:
    root = folder / "documents"
    root.mkdir()
    config = ControlPlaneConfig(
        database_url=SecretStr(database),
        redis_url=SecretStr(redis_url),
        cluster_secret=SecretStr(SECRET),
        operator_key=SecretStr(OPERATOR),
        key_pepper=SecretStr("test-pepper-test-pepper"),
        credential_key=SecretStr("ab" * 32),
        jobs_url="http://127.0.0.1:9",
        ingest_entrypoint="none",
        ingestion_roots=(root,),
        chat_models=(CHAT, HOSTED),
        embedding_models=(EMBEDDER,),
    )
    return create_app(config)


async def gateway_of(stack: AsyncExitStack, control_plane: str, redis_url: str, folder: Path) -> str:
    """A gateway and all it calls; its address."""
    agents, secret, engine = Later(), SecretStr(SECRET), Formless()
    embedder = EmbedderApp(entry(EMBEDDER, "embedding"), HashEmbedder(8))
    ranker = RerankerApp(entry(RANKER, "rerank"), OverlapScorer())
    for part in (embedder, ranker):
        stack.push_async_callback(part.close)
    parts = {CHAT: Tools(engine, "prompted"), HOSTED: engine, EMBEDDER: embedder, RANKER: ranker, AGENT: agents}
    urls = {name: await stack.enter_async_context(served(part)) for name, part in parts.items()}

    def route(name: str, kind: str) -> ModelRoute:
        return ModelRoute(entry=entry(name, kind), upstream=Upstream(name=name, base_url=urls[name], internal=True))

    hosted = Upstream(name="hosted", base_url=urls[HOSTED], api_key=SecretStr("sk-hosted"))
    config = GatewayConfig(
        control_plane_url=control_plane,
        cluster_secret=secret,
        redis_url=SecretStr(redis_url),
        spool_folder=folder / "spool",
        routes=(
            route(CHAT, "chat"),
            route(EMBEDDER, "embedding"),
            route(RANKER, "rerank"),
            ModelRoute(entry=entry(HOSTED, "chat", "hosted:hosted"), upstream=hosted),
        ),
        agents=Upstream(name="agents", base_url=urls[AGENT], internal=True, own=True),
        object_store=str(folder / "objects"),
    )
    gateway = Gateway(config)
    await gateway.start()
    stack.push_async_callback(gateway.close)
    url = await stack.enter_async_context(served(gateway))
    runtime = AgentsApp(AgentRuntimeConfig(gateway_url=url, control_plane_url=control_plane, cluster_secret=secret))
    stack.push_async_callback(runtime.close)
    agents.app = Guard(runtime, secret)
    return url


Known = Mapping[str, Sequence[Any]]
Fuzz = Callable[..., Awaitable[int]]


def aimed(document: dict[str, Any], known: Known, doomed: Known) -> dict[str, Any]:
    """The description with values that there are in place of all that could be, so that cases get past a look-up.

    ``known`` by the name of a parameter or field, or by schema and field (``ChatRequest.model``); ``doomed`` likewise,
    for operations that delete. Only what is sent is changed. What is negated still leaves the values that are known.
    """
    found: dict[str, Any] = json.loads(json.dumps(document))
    schemas = found["components"]["schemas"]
    sent: set[str] = set()
    for path in found["paths"].values():
        shared = path.pop("parameters", [])
        for method in METHODS & path.keys():
            given = json.loads(json.dumps([*shared, *path[method].get("parameters", [])]))
            for parameter in given:
                values = (doomed if method == "delete" else {}).get(parameter["name"], known.get(parameter["name"]))
                if values:
                    parameter["schema"] = {"enum": [value for value in values if value is not None] + ["none-such"]}
            path[method]["parameters"] = given
            _collect(path[method].get("requestBody"), schemas, sent)
    for name in sent:
        _aim(schemas[name], known, name)
    return found


def _collect(node: Any, schemas: dict[str, Any], sent: set[str]) -> None:
    """The names of all schemas that a node refers to."""
    if isinstance(node, dict):
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name and name not in sent:
            sent.add(name)
            _collect(schemas[name], schemas, sent)
        for below in node.values():
            _collect(below, schemas, sent)
    elif isinstance(node, list):
        for below in node:
            _collect(below, schemas, sent)


def _aim(node: Any, known: Known, schema: str) -> None:
    if isinstance(node, dict):
        fields = node.get("properties")
        for name in fields if isinstance(fields, dict) else ():
            values = known.get(f"{schema}.{name}", known.get(name))
            if values:
                fields[name] = {"enum": list(values)}
        for below in node.values():
            _aim(below, known, schema)
    elif isinstance(node, list):
        for below in node:
            _aim(below, known, schema)


@pytest.fixture
def aim() -> Callable[..., dict[str, Any]]:
    return aimed


@pytest.fixture
def fuzz(tmp_path: Path) -> Fuzz:
    """``fuzz(name, document, url, key, share, few)`` runs schemathesis over a description; how many cases it ran.

    Of ``FUZZ_CASES`` at least ``share``; without that ``few`` for an operation, so that all fit into a minute of CI.
    Some case of each operation in ``accepted`` must have been accepted.
    """

    async def run(
        name: str, document: dict[str, Any], url: str, key: str, share: float, few: int, accepted: Sequence[str] = ()
    ) -> int:
        operations = sum(len(METHODS & path.keys()) for path in document["paths"].values())
        wanted = int(os.environ.get("FUZZ_CASES", "0"))
        each = math.ceil(wanted * share / operations) if wanted else few
        source, report = tmp_path / f"{name}.json", tmp_path / f"{name}-report.json"
        source.write_text(json.dumps(document))
        phases = "examples,coverage,fuzzing" if wanted else "examples,fuzzing"
        command = ["run", str(source), "--url", url, "--header", f"authorization: Bearer {key}"]
        command += ["--checks", ",".join(CHECKS), "--max-examples", str(each), "--seed", str(SEED), "--phases", phases]
        command += ["--generation-database", "none", "--no-color", "--continue-on-failure", "--no-shrink"]
        command += ["--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "60"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", *command, "--report-json-path", str(report)),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, output.decode(errors="replace")
        told = json.loads(report.read_text())
        cases = told["test_cases"]["generated"]
        assert told["operations"]["tested"] == operations
        assert cases >= wanted * share
        # Cases that are all refused would prove little.
        for operation in accepted:
            assert sum(phase["accepted"] for phase in told["valid_rates"][operation].values()) > 0, operation
        sys.stdout.write(f"fuzz: {name}: {cases} cases over {operations} operations\n")
        return cases

    return run
