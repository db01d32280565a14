"""Metering: exactly once through lost replies, lost Redis, full disks and dead replicas."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from models.channels import OPEN_CALLS, OPEN_HOLDS, SETTLED_PREFIX, USAGE_STREAM
from models.identity import Principal
from models.usage import Price, TokenUsage, UsageEvent
from serve.claims import NOTHING
from serve.metering import Meter
from serve.records import Call
from serve.scripts import RedisAway, Script, ScriptRunner
from serve.spool import Spool

SECONDS_MAX = 10.0


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def metering(
    url: str, folder: Path, replica: str = "r1", rest_seconds: float = 0.0
) -> AsyncIterator[tuple[Meter, ScriptRunner]]:
    runner = ScriptRunner(SecretStr(url), 1.0, rest_seconds)
    meter = Meter(runner, Spool(folder), replica, 0.02)
    meter.start()
    yield meter, runner
    await meter.close()
    await runner.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def stored(client: Any) -> list[str]:
    return [json.loads(fields["event"])["n"] for _, fields in client.xrange(USAGE_STREAM)]


def modes(folder: Path) -> list[int]:
    return [path.stat().st_mode for path in folder.iterdir()]


def settle(meter: Meter, number: int) -> None:
    meter.settle(f"e{number}", b'{"n":%d}' % number, NOTHING, 0, 0)


async def test_events_reach_the_stream_and_their_calls_are_closed(redis_url: str, client: Any, tmp_path: Path) -> None:
    client.hset(OPEN_CALLS, "e7", "r1|{}")
    async with metering(redis_url, tmp_path / "spool") as (meter, _):
        for number in range(600):
            settle(meter, number)
    assert sorted(stored(client)) == list(range(600))
    assert client.hlen(OPEN_CALLS) == 0
    assert not (tmp_path / "spool").exists()


async def test_an_event_settled_again_is_not_added_again(redis_url: str, client: Any, tmp_path: Path) -> None:
    async with metering(redis_url, tmp_path) as (meter, _):
        for _ in range(3):
            settle(meter, 1)
        await until(lambda: client.exists(f"{SETTLED_PREFIX}e1"))
        spool = Spool(tmp_path)
        spool.append([json.dumps({"id": "e1", "replica": "r1", "held": [], "event": '{"n":1}'}).encode()])
        spool.release()
        await until(lambda: not list(tmp_path.iterdir()))
    assert stored(client) == [1]


async def test_without_redis_events_are_on_disk_and_another_replica_drains_them(
    redis_url: str, client: Any, tmp_path: Path
) -> None:
    async with metering("unix:///nowhere.sock", tmp_path, rest_seconds=60.0) as (meter, _):
        settle(meter, 1)
        await until(lambda: meter.spool_bytes)
        assert meter.alive
        assert [mode & 0o777 for mode in modes(tmp_path)] == [0o600]
        # Held by its living owner: no one else takes it.
        taken: list[bytes] = []

        async def take(lines: list[bytes]) -> None:
            taken.extend(lines)

        await Spool(tmp_path).drain(take)
        assert taken == []
        settle(meter, 2)
    async with metering(redis_url, tmp_path, "r2"):
        await until(lambda: len(stored(client)) == 2)
        await until(lambda: not list(tmp_path.iterdir()))
    assert stored(client) == [1, 2]


async def test_lines_that_are_no_events_are_passed_over(
    redis_url: str, client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps({"id": "e1", "replica": "r1", "held": [], "event": '{"n":1}'}).encode()
    (tmp_path / "dead.jsonl").write_bytes(b"garbage\n{}\n[]\n" + good + b'\n{"id": "torn"')
    (tmp_path / "empty.jsonl").write_bytes(b"")
    async with metering(redis_url, tmp_path):
        await until(lambda: not list(tmp_path.iterdir()))
    assert stored(client) == [1]
    assert caplog.text.count("is not a usage event") == 3


async def test_neither_redis_nor_disk_keeps_events_in_memory_until_one_is_back(
    start_redis: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis()
    server.stop()
    blocked = tmp_path / "spool"
    blocked.write_text("a file where the folder should be")
    async with metering(server.url, blocked) as (meter, _):
        settle(meter, 1)
        await until(lambda: "wait in memory" in caplog.text)
        assert meter.waiting == 1
        server.start()
        await until(lambda: not meter.waiting)
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert stored(client) == [1]


async def test_events_lost_at_the_very_end_are_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    async with metering("unix:///nowhere.sock", tmp_path / "file") as (meter, _):
        settle(meter, 1)
    assert "1 usage events are lost" in caplog.text


async def test_a_spool_that_cannot_be_read_is_said_so(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    async with metering(redis_url, tmp_path):
        await until(lambda: "cannot be read" in caplog.text)


async def test_a_taker_that_fails_keeps_the_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"1"])

    async def refuse(_: list[bytes]) -> None:
        raise RedisAway

    with pytest.raises(RedisAway):
        await spool.drain(refuse)
    spool.append([b"2"])
    taken: list[bytes] = []

    async def take(lines: list[bytes]) -> None:
        taken.extend(lines)

    await spool.drain(take)
    assert (sorted(taken), spool.bytes, modes(tmp_path)) == ([b"1", b"2"], 0, [])


def test_a_full_disk_keeps_nothing_of_what_did_not_fit(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    spool = Spool(tmp_path)
    spool.append([b"1"])
    path, descriptor = spool._own or (tmp_path, -1)
    os.dup2(os.open(full, os.O_WRONLY), descriptor)
    with pytest.raises(OSError, match=r"No space|Invalid"):
        spool.append([b"2"])
    assert path.read_bytes() == b"1\n"


@pytest.mark.parametrize("price", [None, Price(since="2026-01-01", prompt_micro=9, cached_micro=9, completion_micro=9)])
def test_a_call_s_record_is_a_usage_event(price: Price | None) -> None:
    principal = Principal(organisation_id="o", project_id="p", api_key_id="k")
    call = Call("req", "parent", principal, "chat", "m", "m", "u", True, price, 40, None)
    opening = UsageEvent.model_validate_json(call.opening())
    assert (opening.status, opening.usage.prompt, opening.source) == ("gateway_lost", 10, "estimated")
    call.reported = TokenUsage(
        prompt=1, cached=2, completion=3, reasoning=4, cache_write=5, audio_prompt=6, audio_completion=7
    )
    call.first_token(None)
    call.first_token(call.started + 0.5)
    call.end("ok", 200)
    call.count()
    event = UsageEvent.model_validate_json(call.event())
    assert set(json.loads(call.event())) == set(UsageEvent.model_fields)
    assert (event.usage, event.first_token_ms, event.parent_request_id) == (call.reported, 500, "parent")
    assert event.event_id == opening.event_id
    assert event.cost_micro == (1 if price else 0)


async def test_scripts_survive_a_restart_that_forgot_them(start_redis: Callable[[], Any]) -> None:
    server = start_redis()
    runner = ScriptRunner(SecretStr(server.url), 5.0, 0.0)
    beat = Script("beat")
    assert await runner.run(beat, ("k",), (5,)) == 1
    server.stop()
    with pytest.raises(RedisAway):
        await runner.run(beat, ("k",), (5,))
    server.start()
    assert await asyncio.gather(*(runner.run(beat, ("k",), (5,)) for _ in range(300))) == [1] * 300
    await runner.close()


async def test_a_script_that_redis_refuses_counts_as_away(
    redis_url: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runner = ScriptRunner(SecretStr(redis_url), 5.0, 0.0)
    client.set(OPEN_CALLS, "no hash")
    with pytest.raises(RedisAway):
        await runner.run(
            Script("settle"), (OPEN_CALLS, USAGE_STREAM, "mark", OPEN_HOLDS), ("e", "{}", "r", 1, "", 0, 0)
        )
    assert "WRONGTYPE" in caplog.text
    await runner.close()


async def test_redis_is_left_alone_after_a_failure_and_whoever_waits_at_the_end_is_told() -> None:
    runner = ScriptRunner(SecretStr("unix:///nowhere.sock"), 5.0, 60.0)
    with pytest.raises(RedisAway):
        await runner.run(Script("beat"), ("k",), (5,))
    assert runner.resting
    with pytest.raises(RedisAway):
        await runner.run(Script("beat"), ("k",), (5,))
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    waiting = ScriptRunner(SecretStr(f"redis://127.0.0.1:{port}"), 60.0, 0.0)
    call = asyncio.ensure_future(waiting.run(Script("beat"), ("k",), (5,)))
    gone = asyncio.ensure_future(waiting.run(Script("beat"), ("k",), (5,)))
    await until(lambda: waiting._pump)
    gone.cancel()
    await waiting.close()
    with pytest.raises(RedisAway):
        await call
    await runner.close()
    silent.close()
    await until(lambda: writers)
    writers[0].close()
    await writers[0].wait_closed()
