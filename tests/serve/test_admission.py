"""Admission in real Redis: limits of all scopes at once, records, leases."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from models.budgets import SETTLE_HOLD
from models.channels import (
    LIMIT_PREFIX,
    OPEN_CALLS,
    OPEN_HOLDS,
    REPLICA_LEASE_SECONDS,
    REPLICA_PREFIX,
    SETTLED_PREFIX,
    USAGE_STREAM,
)
from models.errors import LimitReached, RateHeaders, RateLimited
from models.identity import Principal
from serve.admission import Admission, duration
from serve.claims import Claim, Demand, claim
from serve.config import RedisAwayPolicy
from serve.scripts import Script, ScriptRunner

EVENT = b'{"event_id":"e"}'


def principal(**limits: Any) -> Principal:
    return Principal(organisation_id="o", project_id="p", api_key_id="k", **limits)


def claimed(who: Principal, *, inner: bool = False, tokens: int = 0) -> Claim:
    return claim(who, Demand(0, 0, tokens), None, 0, inner=inner)


async def uncounted(keys: Sequence[str]) -> bool:
    raise AssertionError(keys)


def never(event: str, claim: Claim) -> None:
    raise AssertionError(event, claim)


class Door(Admission):
    """A replica's admission."""

    def __init__(self, runner: ScriptRunner, replica: str) -> None:
        super().__init__(runner, replica, RedisAwayPolicy(), uncounted, never)

    async def take(self, who: Principal, event: str, *, inner: bool = False, tokens: int = 0) -> RateHeaders:
        return await self.admit(who, event, EVENT, claimed(who, inner=inner, tokens=tokens), inner=inner)


@pytest.fixture
async def runner(redis_url: str) -> AsyncIterator[ScriptRunner]:
    runner = ScriptRunner(SecretStr(redis_url), 5.0, 0.0)
    yield runner
    await runner.close()


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def settle(runner: ScriptRunner, event: str, who: Principal, replica: str) -> int:
    claim = claimed(who)
    keys = (OPEN_CALLS, USAGE_STREAM, SETTLED_PREFIX + event, OPEN_HOLDS, *claim.held)
    return await runner.run(Script("settle", SETTLE_HOLD), keys, (event, "{}", replica, 60, claim.hold, 0, 0))


async def test_an_admitted_call_is_on_record_under_a_lease(runner: ScriptRunner, client: Any) -> None:
    assert await Door(runner, "r1").take(principal(), "e1") == ()
    assert client.hgetall(OPEN_CALLS) == {"e1": 'r1|{"event_id":"e"}'}
    assert 0 < client.ttl(f"{REPLICA_PREFIX}r1") <= REPLICA_LEASE_SECONDS


async def test_the_tightest_rate_limit_is_shown(runner: ScriptRunner) -> None:
    who = principal(organisation_limits={"requests_per_minute": 600}, key_limits={"requests_per_minute": 60})
    headers = dict(await Door(runner, "r1").take(who, "e1"))
    assert headers[b"x-ratelimit-limit-requests"] == b"60"
    assert headers[b"x-ratelimit-remaining-requests"] == b"59"
    assert headers[b"x-ratelimit-reset-requests"] in {b"1s", b"1000ms", b"999ms"}


async def test_what_one_scope_refuses_counts_in_none(runner: ScriptRunner, client: Any) -> None:
    admission = Door(runner, "r1")
    tight = principal(
        organisation_limits={"requests_per_minute": 100, "concurrent_requests": 9},
        project_limits={"concurrent_requests": 9},
        key_limits={"requests_per_minute": 1},
    )
    await admission.take(tight, "e1")
    for number in range(5):
        with pytest.raises(RateLimited, match="for this key: too many requests a minute"):
            await admission.take(tight, f"refused{number}")
    loose = tight.model_copy(update={"api_key_id": "other", "key_limits": principal().key_limits})
    headers = dict(await admission.take(loose, "e2"))
    assert headers[b"x-ratelimit-remaining-requests"] == b"98"
    assert client.hgetall(f"{LIMIT_PREFIX}organisation:o:concurrent") == {"r1": "2"}
    assert set(client.hkeys(OPEN_CALLS)) == {"e1", "e2"}


