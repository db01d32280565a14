"""Budgets and token rates through gateways on sockets: two replicas, hang-ups, dead replicas, no Redis."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import openai
import redis.asyncio

from control_plane.config import ControlPlaneConfig
from control_plane.usage.reaper import Reaper
from models.budgets import Budget, budget_key
from models.channels import (
    CLUSTER_SECRET_HEADER,
    OPEN_CALLS,
    OPEN_HOLDS,
    PARENT_REQUEST_HEADER,
    PRINCIPAL_HEADER,
    REPLICA_PREFIX,
)
from models.doubles.scripted_engine import Script
from models.identity import Principal

Platform = Callable[..., Awaitable[Any]]
# A prompt token costs 1 micro-unit, a completion token 2. Without a template's words a hold is easy to say.
BOUNDS = {"bounds": {"completion_tokens": 100, "template_tokens": 0}}
KEY = budget_key("b1", "total")
AT_MOST = {"max_tokens": 4}
REAPER = ControlPlaneConfig.model_construct(reap_seconds=1.0, reap_grace_seconds=0.0)


def budget(limit: int, **changes: Any) -> Budget:
    return Budget(**{"id": "b1", "scope": "api_key", "period": "total", "limit_micro": limit, "hard": True, **changes})


async def hold_of_a_call(stage: Any) -> int:
    """What one ``chat`` with ``AT_MOST`` holds: a token for each byte of its body, and four of completion."""
    answer = await stage.chat(**AT_MOST)
    return len(answer.request.content) + 2 * 4


async def standing(stage: Any) -> tuple[int, int]:
    spent, held = await stage.redis.hmget(KEY, "spent", "held")
    return int(spent or 0), int(held or 0)


def codes(answers: list[httpx.Response]) -> Counter[Any]:
    return Counter(answer.status_code if answer.is_success else answer.json()["error"]["code"] for answer in answers)


async def test_two_replicas_admit_of_two_hundred_calls_what_the_budget_pays_for(platform: Platform) -> None:
    one, two = await platform(**BOUNDS), await platform(**BOUNDS)
    hold = await hold_of_a_call(one)
    limit = 20 * hold + hold - 1
    for stage in (one, two):
        stage.engine.gate = asyncio.Event()
        stage.admit("tight", budgets=(budget(limit),))
    calls = [asyncio.ensure_future((one, two)[number % 2].chat("tight", **AT_MOST)) for number in range(200)]
    await one.until(lambda: sum(call.done() for call in calls) == 180)
    assert await standing(one) == (0, 20 * hold)
    assert codes([call.result() for call in calls if call.done()]) == {"insufficient_quota": 180}
    for stage in (one, two):
        stage.engine.gate.set()
    answers = await asyncio.gather(*calls)
    assert codes(answers) == {200: 20, "insufficient_quota": 180}
    refused = next(answer for answer in answers if answer.is_error)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "insufficient_quota")
    assert "budget of this key" in refused.json()["error"]["message"]
    events = await one.events(21)
    spent = sum(event.cost_micro for event in events[1:])
    await one.until(lambda: settled(one))
    assert await standing(one) == (spent, 0)
    # What the holds set aside and the calls did not use is there for others.
    left = (limit - spent - hold) // events[1].cost_micro + 1
    answers = [await paid(one, "tight") for _ in range(left + 2)]
    assert codes(answers) == {200: left, "insufficient_quota": 2}
    assert "retry-after" not in answers[-1].headers
    assert (await standing(one))[0] <= limit


async def settled(stage: Any) -> bool:
    return not await stage.redis.exists(OPEN_CALLS, OPEN_HOLDS)


async def paid(stage: Any, key: str) -> httpx.Response:
    answer = await stage.chat(key, **AT_MOST)
    await stage.until(lambda: settled(stage))
    return answer


async def test_clients_that_hang_up_leave_no_hold_and_are_booked_as_their_events_say(platform: Platform) -> None:
    stage = await platform(**BOUNDS)
    stage.engine.script = Script(chunks=50, delay=0.002)
    stage.admit("key", budgets=(budget(10**9),))
    client = stage.client("key")

    async def leave(after: int) -> None:
        with suppress(openai.APIError):
            stream = await client.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            async for _ in stream:
                after -= 1
                if after <= 0:
                    break
            await stream.close()

    async def never_wait(seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stage.chat("key"), seconds)

    await asyncio.gather(*(leave(number) for number in range(1, 20)), *(never_wait(n / 200) for n in range(20)))
    await stage.until(lambda: not stage.engine.running)
    await stage.until(lambda: not stage.gateway._running)
    await stage.until(lambda: not stage.gateway._meter.waiting)
    await stage.until(lambda: settled(stage))
    events = await stage.stored()
    assert {"client_gone"} <= {event.status for event in events}
    assert await standing(stage) == (sum(event.cost_micro for event in events), 0)


async def test_the_holds_of_a_dead_replica_end_and_what_it_settles_later_changes_nothing(
    platform: Platform, redis_url: str
) -> None:
    stage = await platform(**BOUNDS)
    hold = await hold_of_a_call(stage)
    stage.admit("tight", budgets=(budget(2 * hold),))
    stage.engine.gate = asyncio.Event()
    lost = [asyncio.ensure_future(stage.chat("tight", **AT_MOST)) for _ in range(2)]
    await stage.until(lambda: stage.engine.running == 2)
    other = await platform(**BOUNDS)
    other.admit("tight", budgets=(budget(2 * hold),))
    refused = await other.chat("tight", **AT_MOST)
    assert (codes([refused]), refused.headers["retry-after"]) == ({"insufficient_quota": 1}, "1")
    assert "still run" in refused.json()["error"]["message"]
    # Its heart stops, though its calls go on.
    stage.gateway._admission._heart.cancel()
    await stage.redis.delete(REPLICA_PREFIX + stage.gateway._admission.replica)
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client:
        assert await Reaper(client, REAPER).look() == 2
    spent, held = await standing(stage)
    reaped = [event.cost_micro for event in await stage.stored() if event.status == "gateway_lost"]
    assert (spent, held, len(reaped)) == (sum(reaped), 0, 2)
    stage.engine.gate.set()
    await asyncio.gather(*lost)
    await stage.until(lambda: not stage.gateway._meter.waiting)
    assert await standing(stage) == (spent, 0)
    assert len(await stage.stored()) == 3
    assert (await paid(other, "tight")).status_code == 200


async def test_a_window_that_redis_does_not_know_is_counted_before_a_call_passes(platform: Platform) -> None:
    stage = await platform(**BOUNDS)
    hold = await hold_of_a_call(stage)
    stage.admit("key", budgets=(budget(3 * hold),))
    stage.control_plane.sums = None
    refused = await stage.chat("key", **AT_MOST)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert await standing(stage) == (0, 0)
    stage.control_plane.sums = {KEY: 2 * hold}
    stage.engine.gate = asyncio.Event()
    stage.engine.gate.set()
    answers = await asyncio.gather(*(stage.chat("key", **AT_MOST) for _ in range(20)))
    assert codes(answers)["insufficient_quota"] + codes(answers)[200] == 20
    # Lost, and put in again from the ledger: which says that nothing is left.
    await stage.until(lambda: settled(stage))
    await stage.redis.flushall()
    stage.control_plane.sums = {KEY: 3 * hold}
    assert codes([await stage.chat("key", **AT_MOST)]) == {"insufficient_quota": 1}


async def test_a_soft_budget_refuses_nobody_and_is_booked_once_it_is_counted(platform: Platform) -> None:
    stage = await platform(**BOUNDS)
    stage.admit("key", budgets=(budget(1, hard=False),))
    assert (await paid(stage, "key")).status_code == 200
    assert stage.control_plane.counted == []
    assert await stage.redis.hgetall(KEY) == {b"held": b"0"}
    await stage.redis.hset(KEY, "spent", 5)
    assert (await paid(stage, "key")).status_code == 200
    assert await standing(stage) == (5 + (await stage.stored())[-1].cost_micro, 0)


async def test_a_call_without_a_maximum_is_given_one_under_a_hard_budget_alone(platform: Platform) -> None:
    stage = await platform(**BOUNDS)
    stage.admit("hard", budgets=(budget(10**9),))
    stage.admit("soft", api_key_id="key_b", budgets=(budget(10**9, hard=False),))
    for key in ("hard", "soft"):
        assert (await stage.chat(key)).status_code == 200
    bodies = [body for _, _, body in stage.engine.requests]
    assert [body.get("max_completion_tokens") for body in bodies] == [100, None]


async def test_an_agents_inner_calls_count_against_budgets_and_not_against_rates(platform: Platform) -> None:
    stage = await platform(**BOUNDS)
    hold = await hold_of_a_call(stage)
    who = Principal(
        organisation_id="org_a",
        project_id="prj_a",
        api_key_id="key_a",
        key_limits={"requests_per_minute": 1, "concurrent_requests": 1, "tokens_per_minute": 1},
        budgets=(budget(hold),),
    )
    inner = {
        CLUSTER_SECRET_HEADER: "cluster-secret",
        PRINCIPAL_HEADER: who.to_header(),
        PARENT_REQUEST_HEADER: "req_outer",
    }
    answers = [await stage.chat(headers=inner, **AT_MOST) for _ in range(2)]
    assert codes(answers) == {200: 1, "insufficient_quota": 1}
    assert "x-ratelimit-limit-requests" not in answers[0].headers


async def test_an_agent_passes_on_that_a_budget_is_spent(platform: Platform) -> None:
    stage = await platform()
    error = {"message": "No more.", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}
    stage.agents.script = Script(status=429, error=httpx.Response(200, json={"error": error}).content)
    answer = await stage.chat(model="agent/handbook")
    assert (answer.status_code, answer.json()) == (429, {"error": error})


async def test_tokens_a_minute_are_reserved_and_settled_to_what_was_true(platform: Platform) -> None:
    stage = await platform(**BOUNDS)
    stage.admit("key", project_limits={"tokens_per_minute": 1_000}, key_limits={"requests_per_minute": 9})
    stage.engine.gate = asyncio.Event()
    first = asyncio.ensure_future(stage.chat("key", max_tokens=900))
    await stage.until(lambda: stage.engine.running)
    refused = await stage.chat("key", max_tokens=900)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "this project: too many tokens a minute" in refused.json()["error"]["message"]
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 0 < int(refused.headers["x-ratelimit-remaining-tokens"]) < 100
    stage.engine.gate.set()
    answer = await first
    assert answer.headers["x-ratelimit-limit-requests"] == "9"
    await stage.until(lambda: settled(stage))
    # Five tokens were used: what else was reserved has come back.
    again = await stage.chat("key", max_tokens=900)
    assert again.status_code == 200
    assert 1_000 - 5 - 930 <= int(again.headers["x-ratelimit-remaining-tokens"]) <= 100


async def test_a_call_larger_than_a_minutes_tokens_takes_them_all_and_owes_the_rest(platform: Platform) -> None:
    stage = await platform()
    stage.engine.script = Script(chunks=40)
    stage.admit("key", key_limits={"tokens_per_minute": 20})
    answer = await stage.chat("key", max_tokens=4_000)
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-tokens"]) == (200, "0")
    await stage.until(lambda: settled(stage))
    refused = await stage.chat("key", max_tokens=1)
    # 41 tokens at 20 a minute: two minutes and a little.
    assert 120 <= int(refused.headers["retry-after"]) <= 180


async def test_without_redis_a_hard_budget_refuses_and_others_pass_under_a_local_limit(platform: Platform) -> None:
    stage = await platform(redis="unix:///nowhere.sock", redis_away={"requests_per_minute": 3})
    stage.admit("hard", budgets=(budget(10**9),))
    stage.admit("soft", api_key_id="key_b", budgets=(budget(0, hard=False),))
    refused = await stage.chat("hard")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert refused.headers["retry-after"] == "1"
    answers = [await stage.chat("soft") for _ in range(4)]
    assert codes(answers) == {200: 3, "rate_limit_exceeded": 1}
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert (await stage.chat("good")).status_code == 200


async def test_without_redis_a_hard_budget_passes_where_it_is_configured_so(platform: Platform) -> None:
    policy = {"hard_budgets": "pass", "requests_per_minute": None}
    stage = await platform(redis="unix:///nowhere.sock", redis_away=policy)
    stage.admit("hard", budgets=(budget(0),))
    assert codes([await stage.chat("hard") for _ in range(5)]) == {200: 5}


async def test_what_redis_admitted_without_saying_so_is_voided_when_it_is_back(
    platform: Platform, start_redis: Callable[[], Any]
) -> None:
    """Redis hangs while it has the admission: the caller is refused, and no hold stays when Redis goes on."""
    server = start_redis()
    stage = await platform(redis=server.url, redis_seconds_max=0.2, **BOUNDS)
    stage.admit("hard", budgets=(budget(10**9),))
    await paid(stage, "hard")
    spent, _ = await standing(stage)
    await stage.redis.execute_command("CLIENT", "PAUSE", "600", "ALL")
    refused = await stage.chat("hard", **AT_MOST)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")

    async def voided() -> bool:
        return not stage.gateway._meter.spool_bytes and await settled(stage)

    await stage.until(voided)
    assert await standing(stage) == (spent, 0)
    assert len(await stage.stored()) == 1
