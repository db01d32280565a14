"""A project's policy and its kept prompts: who may, what is refused, what expires, what goes with the project."""

import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from control_plane.config import ControlPlaneConfig
from control_plane.database import utc_now
from control_plane.privacy.patterns import check_pattern
from control_plane.privacy.reaper import PromptReaper
from models.identity import Principal

POLICY = {
    "action": "mask_hosted",
    "entities": ["email", "iban"],
    "patterns": [{"name": "customer_number", "pattern": r"\bKD-\d{6}\b"}],
    "phone_regions": ["DE"],
}


def record(tenant: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"prm_{uuid.uuid4().hex}",
        "organisation_id": tenant.id,
        "project_id": tenant.project_id,
        "api_key_id": tenant.key_id,
        "request_id": "req_1",
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "started_at_ms": 1,
        "duration_ms": 2,
        "status": "ok",
        "request": {"messages": [{"role": "user", "content": "hi"}]},
        "answer": {"choices": []},
        **changes,
    }


@pytest.fixture
async def reader(acme: Any) -> Any:
    """The admin's key, which may read kept prompts."""
    await acme.client.patch(acme.path(f"/api-keys/{acme.key_id}"), json={"permissions": ["prompts"]})
    return acme


def project(tenant: Any, rest: str, project_id: str | None = None) -> str:
    return tenant.path(f"/projects/{project_id or tenant.project_id}{rest}")


async def put(tenant: Any, pii: Any = None, keep_days: int | None = None) -> Any:
    answer = await tenant.client.put(project(tenant, "/privacy"), json={"pii": pii, "keep_days": keep_days})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def keep(internal: Any, *records: dict[str, Any]) -> None:
    assert (await internal.post("/internal/prompts", json={"data": records})).status_code == 204


async def listed(tenant: Any, **query: Any) -> list[str]:
    answer = await tenant.client.get(project(tenant, "/prompts"), params=query)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


def execute(config: ControlPlaneConfig, statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        cursor = connection.execute(statement, values)  # pyright: ignore[reportArgumentType, reportCallIssue] - ours
        return cursor.fetchall() if cursor.description else []


async def test_a_project_has_no_policy_until_it_is_given_one_and_its_keys_follow(acme, internal) -> None:
    async def guards() -> Any:
        answer = await internal.post("/internal/authenticate", json={"api_key": acme.key})
        return Principal.model_validate(answer.json()).guards

    bare = (await acme.client.get(project(acme, "/privacy"))).json()
    assert (bare["pii"], bare["keep_days"]) == (None, None)
    assert await guards() is None
    made = await put(acme, POLICY, 30)
    assert made == (await acme.client.get(project(acme, "/privacy"))).json()
    assert made["pii"] == POLICY
    found = await guards()
    assert (found.pii.model_dump(mode="json"), found.keep_prompts) == (POLICY, True)
    await put(acme)
    assert await guards() is None


@pytest.mark.parametrize(
    ("pii", "param"),
    [
        ({**POLICY, "action": "delete"}, "pii.action"),
        ({**POLICY, "entities": ["face"]}, "pii.entities.0"),
        ({"action": "refuse"}, "pii"),
        ({**POLICY, "entities": ["email", "email"]}, "pii"),
        ({**POLICY, "patterns": [{"name": "email", "pattern": "x"}]}, "pii.patterns.0.name"),
        ({**POLICY, "patterns": [{"name": "Bad Name", "pattern": "x"}]}, "pii.patterns.0.name"),
        ({**POLICY, "patterns": [{"name": "slow", "pattern": "(a+)+$"}]}, "pii"),
        ({**POLICY, "phone_regions": ["Germany"]}, "pii.phone_regions.0"),
    ],
)
async def test_a_policy_that_cannot_be_kept_is_refused_by_name(acme, pii: dict[str, Any], param: str) -> None:
    answer = await acme.client.put(project(acme, "/privacy"), json={"pii": pii})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "(?:a*b?)*c", r"([[:alpha:]]+)+", r"(\d{2,})*x", "((a|b)+c)*", "(?:x{1,50}){2,}"),
        *(r"(a)\1", r"(?P<n>a)(?P=n)", "(?>a+)b", "(?R)", "a*", "", "[a", "(?i)abc|"),
    ],
)
def test_patterns_that_a_text_could_make_run_for_ever_or_that_match_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern 'mine'"):
        check_pattern("mine", pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\bKD-\d{6}\b", r"[A-Z]{2}\d+(?:-\d{2}){0,3}", "(?i:secret) [a-z]+", "(?<=ID: )[^]a]+x", r"a\+b\(c"),
        *(r"(?P<year>\d{4})-(?:0[1-9]|1[0-2])", r"[\]+]+z", r"\p{Lu}{3}\d{4}(?!\d)", "(?:ab?c){2,4}d"),
    ],
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    check_pattern("mine", pattern)


