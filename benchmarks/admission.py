"""Can a budget be overspent, leak, or refuse wrongly? 1,000 calls at once on a key worth 100 of them.

Four gateway replicas under uvicorn on one Redis, with the control plane and its PostgreSQL; no Ray. Meanwhile replicas
are killed with SIGKILL and started again, and clients hang up in the middle of their streams. A caller that is told to
come back (``retry-after``) does; one that is refused for good is not served any more.

``overspend_micro``: the most by which settled + held (watched in Redis), or the ledger's sum, exceeded the limit.
``phantom_holds``: open holds, and micro-units held, after the lease, the grace and a look of the reaper.
``refused_wrongly``: final refusals although the ledger says at the end that a call had room.
"""

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import redis.asyncio

from benchmarks import upstream
from benchmarks.processes import ROOT, BenchmarkError, free_port, say, scripted_upstream
from benchmarks.replica import Replica
from benchmarks.report import main
from cluster.home import Home
from cluster.parts import PartEvent, process_part
from cluster.postgres import postgres_part
from cluster.redis_server import redis_part
from cluster.supervisor import Supervisor
from models.budgets import budget_key
from models.channels import OPEN_CALLS, OPEN_HOLDS, REPLICA_LEASE_SECONDS, USAGE_STREAM

SPARED = 0.15
SECONDS_BETWEEN_KILLS = 2.0
PACE = "0.02"
TOKENS = upstream.STREAM_CHUNKS
COST = 8 + TOKENS
GRACE_SECONDS = 10.0
LOOK_SECONDS = 5.0
RUN_SECONDS_MAX = 240.0
BODY = json.dumps(
    {"model": upstream.MODEL, "messages": [{"role": "user", "content": "go"}], "stream": True, "max_tokens": TOKENS}
).encode()
# Each token a micro-unit; the gateway adds ``stream_options`` to the body before it is measured.
HOLD_MAX = len(BODY) + 100 + TOKENS
ENTRY = {
    "id": upstream.MODEL,
    "kind": "chat",
    "sources": ["hosted:scripted"],
    "context_window": 8_192,
    "prices": [{"since": "2026-01-01", "prompt_micro": 10**6, "cached_micro": 10**6, "completion_micro": 10**6}],
}


class Load(NamedTuple):
    """How much of it: ``calls`` at once on a key that is worth ``worth`` of them."""

    replicas: int = 4
    calls: int = 1_000
    worth: int = 100
    kills: int = 6


class Stage(NamedTuple):
    """What runs. ``config``: the replicas'."""

    control_plane: str
    operator: Mapping[str, str]
    redis: Any
    config: Path


class Budgeted(NamedTuple):
    """A key with a hard budget."""

    key: str
    organisation: str
    budget: str
    limit: int


@contextlib.asynccontextmanager
async def stage(folder: Path, upstream_url: str) -> AsyncIterator[Stage]:
    """PostgreSQL, Redis and the control plane, and the replicas' configuration."""
    home = Home(folder / "home")
    home.prepare()
    (postgres, database_url), (cache, redis_url) = postgres_part(home), redis_part(home)
    port, secret, operator = free_port(), secrets.token_hex(16), secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}"
    environment = {
        "OBJECTA_HOME": str(home.folder),
        "OBJECTA_MODEL_STORE": str(folder),
        "OBJECTA_KNOWLEDGE_STORE": str(folder),
        "OBJECTA_DATABASE_URL": database_url,
        "OBJECTA_REDIS_URL": redis_url,
        "OBJECTA_OBJECT_STORE": str(folder),
        "OBJECTA_CLUSTER_SECRET": secret,
        "OBJECTA_OPERATOR_KEY": operator,
        "OBJECTA_RAY_TOKEN": secret,
        "OBJECTA_KEY_PEPPER": secret,
        "OBJECTA_CONTROL_PLANE_PORT": str(port),
    }
    command = (sys.executable, "-m", "deployments.control_plane")
    needs = (postgres.name, cache.name)

    control_plane = process_part(
        "control-plane",
        command,
        f"{url}/health/ready",
        version="",
        folder=ROOT,
        environment=environment,
        port=port,
        needs=needs,
    )
    config = folder / "gateway.json"
    scripted = {"name": "scripted", "base_url": upstream_url}
    config.write_text(
        json.dumps(
            {
                "control_plane_url": url,
                "cluster_secret": secret,
                "redis_url": redis_url,
                "spool_folder": str(folder / "spool"),
                "agents": {"name": "agents", "base_url": upstream_url},
                "routes": [{"entry": ENTRY, "upstream": scripted}],
                "bounds": {"template_tokens": 0},
                "object_store": str(folder / "objects"),
            }
        )
    )
    supervisor = Supervisor(home, [postgres, cache, control_plane], _ignore)
    with home.held():
        try:
            await supervisor.start()
            bearer = {"authorization": f"Bearer {operator}"}
            async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client:
                yield Stage(url, bearer, client, config)
        finally:
            await supervisor.stop()


def _ignore(event: PartEvent) -> None:
    say(f"{event.name}: {event.state}")


async def asked(session: aiohttp.ClientSession, place: Stage, method: str, path: str, body: Any = None) -> Any:
    """The control plane's answer to the operator."""
    url = f"{place.control_plane}/api/v1/organisations{path}"
    async with session.request(method, url, json=body, headers=place.operator) as answer:
        if answer.status >= 400:
            raise BenchmarkError(f"{method} {path}: {answer.status} {await answer.text()}")
        return await answer.json()


