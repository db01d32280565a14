"""From the stream into the ledger exactly once, whoever dies on the way."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
import redis.asyncio
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from control_plane.config import ControlPlaneConfig
from control_plane.database import create_engine, database_url
from control_plane.supervision import supervised
from control_plane.usage.consumer import Consumer
from control_plane.usage.stream import DEAD_LETTERS, FRESH, OWN, Entry, UsageStream
from models.channels import USAGE_GROUP, USAGE_STREAM
from models.usage import TokenUsage, UsageEvent


def event(name: str, **changes: Any) -> UsageEvent:
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
        "streamed": False,
        "usage": TokenUsage(prompt=1),
        "source": "provider",
        "cost_micro": 1,
        "started_at_ms": 1_793_491_200_000,
        "duration_ms": 1,
    }
    return UsageEvent.model_validate(fields | changes)


class Ledger:
    def __init__(self, config: ControlPlaneConfig) -> None:
        self._url = config.database_url.get_secret_value()

    def events(self) -> list[str]:
        with psycopg.connect(self._url) as connection:
            return [name for (name,) in connection.execute("SELECT event_id FROM usage_events ORDER BY sequence")]

    def calls(self) -> int:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT coalesce(sum(calls), 0) FROM usage_days").fetchone()
            return int(row[0]) if row else 0

    def run(self, statement: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture
def ledger(config: ControlPlaneConfig) -> Ledger:
    return Ledger(config)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def consume(app: FastAPI, client: Any) -> Callable[..., Any]:
    """A supervised consumer, while the block runs."""

    def start(sessions: Any = None, redis: Any = None) -> Any:
        stream = UsageStream(redis or client)
        consumer = Consumer(stream, sessions or app.state.context.sessions, claim_idle_seconds=0.05)
        return supervised({"consumer": consumer.run}, restart_seconds_max=0.1)

    return start


async def add(client: Any, *events: UsageEvent) -> None:
    for item in events:
        await client.xadd(USAGE_STREAM, {"event": item.model_dump_json()})


async def drained(client: Any) -> bool:
    return await client.xlen(USAGE_STREAM) == 0


async def test_events_reach_the_ledger_and_leave_the_stream(client, consume, ledger, eventually) -> None:
    names = [f"e{number:04}" for number in range(1_200)]
    await add(client, *map(event, names))
    async with consume():
        await eventually(lambda: drained(client))
        await add(client, event("later"))
        await eventually(lambda: drained(client))
    assert ledger.events() == [*names, "later"]
    assert ledger.calls() == 1_201
    assert (await client.xpending(USAGE_STREAM, USAGE_GROUP))["pending"] == 0


async def test_one_event_delivered_twice_counts_once(client, consume, ledger, eventually) -> None:
    await add(client, event("e1"), event("e1"), event("e2"))
    async with consume():
        await eventually(lambda: drained(client))
        await add(client, event("e1"))
        await eventually(lambda: drained(client))
    assert ledger.events() == ["e1", "e2"]
    assert ledger.calls() == 2


async def test_two_consumers_at_once_count_each_event_once(client, consume, ledger, eventually) -> None:
    await add(client, *(event(f"e{number % 300}") for number in range(900)))
    async with consume(), consume():
        await eventually(lambda: drained(client))
    assert len(ledger.events()) == 300
    assert ledger.calls() == 300


async def test_what_a_dead_consumer_held_is_taken_over(client, consume, ledger, eventually) -> None:
    dead = UsageStream(client)
    await dead.open()
    await add(client, event("e1"), event("e2"))
    assert len(await dead.read(FRESH, 10)) == 2
    async with consume():
        await eventually(lambda: drained(client))
    assert sorted(ledger.events()) == ["e1", "e2"]


BAD = [
    b"",
    b"not json",
    b"{}",
    event("e").model_dump_json().replace('"ok"', '"odd"').encode(),
    event("e", duration_ms=10**16).model_dump_json().encode(),
    event("e", started_at_ms=-1).model_dump_json().encode(),
    event("e", started_at_ms=10**15).model_dump_json().encode(),
    event("e", upstream="x" * 501).model_dump_json().encode(),
    json.dumps(event("e").model_dump() | {"model": "a\0b"}).encode(),
    b"\xff",
]


async def test_what_cannot_be_written_goes_to_the_dead_letters_and_holds_nothing_up(
    client, consume, ledger, eventually, caplog: pytest.LogCaptureFixture
) -> None:
    await add(client, event("before"))
    for text in BAD:
        await client.xadd(USAGE_STREAM, {"event": text})
    await client.xadd(USAGE_STREAM, {"other": "field"})
    await add(client, event("after"))
    async with consume():
        await eventually(lambda: drained(client))
    assert ledger.events() == ["after", "before"]
    dead = [fields for _, fields in await client.xrange(DEAD_LETTERS)]
    assert [fields[b"event"] for fields in dead] == [*BAD, b""]
    assert all(fields[b"reason"] for fields in dead)
    assert caplog.text.count("went to the dead letters") == len(BAD) + 1


async def test_an_event_that_only_the_database_refuses_is_found_and_buried(client, consume, ledger, eventually) -> None:
    """A roll-up near its end of the world: one group overflows, its neighbours are written."""
    ledger.run(
        "INSERT INTO usage_days SELECT 'org_1', '2026-11-01', 'proj_1', 'key_1', 'full', 'chat', 1, 0, 0, 0, 0, 0, "
        "9223372036854775807"
    )
    await add(client, event("a"), event("b", model="full"), event("c"), event("d"), event("e"))
    async with consume():
        await eventually(lambda: drained(client))
    assert sorted(ledger.events()) == ["a", "c", "d", "e"]
    assert await client.xlen(DEAD_LETTERS) == 1


async def test_an_event_is_not_acknowledged_before_its_commit(
    client, consume, ledger, eventually, config: ControlPlaneConfig
) -> None:
    """The database goes away between the insert and the commit; the event is still there, and then it is written."""
    engine = create_engine(config)
    failures = 0

    class Failing(AsyncSession):
        async def commit(self) -> None:
            nonlocal failures
            failures += 1
            if failures <= 2:
                raise OperationalError("COMMIT", {}, Exception("server closed the connection"))
            await super().commit()

    await add(client, event("e1"))
    async with consume(async_sessionmaker(engine, class_=Failing, expire_on_commit=False)):
        await eventually(lambda: drained(client))
    await engine.dispose()
    assert failures == 3
    assert ledger.events() == ["e1"]
    assert ledger.calls() == 1


async def test_a_consumer_that_died_between_commit_and_acknowledgement_counts_once(
    client, consume, ledger, eventually, app: FastAPI
) -> None:
    class Dying(UsageStream):
        async def finish(self, entries: list[Entry]) -> None:
            raise ConnectionError(len(entries))

    await add(client, event("e1"))
    dying = Consumer(Dying(client), app.state.context.sessions, 0.05)
    with pytest.raises(ConnectionError):
        await dying.run()
    assert ledger.events() == ["e1"]
    async with consume():
        await eventually(lambda: drained(client))
    assert ledger.calls() == 1


async def test_redis_away_and_back_loses_nothing_that_came_after(
    consume, ledger, eventually, start_redis: Callable[[], Any]
) -> None:
    server = start_redis()
    async with redis.asyncio.Redis.from_url(server.url, protocol=2) as own, consume(redis=own):
        await add(own, event("before"))
        await eventually(lambda: drained(own))
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        # The new server is empty: the group is made anew.
        await add(own, event("after"))
        await eventually(lambda: drained(own))
    assert ledger.events() == ["before", "after"]


async def test_postgresql_away_and_back_loses_nothing(
    client, consume, eventually, config: ControlPlaneConfig, own_database_url: str, postgres_server: Any, caplog
) -> None:
    own = config.model_copy(update={"database_url": SecretStr(own_database_url)})
    engine, name = create_engine(own), database_url(own_database_url).database

    def let_in(yes: bool) -> None:
        with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {yes}')
            if not yes:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    async def complaining() -> bool:
        return "consumer stopped" in caplog.text

    async with consume(async_sessionmaker(engine, expire_on_commit=False)):
        await add(client, event("before"))
        await eventually(lambda: drained(client))
        await asyncio.to_thread(let_in, False)
        await add(client, event("meanwhile"))
        await eventually(complaining)
        await asyncio.to_thread(let_in, True)
        await eventually(lambda: drained(client))
    await engine.dispose()
    assert Ledger(own).events() == ["before", "meanwhile"]


async def test_the_group_forgets_consumers_long_gone(client) -> None:
    gone = UsageStream(client)
    await gone.open()
    await add(client, event("e1"))
    held = await gone.read(FRESH, 1)
    keeper = UsageStream(client)
    await asyncio.sleep(0.01)
    await keeper.open(consumer_idle_ms_max=0)
    assert len(await client.xinfo_consumers(USAGE_STREAM, USAGE_GROUP)) == 1
    await gone.finish(held)
    await asyncio.sleep(0.01)
    await keeper.open(consumer_idle_ms_max=0)
    assert await client.xinfo_consumers(USAGE_STREAM, USAGE_GROUP) == []


async def test_an_entry_deleted_while_it_was_held_is_finished(client) -> None:
    stream, other = UsageStream(client), UsageStream(client)
    await stream.open()
    await add(client, event("e1"), event("e2"))
    await stream.read(FRESH, 2)
    name = (await client.xrange(USAGE_STREAM))[0][0]
    await client.xdel(USAGE_STREAM, name)
    assert [entry.event == b"" for entry in await stream.read(OWN, 2)] == [True, False]
    claimed = await other.claim(0, 10)
    assert [entry.event == b"" for entry in claimed] == [False]


async def test_opening_fails_where_the_stream_is_something_else(client) -> None:
    await client.set(USAGE_STREAM, "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await UsageStream(client).open()
