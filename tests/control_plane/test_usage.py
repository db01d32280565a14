"""The ledger as a tenant reads it: single events and sums from the daily roll-up."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI

from control_plane.database import begin
from control_plane.usage import repository
from control_plane.usage.schemas import Sums
from models.usage import TokenUsage, UsageEvent

NOVEMBER_1 = 1_793_491_200_000  # 2026-11-01T00:00:00Z
DAY = 86_400_000

Record = Callable[..., Awaitable[int]]


def event(name: str, tenant: Any, **changes: Any) -> UsageEvent:
    fields = {
        "event_id": name,
        "request_id": f"req-{name}",
        "organisation_id": tenant.id,
        "project_id": tenant.project_id,
        "api_key_id": tenant.key_id,
        "kind": "chat",
        "model": "smollm2-135m-instruct",
        "upstream": "engine",
        "status": "ok",
        "http_status": 200,
        "streamed": True,
        "usage": TokenUsage(prompt=10, cached=2, completion=5, reasoning=1, cache_write=3, audio_prompt=4),
        "source": "provider",
        "cost_micro": 7,
        "price_since": "2026-01-01",
        "started_at_ms": NOVEMBER_1,
        "first_token_ms": 12,
        "duration_ms": 340,
    }
    return UsageEvent.model_validate(fields | changes)


@pytest.fixture
def record(app: FastAPI) -> Record:
    async def write(*events: UsageEvent) -> int:
        async with begin(app.state.context.sessions) as transaction:
            return await repository.record(transaction.session, events)

    return write


async def summary(tenant: Any, **query: str) -> dict[str, Any]:
    answer = await tenant.client.get(tenant.path("/usage"), params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sums(**changes: int) -> dict[str, int]:
    nothing = dict.fromkeys(Sums.model_fields, 0)
    return nothing | changes


async def test_an_event_is_shown_as_it_was_metered(acme, record: Record) -> None:
    written = event("e1", acme, parent_request_id="req-parent")
    assert await record(written) == 1
    (shown,) = (await acme.client.get(acme.path("/usage/events"))).json()["data"]
    assert shown.pop("object") == "usage.event"
    assert shown.pop("received_at") > NOVEMBER_1 / 1_000
    assert UsageEvent.model_validate(shown) == written


async def test_an_event_counts_once_however_often_it_comes(acme, record: Record) -> None:
    one = event("e1", acme)
    assert await record(one, one) == 1
    assert await record(one, event("e2", acme)) == 1
    assert await record() == 0
    wanted = sums(calls=2, prompt_tokens=20, cached_tokens=4, completion_tokens=10, reasoning_tokens=2, cost_micro=14)
    assert (await summary(acme))["total"] == wanted | {"cache_write_tokens": 6, "audio_prompt_tokens": 8}


async def test_a_stored_answer_costs_what_it_costs_and_takes_no_tokens(acme, record: Record) -> None:
    await record(event("e1", acme, from_cache=True), event("e2", acme))
    wanted = {"calls": 2, "cached_calls": 1, "prompt_tokens": 10, "cost_micro": 14}
    total = (await summary(acme))["total"]
    assert total | wanted == total


async def test_tokens_of_an_agents_call_are_those_of_its_inner_calls(acme, record: Record) -> None:
    outer = event("e1", acme, kind="agent", model="agent/handbook", cost_micro=0)
    inner = event("e2", acme, parent_request_id="req-e1")
    await record(outer, inner)
    found = await summary(acme, group_by="model")
    assert found["total"] | {"calls": 2, "agent_calls": 1} == found["total"]
    assert (found["total"]["prompt_tokens"], found["total"]["cost_micro"]) == (10, 7)
    assert {row["key"]: row["prompt_tokens"] for row in found["data"]} == {
        "agent/handbook": 0,
        "smollm2-135m-instruct": 10,
    }


@pytest.mark.parametrize(
    ("group_by", "keys"),
    [
        ("model", ["b", "a"]),
        ("day", ["2026-11-02", "2026-11-01"]),
        ("project", ["proj_2", "proj_1"]),
        ("api_key", ["key_2", "key_1"]),
    ],
)
async def test_sums_are_grouped_and_paged(acme, record: Record, group_by: str, keys: list[str]) -> None:
    await record(
        event("e1", acme, model="a", project_id="proj_1", api_key_id="key_1"),
        event("e2", acme, model="b", project_id="proj_2", api_key_id="key_2", started_at_ms=NOVEMBER_1 + DAY),
        event("e3", acme, model="b", project_id="proj_2", api_key_id="key_2", started_at_ms=NOVEMBER_1 + DAY),
    )
    found = await summary(acme, group_by=group_by)
    assert [(row["key"], row["calls"]) for row in found["data"]] == list(zip(keys, (2, 1), strict=True))
    assert found["total"]["calls"] == 3
    first = await summary(acme, group_by=group_by, limit="1")
    assert (first["data"][0]["key"], first["has_more"], first["last_id"]) == (keys[0], True, keys[0])
    second = await summary(acme, group_by=group_by, limit="1", after=keys[0])
    assert ([row["key"] for row in second["data"]], second["has_more"]) == (keys[1:], False)


async def test_days_are_utc_and_both_ends_count(acme, record: Record) -> None:
    for number in range(4):
        last_moment = NOVEMBER_1 + number * DAY + DAY - 1
        await record(event(f"e{number}", acme, started_at_ms=last_moment))
    found = await summary(acme, since="2026-11-02", until="2026-11-03", group_by="day")
    assert [row["key"] for row in found["data"]] == ["2026-11-03", "2026-11-02"]
    assert (found["since"], found["until"], found["total"]["calls"]) == ("2026-11-02", "2026-11-03", 2)
    assert (await summary(acme, since="2026-11-04"))["total"]["calls"] == 1
    assert (await summary(acme, until="2026-11-01"))["total"]["calls"] == 1


async def test_without_calls_all_sums_are_nought(acme) -> None:
    found = await summary(acme)
    assert (found["data"], found["first_id"], found["has_more"], found["total"]) == ([], None, False, sums())


async def test_calls_that_did_not_end_well_are_counted_apart(acme, record: Record) -> None:
    statuses = ("ok", "error", "client_gone", "upstream_lost", "gateway_lost")
    await record(*(event(status, acme, status=status) for status in statuses))
    assert (await summary(acme))["total"]["failed_calls"] == 4


async def test_a_request_is_found_with_the_calls_made_on_its_behalf(acme, record: Record) -> None:
    await record(event("e1", acme, kind="agent", model="agent/handbook"))
    await record(event("e2", acme, parent_request_id="req-e1"))
    await record(event("e3", acme))
    page = (await acme.client.get(acme.path("/usage/events"), params={"request_id": "req-e1"})).json()
    assert [row["event_id"] for row in page["data"]] == ["e2", "e1"]


async def test_events_are_paged_by_the_order_of_their_arrival(acme, record: Record) -> None:
    for name in ("z", "a", "m"):
        await record(event(name, acme))
    place = acme.path("/usage/events")
    first = (await acme.client.get(place, params={"limit": 2})).json()
    assert ([row["event_id"] for row in first["data"]], first["has_more"]) == (["m", "a"], True)
    rest = (await acme.client.get(place, params={"after": first["last_id"]})).json()
    assert ([row["event_id"] for row in rest["data"]], rest["has_more"]) == (["z"], False)


async def test_one_organisation_sees_nothing_of_anothers_usage(acme, rival, record: Record) -> None:
    await record(event("e1", acme), event("e2", rival, request_id="req-e1"))
    assert (await summary(rival))["total"]["calls"] == 1
    page = (await rival.client.get(rival.path("/usage/events"), params={"request_id": "req-e1"})).json()
    assert [row["event_id"] for row in page["data"]] == ["e2"]
    foreign = await rival.client.get(rival.path("/usage/events"), params={"after": "e1"})
    assert (foreign.status_code, foreign.json()["error"]["param"]) == (400, "after")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("since=yesterday", "since"),
        ("until=2026-13-01", "until"),
        ("since=2026-11-02&until=2026-11-01", "since"),
        ("group_by=user", "group_by"),
        ("limit=1000", "limit"),
    ],
)
async def test_a_bad_query_is_refused_by_field(acme, query: str, param: str) -> None:
    answer = await acme.client.get(acme.path(f"/usage?{query}"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