async def budgeted(session: aiohttp.ClientSession, place: Stage, calls: int) -> Budgeted:
    """A new organisation's key that is worth so many calls: the last of them needs room for its hold."""
    made = await asked(session, place, "POST", "", {"name": "Load"})
    organisation, key = made["organisation"]["id"], made["admin_key"]
    limit = calls * COST + HOLD_MAX - COST
    order = {"scope": "api_key", "target_id": key["id"], "period": "total", "limit_micro": limit}
    budget = await asked(session, place, "POST", f"/{organisation}/budgets", order)
    return Budgeted(key["key"], organisation, budget["id"], limit)


async def caller(session: aiohttp.ClientSession, urls: list[str], key: str, chance: random.Random) -> str:
    """One caller until it is served, refused for good, or gone itself; which of these."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    leaves_after = chance.randrange(1, 4_000) if chance.random() < SPARED else None
    while True:
        try:
            url = f"{chance.choice(urls)}/v1/chat/completions"
            async with session.post(url, data=BODY, headers=headers) as answer:
                if answer.status == 200:
                    return await _read(answer, leaves_after)
                wait = answer.headers.get("retry-after-ms")
                if answer.status == 429 and wait is None:
                    return "refused"
                if answer.status not in {429, 503}:
                    raise BenchmarkError(f"{answer.status}: {await answer.text()}")
        except (aiohttp.ClientError, OSError):
            wait = None
        await asyncio.sleep(float(wait or 300) / 1_000 * (0.5 + chance.random()))


async def _read(answer: aiohttp.ClientResponse, leaves_after: int | None) -> str:
    size = 0
    try:
        async for data in answer.content.iter_any():
            size += len(data)
            if leaves_after is not None and size > leaves_after:
                answer.close()
                return "left"
    except (aiohttp.ClientError, OSError):
        return "cut off"
    return "served"


async def watch(place: Stage, worth: Budgeted, most: list[int], enough: asyncio.Event) -> None:
    """Note the most that was settled and held at once. Told to end, not cancelled: redis-py may swallow that."""
    key = budget_key(worth.budget, "total")
    while not enough.is_set():
        spent, held = await place.redis.hmget(key, "spent", "held")
        most[0] = max(most[0], int(spent or 0) + int(held or 0))
        await asyncio.sleep(0.002)


async def kill_now_and_then(replicas: list[Replica], kills: int, chance: random.Random) -> None:
    """Replicas die."""
    for _ in range(kills):
        await asyncio.sleep(SECONDS_BETWEEN_KILLS * (0.5 + chance.random()))
        victim = chance.choice(replicas)
        await asyncio.to_thread(victim.kill)
        await victim.ready()


async def leftovers(place: Stage, worth: Budgeted) -> tuple[int, int]:
    """Holds and micro-units that are left once every lease has ended, and the ledger has every event."""
    deadline = time.monotonic() + REPLICA_LEASE_SECONDS + GRACE_SECONDS + LOOK_SECONDS
    key = budget_key(worth.budget, "total")
    while True:
        holds, open_calls = await place.redis.hlen(OPEN_HOLDS), await place.redis.hlen(OPEN_CALLS)
        held, waiting = int(await place.redis.hget(key, "held") or 0), await place.redis.xlen(USAGE_STREAM)
        if not (holds or open_calls or held or waiting) or time.monotonic() > deadline:
            return holds, held
        await asyncio.sleep(0.2)


async def load(place: Stage, session: aiohttp.ClientSession, replicas: list[Replica], much: Load) -> dict[str, float]:
    """The figures of one run."""
    chance, most = random.Random(7), [0]
    worth = await budgeted(session, place, much.worth)
    enough = asyncio.Event()
    watching = asyncio.create_task(watch(place, worth, most, enough))
    killing = asyncio.create_task(kill_now_and_then(replicas, much.kills, chance))
    urls = [replica.url for replica in replicas]
    began = time.monotonic()
    async with asyncio.timeout(RUN_SECONDS_MAX):
        ends = await asyncio.gather(*(caller(session, urls, worth.key, chance) for _ in range(much.calls)))
        seconds = time.monotonic() - began
        await killing
    holds, held = await leftovers(place, worth)
    enough.set()
    await watching
    usage = await asked(session, place, "GET", f"/{worth.organisation}/usage")
    spent = usage["total"]["cost_micro"]
    counts = {name.replace(" ", "_"): ends.count(name) for name in ("served", "left", "cut off", "refused")}
    return {
        "overspend_micro": max(0, most[0] - worth.limit, spent - worth.limit),
        "phantom_holds": holds + held,
        "refused_wrongly": counts["refused"] if worth.limit - spent >= HOLD_MAX else 0,
        **counts,
        "spent_share": spent / worth.limit,
        "seconds": seconds,
    }


async def measured(much: Load) -> dict[str, float]:
    """Everything up, one run, everything down."""
    with tempfile.TemporaryDirectory(prefix="objecta-bench-") as name, scripted_upstream("--pace", PACE) as url:
        async with stage(Path(name), url) as place:
            replicas = [Replica(place.config, free_port()) for _ in range(much.replicas)]
            try:
                await asyncio.gather(*(replica.ready() for replica in replicas))
                connector = aiohttp.TCPConnector(limit=0)
                async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
                    return await load(place, session, replicas, much)
            finally:
                for replica in replicas:
                    replica.end(signal.SIGKILL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for what, number in Load()._asdict().items():
        parser.add_argument(f"--{what}", type=int, default=number)
    order = Load(**vars(parser.parse_args()))
    sys.exit(main(lambda: asyncio.run(measured(order))))
