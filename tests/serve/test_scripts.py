"""Scripts on real Redis: their order, what a patient one waits for, and that none is forgotten."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from pydantic import SecretStr

from serve.scripts import RedisAway, Script, ScriptRunner

SECONDS_MAX = 20.0


@pytest.fixture
async def runner(redis_url: str) -> AsyncIterator[ScriptRunner]:
    made = ScriptRunner(SecretStr(redis_url), SECONDS_MAX, 0.0)
    yield made
    await made.close()


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Script:
    """A script that appends its argument to the list of its key."""
    (tmp_path / "note.lua").write_text("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    monkeypatch.setattr("serve.scripts.FOLDER", tmp_path)
    return Script("note")


async def test_scripts_run_in_the_order_of_their_submission_patient_or_not(runner: ScriptRunner, noted: Script) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        first = runner.submit(noted, ("list",), (0,), patient=True)
        replies = [runner.submit(noted, ("list",), (number,), patient=number % 3 == 0) for number in range(1, 500)]
        assert await asyncio.gather(first, *replies) == list(range(1, 501))
        assert await runner.submit(noted, ("list",), ("last",), patient=True) == 501


async def test_a_patient_script_goes_with_the_next_that_is_not(runner: ScriptRunner, noted: Script) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        await runner.run(noted, ("list",), ("connects",))
        patient = runner.submit(noted, ("list",), ("patient",), patient=True)
        assert await runner.run(noted, ("list",), ("urgent",)) == 3
        assert patient.done()


async def test_a_runner_that_closes_and_a_redis_that_is_gone_fail_the_patient_too(start_redis, noted: Script) -> None:
    server = start_redis()
    runner = ScriptRunner(SecretStr(server.url), SECONDS_MAX, 0.0)
    async with asyncio.timeout(SECONDS_MAX):
        await runner.run(noted, ("list",), ("connects",))
        server.stop()
        lost = runner.submit(noted, ("list",), ("lost",), patient=True)
        with pytest.raises(RedisAway):
            await lost
        left = runner.submit(noted, ("list",), ("left",), patient=True)
        await runner.close()
        with pytest.raises(RedisAway):
            await left
        server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.lrange("list", 0, -1) == []
