"""Budgets: who may set them, what they have come to, and how Redis learns it without missing or doubling a call."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import redis.asyncio
from fastapi import FastAPI

from control_plane.app import create_app
from control_plane.budgets.counting import Counting
from control_plane.config import ControlPlaneConfig
from control_plane.database import begin
from control_plane.usage import repository
from control_plane.usage.consumer import Consumer
from control_plane.usage.reaper import Reaper
from control_plane.usage.stream import UsageStream
from models.budgets import SETTLE_HOLD, budget_key, day_of
from models.channels import INVALIDATIONS, OPEN_CALLS, OPEN_HOLDS, USAGE_STREAM
from models.identity import Principal
from models.usage import TokenUsage, UsageEvent

DAY_MS = 86_400_000
NOW_MS = round(time.time() * 1_000)
# As ``serve/lua/settle.lua`` does it: the event and its booking in one step.
SETTLE = (
    SETTLE_HOLD
    + "redis.call('XADD', KEYS[1], '*', 'event', ARGV[1])"
    + ("settle_hold(ARGV[2], false, tonumber(ARGV[3]), 0, ARGV[4], 0)")
)


def event(name: str, tenant: Any, **changes: Any) -> UsageEvent:
    fields = {
        "event_id": name,
        "request_id": f"req-{name}",
        "organisation_id": tenant.id,
        "project_id": tenant.project_id,
        "api_key_id": tenant.key_id,
        "kind": "chat",
        "model": "m",
        "upstream": "engine",
        "status": "ok",
        "http_status": 200,
        "streamed": True,
        "usage": TokenUsage(prompt=10),
        "source": "provider",
        "cost_micro": 7,
        "started_at_ms": NOW_MS,
        "duration_ms": 340,
    }
    return UsageEvent.model_validate(fields | changes)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2, decode_responses=True) as client:
        yield client


@pytest.fixture
def counting(app: FastAPI) -> Counting:
    context = app.state.context
    return Counting(context.redis, context.sessions, 30.0)


async def record(app: FastAPI, *events: UsageEvent) -> None:
    async with begin(app.state.context.sessions) as transaction:
        await repository.record(transaction.session, events)


async def new_budget(tenant: Any, **changes: Any) -> dict[str, Any]:
    return await tenant.make("/budgets", {"scope": "organisation", "period": "total", "limit_micro": 1_000, **changes})


async def show(tenant: Any, budget: dict[str, Any]) -> dict[str, Any]:
    answer = await tenant.client.get(tenant.path(f"/budgets/{budget['id']}"))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_budget_is_made_changed_and_deleted_and_gateways_are_told(acme, client) -> None:
    async with client.pubsub() as heard:
        await heard.subscribe(INVALIDATIONS)
        made = await new_budget(acme, scope="project", target_id=acme.project_id, period="month")
        assert (made["spent_micro"], made["held_micro"], made["reached_at"]) == (0, 0, None)
        assert (made["window"], made["hard"], made["set_by"]) == (day_of(NOW_MS)[:7], True, "organisation")
        changed = await acme.client.patch(acme.path(f"/budgets/{made['id']}"), json={"limit_micro": 5})
        assert changed.json() == {**made, "limit_micro": 5}
        listed = (await acme.client.get(acme.path("/budgets"))).json()
        assert listed["data"] == [changed.json()]
        gone = await acme.client.delete(acme.path(f"/budgets/{made['id']}"))
        assert gone.json() == {"object": "budget.deleted", "id": made["id"], "deleted": True}
        assert (await acme.client.get(acme.path(f"/budgets/{made['id']}"))).status_code == 404
        told = [await heard.get_message(ignore_subscribe_messages=True, timeout=5) for _ in range(4)]
        assert [message["data"] for message in told if message] == [f"organisation:{acme.id}"] * 3


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"scope": "project"}, 400, None),
        ({"target_id": "proj_x"}, 400, None),
        ({"scope": "project", "target_id": "proj_x"}, 400, "target_id"),
        ({"period": "week"}, 400, "period"),
        ({"limit_micro": -1}, 400, "limit_micro"),
        ({"limit_micro": 10**15 + 1}, 400, "limit_micro"),
        ({}, 409, "period"),
    ],
)
async def test_a_budget_that_cannot_be_is_refused(acme, changes, status: int, param: str | None) -> None:
    await new_budget(acme)
    body = {"scope": "organisation", "period": "total", "limit_micro": 1_000, **changes}
    answer = await acme.client.post(acme.path("/budgets"), json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_what_the_operator_sets_is_not_the_organisations_to_change(acme, operator) -> None:
    body = {"scope": "organisation", "period": "total", "limit_micro": 9}
    made = (await operator.post(acme.path("/budgets"), json=body)).json()
    assert made["set_by"] == "operator"
    path = acme.path(f"/budgets/{made['id']}")
    for refused in (await acme.client.patch(path, json={"limit_micro": 10}), await acme.client.delete(path)):
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert (await operator.patch(path, json={"limit_micro": 10})).json()["limit_micro"] == 10


async def test_a_principal_bears_the_budgets_and_limits_of_all_its_scopes(acme, internal) -> None:
    user = await acme.make("/users", {"email": "a@b.example", "name": "A", "limits": {"tokens_per_minute": 9}})
    other = await acme.make("/projects", {"name": "Other"})
    made = {"name": "k", "project_id": acme.project_id, "user_id": user["id"], "limits": {"tokens_per_minute": 5}}
    key = await acme.make("/api-keys", made)
    wanted = [
        await new_budget(acme),
        await new_budget(acme, scope="project", target_id=acme.project_id, hard=False),
        await new_budget(acme, scope="user", target_id=user["id"], period="day"),
        await new_budget(acme, scope="api_key", target_id=key["id"]),
    ]
    await new_budget(acme, scope="project", target_id=other["id"])
    await new_budget(acme, scope="api_key", target_id=acme.key_id)
    answer = await internal.post("/internal/authenticate", json={"api_key": key["key"]})
    principal = Principal.model_validate(answer.json())
    assert [budget.id for budget in principal.budgets] == [budget["id"] for budget in wanted]
    assert [budget.hard for budget in principal.budgets] == [True, False, True, True]
    assert (principal.user_limits.tokens_per_minute, principal.key_limits.tokens_per_minute) == (9, 5)


async def test_the_ledger_is_summed_by_scope_and_period(app: FastAPI, acme, counting, client) -> None:
    user = await acme.make("/users", {"email": "a@b.example", "name": "A"})
    key = await acme.make("/api-keys", {"name": "k", "project_id": acme.project_id, "user_id": user["id"]})
    project = await acme.make("/projects", {"name": "Other"})
    await record(
        app,
        event("now", acme, cost_micro=1, api_key_id=key["id"]),
        event("elsewhere", acme, cost_micro=10, project_id=project["id"]),
        event("before", acme, cost_micro=100, started_at_ms=NOW_MS - 70 * DAY_MS),
    )
    sums = {}
    for scope, target in (("organisation", None), ("project", project["id"]), ("user", user["id"])):
        for period in ("day", "month", "total"):
            budget = await new_budget(acme, scope=scope, target_id=target, period=period)
            assert (await show(acme, budget))["spent_micro"] == budget["spent_micro"]
            sums[scope, period] = budget["spent_micro"]
    assert sums == {
        ("organisation", "day"): 11,
        ("organisation", "month"): 11,
        ("organisation", "total"): 111,
        ("project", "day"): 10,
        ("project", "month"): 10,
        ("project", "total"): 10,
        ("user", "day"): 1,
        ("user", "month"): 1,
        ("user", "total"): 1,
    }
    assert await counting.look() == len(sums)
    spent = sorted([int(await client.hget(name, "spent")) for name in await client.keys("objecta:budget:*")])
    assert spent == sorted(sums.values())


async def test_a_window_that_redis_lost_is_counted_when_a_gateway_asks(
    app: FastAPI, acme, internal: httpx.AsyncClient, client
) -> None:
    budget = await new_budget(acme, period="day")
    await record(app, event("e1", acme, cost_micro=40))
    key = budget_key(budget["id"], day_of(NOW_MS))
    for _ in range(2):
        answer = await internal.post("/internal/budgets/counts", json={"keys": [key]})
        assert answer.status_code == 204, answer.text
        assert (await client.hgetall(key)) == {"spent": "40"}
        assert 0 < await client.ttl(key) <= 8 * 86_400
        await client.flushall()
    assert (await show(acme, budget))["spent_micro"] == 40


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("objecta:budget:bud_none:total", 404),
        ("objecta:budget:bud_none:2026-13", 400),
        ("objecta:budget:bud_none:20261124", 400),
        ("objecta:usage", 400),
    ],
)
async def test_what_is_no_budgets_window_is_not_counted(internal, key: str, status: int) -> None:
    assert (await internal.post("/internal/budgets/counts", json={"keys": [key]})).status_code == status


async def test_no_count_while_the_ledger_lags_behind(acme, internal, client) -> None:
    budget = await new_budget(acme)
    key = budget_key(budget["id"], "total")
    await client.xadd(USAGE_STREAM, {"event": event("e1", acme).model_dump_json()})
    answer = await internal.post("/internal/budgets/counts", json={"keys": [key]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    # Nobody counts any more, so the next one may begin at once.
    assert await client.hgetall(key) == {}


async def test_counts_under_way_neither_miss_nor_double_what_is_settled_meanwhile(
    app: FastAPI, acme, counting, client
) -> None:
    """Settlements, the ledger's consumer, two counters and a Redis that forgets the sum, all at once."""
    budget = await new_budget(acme)
    key = budget_key(budget["id"], "total")
    hold = json.dumps({"micro": 0, "tokens": 0, "budgets": [key], "rates": []})
    context = app.state.context
    consumer = asyncio.create_task(Consumer(UsageStream(context.redis), context.sessions, 15.0).run())
    done = asyncio.Event()

    async def settle() -> None:
        for number in range(600):
            cost, name = number + 1, f"e{number}"
            text = event(name, acme, cost_micro=cost).model_dump_json()
            await client.eval(SETTLE, 1, USAGE_STREAM, text, hold, cost, name)
            if number % 150 == 75:
                await client.hdel(key, "spent")
        done.set()

    async def count() -> int:
        counts = 0
        while not done.is_set():
            counts += await counting.ensure(budget["id"], "total")
            counts += await counting.look()
        return counts

    async with asyncio.TaskGroup() as group:
        counts = [group.create_task(count()) for _ in range(2)]
        group.create_task(settle())
    assert sum(task.result() for task in counts) >= 2
    # What was booked, and what a last count finds in the ledger, are the same.
    if not await client.hexists(key, "spent"):
        assert await counting.ensure(budget["id"], "total")
    booked = int(await client.hget(key, "spent"))
    assert await counting.look() == 1
    assert booked == int(await client.hget(key, "spent")) == sum(range(601))
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)