async def test_a_hundred_at_once_never_exceed_the_limit(redis_url: str, runner: ScriptRunner) -> None:
    who = principal(project_limits={"concurrent_requests": 7}, key_limits={"requests_per_minute": 1_000})
    other = ScriptRunner(SecretStr(redis_url), 5.0, 0.0)
    replicas = [Door(runner, "r1"), Door(other, "r2")]
    tries = [replicas[n % 2].take(who, f"e{n}") for n in range(100)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
    assert (len(refused), {error.retry_after_seconds for error in refused}) == (93, {1.0})
    await other.close()


async def test_settling_frees_a_place_once(runner: ScriptRunner, client: Any) -> None:
    who = principal(key_limits={"concurrent_requests": 2})
    admission = Door(runner, "r1")
    await admission.take(who, "e1")
    await admission.take(who, "e2")
    assert [await settle(runner, "e1", who, "r1") for _ in range(3)] == [1, 0, 0]
    assert client.hgetall(f"{LIMIT_PREFIX}key:k:concurrent") == {"r1": "1"}
    assert client.xlen(USAGE_STREAM) == 1
    await settle(runner, "e2", who, "r1")
    assert client.exists(f"{LIMIT_PREFIX}key:k:concurrent") == 0


async def test_the_calls_of_a_dead_replica_count_no_longer(runner: ScriptRunner, client: Any) -> None:
    who = principal(key_limits={"concurrent_requests": 1})
    await Door(runner, "dead").take(who, "e1")
    alive = Door(runner, "alive")
    with pytest.raises(RateLimited, match="too many requests at once"):
        await alive.take(who, "e2")
    client.delete(f"{REPLICA_PREFIX}dead")
    await alive.take(who, "e3")
    assert client.hgetall(f"{LIMIT_PREFIX}key:k:concurrent") == {"alive": "1"}


async def test_a_call_settled_while_its_admission_was_stuck_is_not_opened_again(
    runner: ScriptRunner, client: Any
) -> None:
    who = principal(key_limits={"concurrent_requests": 1})
    await settle(runner, "e1", who, "r1")
    await Door(runner, "r1").take(who, "e1")
    assert client.hlen(OPEN_CALLS) == 0
    assert client.exists(f"{LIMIT_PREFIX}key:k:concurrent") == 0


async def test_an_inner_call_is_on_record_and_not_limited(runner: ScriptRunner, client: Any) -> None:
    who = principal(key_limits={"concurrent_requests": 1, "requests_per_minute": 1})
    admission = Door(runner, "r1")
    await admission.take(who, "outer")
    await admission.take(who, "inner", inner=True)
    assert set(client.hkeys(OPEN_CALLS)) == {"outer", "inner"}
    assert claimed(who, inner=True).held == ()


async def test_a_refusal_survives_pickling_with_its_headers(runner: ScriptRunner) -> None:
    who = principal(key_limits={"requests_per_minute": 1})
    admission = Door(runner, "r1")
    await admission.take(who, "e1")
    with pytest.raises(LimitReached) as error:
        await admission.take(who, "e2")
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.message, again.headers) == (error.value.message, error.value.headers)
    assert dict(again.headers)[b"x-ratelimit-limit-requests"] == b"1"


async def test_the_heartbeat_is_renewed_without_calls_and_given_back(runner: ScriptRunner, client: Any) -> None:
    admission = Door(runner, "r1")
    admission.start()
    async with asyncio.timeout(5):
        while True:
            if client.exists(f"{REPLICA_PREFIX}r1"):
                break
            await asyncio.sleep(0.005)
    await admission.close()
    assert not client.exists(f"{REPLICA_PREFIX}r1")


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0, "0ms"), (12, "12ms"), (1_000, "1s"), (59_001, "1m0s"), (360_000, "6m0s")]
)
def test_a_duration_is_written_like_openai_s(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text