async def test_prompts_are_kept_once_listed_read_and_deleted(reader, internal) -> None:
    await put(reader, POLICY, 30)
    first, second = record(reader, id="prm_1"), record(reader, id="prm_2", request_id="req_2")
    await keep(internal, first, second)
    await keep(internal, first)
    assert await listed(reader) == ["prm_2", "prm_1"]
    assert await listed(reader, request_id="req_1") == ["prm_1"]
    assert await listed(reader, limit=1, after="prm_2") == ["prm_1"]
    whole = (await reader.client.get(project(reader, "/prompts/prm_1"))).json()
    assert (whole["request"], whole["answer"]) == (first["request"], first["answer"])
    assert "request" not in (await reader.client.get(project(reader, "/prompts"))).json()["data"][0]
    assert (await reader.client.delete(project(reader, "/prompts/prm_1"))).json()["deleted"] is True
    for method in ("get", "delete"):
        assert (await reader.client.request(method, project(reader, "/prompts/prm_1"))).status_code == 404
    assert (await reader.client.delete(project(reader, "/prompts"))).json()["deleted"] == 1
    assert await listed(reader) == []


async def test_a_key_without_the_permission_reads_no_prompt(acme, internal, operator) -> None:
    await put(acme, None, 1)
    await keep(internal, record(acme, id="prm_1"))
    for method, rest in (("get", ""), ("delete", ""), ("get", "/prm_1"), ("delete", "/prm_1")):
        answer = await acme.client.request(method, project(acme, f"/prompts{rest}"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert (await operator.get(project(acme, "/prompts/prm_1"))).status_code == 200


async def test_another_projects_prompts_are_not_there(reader, internal) -> None:
    await put(reader, None, 1)
    await keep(internal, record(reader, id="prm_1"))
    other = (await reader.make("/projects", {"name": "Other"}))["id"]
    assert (await reader.client.get(project(reader, "/prompts", other))).json()["data"] == []
    assert (await reader.client.delete(project(reader, "/prompts", other))).json()["deleted"] == 0
    for method in ("get", "delete"):
        assert (await reader.client.request(method, project(reader, "/prompts/prm_1", other))).status_code == 404
    assert await listed(reader) == ["prm_1"]


async def test_what_a_project_does_not_want_kept_is_not_kept(reader, rival, internal, config) -> None:
    await put(reader, None, 1)
    await keep(internal, record(reader), record(rival), record(reader, organisation_id=rival.id))
    assert execute(config, "SELECT project_id FROM kept_prompts") == [(reader.project_id,)]
    await put(reader, POLICY, None)
    await keep(internal, record(reader))
    assert len(execute(config, "SELECT id FROM kept_prompts")) == 1


async def test_what_expired_is_seen_no_more_and_erased(reader, internal, app, config) -> None:
    await put(reader, None, 30)
    await keep(internal, record(reader, id="prm_1"), record(reader, id="prm_2"))
    execute(config, "UPDATE kept_prompts SET expires_at = %s WHERE id = 'prm_1'", utc_now() - timedelta(seconds=1))
    assert await listed(reader) == ["prm_2"]
    assert (await reader.client.get(project(reader, "/prompts/prm_1"))).status_code == 404
    reaper = PromptReaper(app.state.context.sessions, config)
    assert [await reaper.look(), await reaper.look()] == [1, 0]
    assert execute(config, "SELECT id FROM kept_prompts") == [("prm_2",)]


async def test_fewer_days_hold_for_what_is_kept_already_and_more_do_not(reader, internal, config) -> None:
    await put(reader, None, 30)
    await keep(internal, record(reader))
    days = "SELECT round(extract(epoch FROM expires_at - created_at) / 86400)::int FROM kept_prompts"
    for keep_days, expected in ((7, 7), (90, 7), (None, 7)):
        await put(reader, None, keep_days)
        assert execute(config, days) == [(expected,)]


@pytest.mark.parametrize("whole_organisation", [False, True])
async def test_prompts_are_erased_with_their_project(
    reader, operator, internal, app, config, *, whole_organisation: bool
) -> None:
    await put(reader, None, 30)
    await keep(internal, record(reader))
    path = reader.path() if whole_organisation else project(reader, "")
    assert (await operator.patch(path, json={"archived": True})).status_code == 200
    await keep(internal, record(reader)) if not whole_organisation else None
    assert await PromptReaper(app.state.context.sessions, config).look() == 1
    assert execute(config, "SELECT id FROM kept_prompts") == []