async def test_reaching_a_budget_is_told_once_a_period(
    app: FastAPI, acme, counting, caplog: pytest.LogCaptureFixture
) -> None:
    soft = await new_budget(acme, hard=False, limit_micro=10)
    await record(app, event("e1", acme, cost_micro=9))
    await counting.look()
    assert (await show(acme, soft))["reached_at"] is None
    await record(app, event("e2", acme, cost_micro=1))
    for _ in range(3):
        await counting.look()
    assert (await show(acme, soft))["reached_at"] is not None
    assert caplog.text.count("is used up") == 1


async def test_a_lost_calls_hold_ends_and_its_cost_is_booked_once(acme, client, config: ControlPlaneConfig) -> None:
    lost = event("e1", acme, cost_micro=30)
    budget = await new_budget(acme)
    key = budget_key(budget["id"], "total")
    await client.hset(key, mapping={"spent": 5, "held": 100})
    await client.hset(OPEN_CALLS, "e1", f"gone|{lost.model_dump_json()}")
    hold = {"micro": 80, "tokens": 60, "budgets": [key], "rates": [["rate", 60]]}
    await client.hset(OPEN_HOLDS, "e1", json.dumps(hold))
    rate_ms = round(time.time() * 1_000) + 60_000
    await client.set("rate", rate_ms)
    async with redis.asyncio.Redis.from_url(config.redis_url.get_secret_value(), protocol=2) as own:
        moved = await asyncio.gather(*(Reaper(own, config).look() for _ in range(3)))
    assert sum(moved) == 1
    assert await client.hgetall(key) == {"spent": "35", "held": "20"}
    # 60 tokens were reserved, 10 used: 50 s of the minute come back.
    assert float(await client.get("rate")) == rate_ms - 50_000
    assert await client.exists(OPEN_HOLDS, OPEN_CALLS) == 0
    shown = await show(acme, budget)
    assert (shown["spent_micro"], shown["held_micro"]) == (35, 20)


async def test_without_redis_budgets_are_shown_as_far_as_the_ledger_knows(
    config: ControlPlaneConfig, app: FastAPI, acme, start_redis: Callable[[], Any]
) -> None:
    budget = await new_budget(acme)
    await record(app, event("e1", acme, cost_micro=3))
    server = start_redis()
    server.stop()
    lonely = create_app(config.model_copy(update={"redis_url": type(config.redis_url)(server.url)}))
    transport = httpx.ASGITransport(lonely)
    headers = {"authorization": f"Bearer {acme.key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://control-plane", headers=headers) as client:
        shown = (await client.get(acme.path(f"/budgets/{budget['id']}"))).json()
        assert (shown["spent_micro"], shown["held_micro"]) == (3, None)
        assert (await client.delete(acme.path(f"/budgets/{budget['id']}"))).status_code == 200
    await lonely.state.context.redis.aclose()
    await lonely.state.context.engine.dispose()
