"""No key of one organisation reaches another one: every route of the OpenAPI description that has an organisation.

Two walks. ``path``: the rival's admin names our organisation. ``nested``: it names its own organisation and our ids
below it. Both must look as if nothing were there, and nothing of ours may change.
"""

import re
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI

from control_plane.app import API_PREFIX, create_app
from control_plane.config import ControlPlaneConfig

SPEC = {"instructions": "Answer.", "model": "smollm2-135m-instruct"}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("patch", ""): {"name": "Taken over"},
    ("post", "/projects"): {"name": "Theirs"},
    ("patch", "/projects/{project_id}"): {"name": "Theirs", "archived": True},
    ("post", "/users"): {"email": "eve@rival.example", "name": "Eve"},
    ("patch", "/users/{user_id}"): {"archived": True},
    ("post", "/api-keys"): {"name": "Theirs", "project_id": "{project_id}"},
    ("patch", "/api-keys/{api_key_id}"): {"name": "Theirs", "allowed_models": None},
    ("post", "/budgets"): {"scope": "project", "target_id": "{project_id}", "period": "day", "limit_micro": 1},
    ("patch", "/budgets/{budget_id}"): {"limit_micro": 2},
    ("post", "/credentials"): {"upstream": "openai", "api_key": "sk-theirs-1234", "project_id": "{project_id}"},
    ("patch", "/credentials/{credential_id}"): {"api_key": "sk-theirs-5678"},
    ("put", "/projects/{project_id}/privacy"): {"keep_days": 9},
    ("post", "/agents"): {"slug": "theirs", "name": "Theirs"},
    ("post", "/agents/{agent_id}/versions"): SPEC,
    ("post", "/agents/{agent_id}/publish"): {"version": 1},
    ("post", "/knowledge-bases"): {"name": "theirs", "embedding_model": "all-minilm-l6-v2"},
    ("post", "/knowledge-bases/{knowledge_base_id}/ingestions"): {"path": "{path}"},
}
QUERIES = {"/usage/upstreams": {"since": "2026-01-01", "until": "2026-12-31"}}
"""What a route cannot do without."""
PROMPT = {
    **dict.fromkeys(("id", "api_key_id", "request_id", "endpoint", "model"), "prm_ours"),
    "started_at_ms": 0,
    "duration_ms": 0,
    "status": "ok",
    "request": {},
    "answer": None,
}
WITHOUT_BODY = {
    ("delete", "/api-keys/{api_key_id}"),
    ("delete", "/budgets/{budget_id}"),
    ("delete", "/credentials/{credential_id}"),
    ("delete", "/projects/{project_id}/prompts"),
    ("delete", "/projects/{project_id}/prompts/{prompt_id}"),
    ("post", "/agents/{agent_id}/withdraw"),
    ("post", "/knowledge-bases/{knowledge_base_id}/ingestions/{ingestion_id}/cancel"),
}
ORGANISATION = API_PREFIX + "/organisations/{organisation_id}"


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path below the organisation) of every route that has an organisation."""
    described = app.openapi()["paths"]
    return [
        (method, path.removeprefix(ORGANISATION))
        for path, methods in described.items()
        if path.startswith(ORGANISATION)
        for method in methods
    ]


@pytest.fixture
async def ours(acme, internal, config: ControlPlaneConfig) -> dict[str, str]:
    """One of everything, by the name of its path parameter."""
    project = await acme.make("/projects", {"name": "Support"})
    user = await acme.make("/users", {"email": "ada@acme.example", "name": "Ada"})
    key = await acme.make("/api-keys", {"name": "app", "project_id": project["id"], "user_id": user["id"]})
    base = await acme.make("/knowledge-bases", {"name": "docs", "embedding_model": "all-minilm-l6-v2"})
    budget = await acme.make("/budgets", {"scope": "organisation", "period": "month", "limit_micro": 5})
    credential = await acme.make("/credentials", {"upstream": "openai", "api_key": "sk-ours-12345678"})
    await acme.client.patch(acme.path(f"/api-keys/{acme.key_id}"), json={"permissions": ["prompts"]})
    await acme.client.put(acme.path(f"/projects/{project['id']}/privacy"), json={"keep_days": 1})
    prompt = {**PROMPT, "organisation_id": acme.id, "project_id": project["id"]}
    await internal.post("/internal/prompts", json={"data": [prompt]})
    path = str(config.ingestion_roots[0])
    ingestion = await acme.make(f"/knowledge-bases/{base['id']}/ingestions", {"path": path}, status=202)
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    await acme.make(f"/agents/{agent['id']}/versions", {**SPEC, "knowledge_base_id": base["id"]})
    await acme.make(f"/agents/{agent['id']}/publish", {"version": 1}, status=200)
    return {
        "project_id": project["id"],
        "user_id": user["id"],
        "api_key_id": key["id"],
        "knowledge_base_id": base["id"],
        "ingestion_id": ingestion["id"],
        "agent_id": agent["id"],
        "budget_id": budget["id"],
        "credential_id": credential["id"],
        "prompt_id": PROMPT["id"],
        "version": "1",
        "path": path,
    }


def contents(config: ControlPlaneConfig) -> dict[str, list[Any]]:
    """Every row of every table."""
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
        return {
            name: connection.execute(
                psycopg.sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(psycopg.sql.Identifier(name))
            ).fetchall()
            for (name,) in names
        }


def filled(template: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], template)


def body_of(method: str, path: str, values: dict[str, str]) -> dict[str, Any] | None:
    body = BODIES.get((method, path))
    if body is None:
        return None
    return {name: filled(value, values) if isinstance(value, str) else value for name, value in body.items()}


def test_the_walk_knows_a_body_for_every_route_that_changes_something(app: FastAPI) -> None:
    changing = {(method, path) for method, path in routes(app) if method != "get"}
    assert changing == set(BODIES) | WITHOUT_BODY


def test_every_route_that_names_a_tenants_thing_names_its_organisation(app: FastAPI) -> None:
    strays = [path for path in app.openapi()["paths"] if "{" in path and not path.startswith(ORGANISATION)]
    assert strays == []


async def test_the_walk_reaches_every_route_with_the_right_key(app: FastAPI, acme, ours: dict[str, str]) -> None:
    """Else the two walks below could pass for a wrong reason. Revoking and archiving come last."""
    answers = {}
    last = {"patch": 1, "delete": 2}
    for method, path in sorted(routes(app), key=lambda route: (last.get(route[0], 0), route)):
        body, query = body_of(method, path, ours), QUERIES.get(path)
        answer = await acme.client.request(method, acme.path(filled(path, ours)), json=body, params=query)
        answers[method, path] = answer.status_code
    # An ingestion runs already, and this order makes the project's name the same twice.
    busy = {("post", "/knowledge-bases/{knowledge_base_id}/ingestions"): 409, ("patch", "/projects/{project_id}"): 409}
    # By then all prompts are erased.
    busy["delete", "/projects/{project_id}/prompts/{prompt_id}"] = 404
    assert {route: status for route, status in answers.items() if status >= 400} == busy


async def test_naming_another_organisation_finds_nothing_and_changes_nothing(
    app: FastAPI, acme, rival, ours: dict[str, str], config: ControlPlaneConfig
) -> None:
    before = contents(config)
    for method, path in routes(app):
        body, query = body_of(method, path, ours), QUERIES.get(path)
        theirs = await rival.client.request(method, acme.path(filled(path, ours)), json=body, params=query)
        absent = f"{API_PREFIX}/organisations/org_none{filled(path, ours)}"
        nobodys = await rival.client.request(method, absent, json=body, params=query)
        assert (theirs.status_code, theirs.json()) == (404, nobodys.json()), (method, path)
    assert contents(config) == before


async def test_naming_another_organisations_things_below_ones_own_finds_nothing_and_changes_nothing(
    app: FastAPI, rival, ours: dict[str, str], config: ControlPlaneConfig
) -> None:
    before = contents(config)
    nested = [(method, path) for method, path in routes(app) if "{" in path]
    assert len(nested) > 15
    absent = {name: value if name == "version" else f"{name}_none" for name, value in ours.items()} | {
        "path": ours["path"]
    }
    for method, path in nested:
        body = body_of(method, path, ours)
        answer = await rival.client.request(method, rival.path(filled(path, ours)), json=body)
        nobodys = await rival.client.request(method, rival.path(filled(path, absent)), json=body)
        assert (answer.status_code, answer.json()) == (404, nobodys.json()), (method, path)
    assert contents(config) == before


async def test_another_organisations_ids_in_a_body_are_unknown(rival, ours: dict[str, str], config) -> None:
    before = contents(config)
    for body in (
        {"name": "x", "project_id": ours["project_id"]},
        {"name": "x", "project_id": rival.project_id, "user_id": ours["user_id"]},
    ):
        assert (await rival.client.post(rival.path("/api-keys"), json=body)).status_code == 400
    assert contents(config) == before
    agent = await rival.make("/agents", {"slug": "spy", "name": "Spy"})
    spec = {**SPEC, "knowledge_base_id": ours["knowledge_base_id"]}
    assert (await rival.client.post(rival.path(f"/agents/{agent['id']}/versions"), json=spec)).status_code == 400


async def test_lists_hold_ones_own_alone(app: FastAPI, acme, rival, ours: dict[str, str]) -> None:
    lists = [path for method, path in routes(app) if method == "get" and "{" not in path and path]
    assert len(lists) >= 7
    for path in lists:
        query = QUERIES.get(path, {})
        text = (await rival.client.get(rival.path(path), params=query)).text
        assert not [value for name, value in ours.items() if value in text and name not in {"version", "path"}], path
        assert acme.id not in text
        after = await rival.client.get(rival.path(path), params={**query, "after": ours["project_id"]})
        assert acme.id not in after.text


@pytest.mark.parametrize("key", [None, "sk-obj-0123456789abcdef-" + "0" * 48])
async def test_without_a_key_every_route_is_closed(app: FastAPI, anonymous, acme, ours, key: str | None) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    for method, path in routes(app):
        body = body_of(method, path, ours)
        answer = await anonymous.request(method, acme.path(filled(path, ours)), json=body, headers=headers)
        assert answer.status_code == 401, (method, path)


def test_internal_routes_are_not_described(config: ControlPlaneConfig) -> None:
    assert not [path for path in create_app(config).openapi()["paths"] if path.startswith("/internal")]
