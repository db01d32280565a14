"""Calls whose gateway died: one event each, whoever looks, and never one of a gateway that lives."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from control_plane.config import ControlPlaneConfig
from control_plane.usage.reaper import Reaper
from control_plane.usage.stream import DEAD_LETTERS
from models.channels import OPEN_CALLS, REPLICA_PREFIX, USAGE_STREAM
from models.usage import TokenUsage, UsageEvent


def open_call(name: str, **changes: Any) -> UsageEvent:
    fields = {
        "event_id": name,
        "request_id": f"req-{name}",
        "organisation_id": "org_1",
        "project_id": "proj_1",
        "api_key_id": "key_1",
        "kind": "chat",
        "model": "m",
        "upstream": "engine",
        "status": "ok",
        "http_status": 200,
        "streamed": True,
        "usage": TokenUsage(prompt=3),
        "source": "counted",
        "cost_micro": 5,
        "started_at_ms": round(time.time() * 1_000) - 4_000,
        "duration_ms": 0,
    }
    return UsageEvent.model_validate(fields | changes)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client:
        yield client


async def hold(client: Any, replica: str, *events: UsageEvent) -> None:
    for event in events:
        await client.hset(OPEN_CALLS, event.event_id, f"{replica}|{event.model_dump_json()}")


async def events(client: Any) -> list[UsageEvent]:
    return [UsageEvent.model_validate_json(fields[b"event"]) for _, fields in await client.xrange(USAGE_STREAM)]


async def test_a_lost_gateways_calls_become_events(client, config: ControlPlaneConfig) -> None:
    call = open_call("e1")
    await hold(client, "gone", call)
    assert await Reaper(client, config).look() == 1
    (event,) = await events(client)
    assert event == call.model_copy(update={"status": "gateway_lost", "duration_ms": event.duration_ms})
    assert 4_000 <= event.duration_ms < 60_000
    assert await client.hlen(OPEN_CALLS) == 0


async def test_a_living_gateways_calls_are_left(client, config: ControlPlaneConfig) -> None:
    await client.set(REPLICA_PREFIX + "alive", "1", ex=10)
    await hold(client, "alive", open_call("e1"))
    await hold(client, "gone", open_call("e2"))
    reaper = Reaper(client, config)
    assert await reaper.look() == 1
    assert await reaper.look() == 0
    assert [event.event_id for event in await events(client)] == ["e2"]
    assert await client.hkeys(OPEN_CALLS) == [b"e1"]


async def test_many_reapers_move_each_call_once(client, config: ControlPlaneConfig) -> None:
    await hold(client, "gone", *(open_call(f"e{number}") for number in range(600)))
    moved = await asyncio.gather(*(Reaper(client, config).look() for _ in range(4)))
    assert sum(moved) == 600
    assert len({event.event_id for event in await events(client)}) == await client.xlen(USAGE_STREAM) == 600


async def test_a_replica_without_a_heartbeat_has_a_period_of_grace(client, config: ControlPlaneConfig) -> None:
    await hold(client, "slow", open_call("e1"))
    patient = Reaper(client, config.model_copy(update={"reap_grace_seconds": 0.2}))
    assert await patient.look() == 0
    # It came back within the grace: the count begins anew.
    await client.set(REPLICA_PREFIX + "slow", "1")
    assert await patient.look() == 0
    await client.delete(REPLICA_PREFIX + "slow")
    assert await patient.look() == 0
    async with asyncio.timeout(10):
        while not await patient.look():
            assert await client.hlen(OPEN_CALLS) == 1
            await asyncio.sleep(0.02)
    assert await client.hlen(OPEN_CALLS) == 0


class Late(Reaper):
    """A reaper whose knowledge is stale: it thinks every replica lost."""

    async def _is_lost(self, replica: bytes) -> bool:
        return bool(replica)


async def test_a_heartbeat_at_the_last_moment_saves_the_call(client, config: ControlPlaneConfig) -> None:
    await client.set(REPLICA_PREFIX + "alive", "1")
    await hold(client, "alive", open_call("e1"))
    assert await Late(client, config).look() == 0
    assert await client.hlen(OPEN_CALLS) == 1


async def test_a_call_settled_at_the_last_moment_is_not_moved(client, config: ControlPlaneConfig) -> None:
    await hold(client, "gone", open_call("e1"))

    class Settling(Reaper):
        async def _is_lost(self, replica: bytes) -> bool:
            await client.hdel(OPEN_CALLS, "e1")
            return bool(replica)

    assert await Settling(client, config).look() == 0
    assert await events(client) == []


@pytest.mark.parametrize("value", ["", "gone", "gone|", "gone|{}", "gone|not json", "|{}", b"\xff\xfe"])
async def test_what_is_no_open_call_goes_to_the_dead_letters(client, config, value: str | bytes) -> None:
    await client.hset(OPEN_CALLS, "odd", value)
    assert await Reaper(client, config).look() == 1
    assert await client.hlen(OPEN_CALLS) == 0
    assert await client.xlen(DEAD_LETTERS) == 1
    assert await client.xlen(USAGE_STREAM) == 0


async def test_the_running_reaper_finds_calls_by_itself(client, config: ControlPlaneConfig, eventually) -> None:
    await hold(client, "gone", open_call("e1"))
    task = asyncio.create_task(Reaper(client, config).run())

    async def moved() -> bool:
        return await client.xlen(USAGE_STREAM) == 1

    await eventually(moved)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_lost_call_ends_up_in_the_ledger(client, acme, app, running, eventually) -> None:
    call = open_call("e1", organisation_id=acme.id, project_id=acme.project_id, api_key_id=acme.key_id)
    await hold(client, "gone", call)

    async def shown() -> list[dict[str, Any]]:
        return (await acme.client.get(acme.path("/usage/events"))).json()["data"]

    async with running(app):
        (event,) = await eventually(shown)
    assert (event["status"], event["cost_micro"]) == ("gateway_lost", 5)
