"""The whole endpoint without Ray: gateway, control plane, object store, batch jobs, a model that does as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.migrations import migrate
from models.doubles.hash_embedder import HashEmbedder
from models.doubles.overlap_scorer import OverlapScorer
from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.asgi import Message, Receive, Scope, Send, read_body, send_json
from serve.batches.config import RunnerConfig
from serve.batches.runner import Runner
from serve.config import ModelRoute, Upstream
from serve.embedder import EmbedderApp
from serve.reranker import RerankerApp

SECRET = "test-cluster-secret"
OPERATOR = "test-operator-key-0"
CHAT, EMBEDDER, RERANKER = "smollm2-135m-instruct", "all-minilm-l6-v2", "ms-marco-minilm"
WEATHER = '{"city":"Turin","unit":"C"}'
BODY_BYTES_MAX = 10_000_000


class Model:
    """An engine that calls the tool it is offered, keeps the schema it is given, and else says four words."""

    def __init__(self) -> None:
        self.speaking = ScriptedEngine()
        self.calling = ScriptedEngine(script=Script(chunks=0, calls=(("get_weather", WEATHER),), finish="tool_calls"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self.speaking(scope, receive, send)
            return
        raw = await read_body(receive, scope, BODY_BYTES_MAX)
        body = json.loads(raw)
        told: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

        async def again() -> Message:
            return told.pop() if told else await receive()

        if (body.get("response_format") or {}).get("type") == "json_schema":
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": WEATHER}}
            head = {"id": "chat-1", "object": "chat.completion", "created": 1, "model": body["model"]}
            usage = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
            await send_json(send, 200, {**head, "choices": [choice], "usage": usage})
        elif body.get("tools") and body.get("tool_choice") != "none":
            await self.calling(scope, again, send)
        else:
            await self.speaking(scope, again, send)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``http`` speaks the bare wire with the key."""

    stage: Any
    url: str
    key: str
    http: httpx.AsyncClient
    model: Model


@pytest.fixture(scope="session")
def contract_database(postgres_server: Any) -> str:
    url = postgres_server.create_database()
    migrate(url)
    return url


@pytest.fixture
async def control_plane_app(contract_database: str, redis_url: str) -> AsyncIterator[Any]:
    """Its connections end when this does: what serves it must end before."""
    config = ControlPlaneConfig(
        database_url=contract_database,
        redis_url=redis_url,
        cluster_secret=SECRET,
        operator_key=OPERATOR,
        key_pepper="test-pepper-test-pepper",
        jobs_url="http://127.0.0.1:9",
        ingest_entrypoint="none",
        chat_models=(CHAT,),
        embedding_models=(EMBEDDER,),
    )
    app = create_app(config)
    yield app
    await app.state.context.redis.aclose()
    await app.state.context.engine.dispose()


@pytest.fixture
async def endpoint(
    control_plane_app: Any, serve_app: Any, platform: Any, catalogue_entry: Any, tmp_path: Path
) -> AsyncIterator[Endpoint]:
    control_plane = await serve_app(control_plane_app)
    model = Model()
    embedder, reranker = catalogue_entry(EMBEDDER, "embedding"), catalogue_entry(RERANKER, "rerank")
    apps = (
        (catalogue_entry(CHAT), model),
        (embedder, EmbedderApp(embedder, HashEmbedder())),
        (reranker, RerankerApp(reranker, OverlapScorer())),
    )
    routes = [
        ModelRoute(entry=entry, upstream=Upstream(name=entry.id, base_url=await serve_app(served), internal=True))
        for entry, served in apps
    ]
    key = await furnished(control_plane)
    stage = await platform(
        routes=tuple(routes),
        control_plane_url=control_plane,
        cluster_secret=SecretStr(SECRET),
        object_store=str(tmp_path / "objects"),
    )
    bearer = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=stage.url, headers=bearer, timeout=30) as http:
        job = asyncio.ensure_future(batch_jobs(http, stage.url, control_plane, str(tmp_path / "objects")))
        yield Endpoint(stage, stage.url, key, http, model)
        job.cancel()
        await asyncio.wait({job})


async def furnished(control_plane: str) -> str:
    """A key of a new organisation, which has the agent ``handbook``."""
    bearer = {"authorization": f"Bearer {OPERATOR}"}
    async with httpx.AsyncClient(base_url=f"{control_plane}/api/v1", headers=bearer, timeout=30) as http:

        async def created(path: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = await http.post(path, json=body)
            assert answer.is_success, answer.text
            return answer.json()

        made = await created("/organisations", {"name": "Acme"})
        base = f"/organisations/{made['organisation']['id']}"
        agent = (await created(f"{base}/agents", {"slug": "handbook", "name": "Handbook"}))["id"]
        version = await created(f"{base}/agents/{agent}/versions", {"instructions": "Be brief.", "model": CHAT})
        await created(f"{base}/agents/{agent}/publish", {"version": version["version"]})
        return made["admin_key"]["key"]


async def batch_jobs(http: httpx.AsyncClient, gateway: str, control_plane: str, store: str) -> None:
    """What Ray does on the platform: runs a job for each batch that waits for one."""
    config = RunnerConfig(
        gateway_url=gateway,
        control_plane_url=control_plane,
        cluster_secret=SecretStr(SECRET),
        object_store=store,
        pause_seconds=0.01,
    )
    async with aiohttp.ClientSession() as session:
        while True:
            for batch in (await http.get("/v1/batches")).json()["data"]:
                if batch["status"] == "validating":
                    await Runner(config, session, batch["id"], 1).run()
            await asyncio.sleep(0.05)
