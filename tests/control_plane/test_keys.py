"""API keys: shown once, stored as a digest, authenticated for gateways, revoked at once."""

import time

import httpx
import psycopg
import pytest
import redis.asyncio
from fastapi import FastAPI
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.keys import secrets
from models.channels import INVALIDATIONS
from models.identity import Limits, Principal


async def authenticate(internal: httpx.AsyncClient, key: str) -> httpx.Response:
    return await internal.post("/internal/authenticate", json={"api_key": key})


async def principal_of(internal: httpx.AsyncClient, key: str) -> Principal:
    answer = await authenticate(internal, key)
    assert answer.status_code == 200, answer.text
    return Principal.model_validate(answer.json())


async def assert_refused(internal: httpx.AsyncClient, key: str) -> None:
    answer = await authenticate(internal, key)
    assert answer.status_code == 401
    assert answer.json()["error"] == {
        "message": "The API key is not valid.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


async def test_a_new_organisations_admin_key_authenticates(acme, internal) -> None:
    principal = await principal_of(internal, acme.key)
    assert (principal.organisation_id, principal.project_id, principal.role) == (acme.id, acme.project_id, "admin")
    assert principal.api_key_id == acme.key_id


async def test_a_principal_carries_all_that_the_gateway_needs(acme, internal, operator) -> None:
    project = await acme.make("/projects", {"name": "Support", "limits": {"requests_per_minute": 60}})
    user = await acme.make("/users", {"email": "Ada@Acme.example", "name": "Ada"})
    expires = int(time.time()) + 3_600
    await operator.patch(acme.path(), json={"limits": {"concurrent_requests": 8, "weight": 5}})
    made = await acme.make(
        "/api-keys",
        {
            "name": "app",
            "project_id": project["id"],
            "user_id": user["id"],
            "expires_at": expires,
            "allowed_models": ["smollm2-135m-instruct", "agent/handbook"],
            "limits": {"requests_per_minute": 5},
        },
    )
    assert await principal_of(internal, made["key"]) == Principal(
        organisation_id=acme.id,
        project_id=project["id"],
        api_key_id=made["id"],
        user_id=user["id"],
        role="member",
        expires_at=expires,
        allowed_models=("smollm2-135m-instruct", "agent/handbook"),
        organisation_limits=Limits(concurrent_requests=8, weight=5),
        project_limits=Limits(requests_per_minute=60),
        key_limits=Limits(requests_per_minute=5),
    )


async def test_a_key_is_shown_once_and_stored_as_a_digest(acme, config: ControlPlaneConfig) -> None:
    made = await acme.make("/api-keys", {"name": "app", "project_id": acme.project_id})
    assert made["key"].startswith(made["prefix"] + "-")
    answer = await acme.client.get(acme.path(f"/api-keys/{made['id']}"))
    assert "key" not in answer.json()
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        row = connection.execute("SELECT api_keys::text, digest FROM api_keys WHERE id = %s", [made["id"]]).fetchone()
    assert row is not None
    secret = made["key"].removeprefix(made["prefix"] + "-")
    assert secret not in row[0]
    assert row[1] == secrets.digest(made["key"], config.key_pepper)


async def test_a_key_is_worth_nothing_under_another_pepper(acme, config: ControlPlaneConfig) -> None:
    other = create_app(config.model_copy(update={"key_pepper": SecretStr("another-pepper-entirely")}))
    transport = httpx.ASGITransport(other)
    headers = {"authorization": f"Bearer {acme.key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
        assert (await client.get("/api/v1/me")).status_code == 401
    await other.state.context.redis.aclose()
    await other.state.context.engine.dispose()


async def test_revoking_is_immediate_final_and_idempotent(acme, internal) -> None:
    made = await acme.make("/api-keys", {"name": "app", "project_id": acme.project_id})
    await principal_of(internal, made["key"])
    first = await acme.client.delete(acme.path(f"/api-keys/{made['id']}"))
    assert first.status_code == 200
    assert first.json()["revoked_at"] is not None
    await assert_refused(internal, made["key"])
    again = await acme.client.delete(acme.path(f"/api-keys/{made['id']}"))
    assert again.json() == first.json()
    unknown = await acme.client.delete(acme.path("/api-keys/key_none"))
    assert unknown.status_code == 404


async def test_revoking_is_announced_after_the_commit(acme, internal, redis_url: str) -> None:
    made = await acme.make("/api-keys", {"name": "app", "project_id": acme.project_id})
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client, client.pubsub() as listener:
        await listener.subscribe(INVALIDATIONS)
        await acme.client.delete(acme.path(f"/api-keys/{made['id']}"))
        message = None
        while message is None or message["type"] != "message":
            message = await listener.get_message(timeout=5)
            assert message is not None
        assert message["data"] == f"key:{made['id']}".encode()
        await assert_refused(internal, made["key"])


async def test_a_change_holds_though_redis_is_away(
    config: ControlPlaneConfig, acme, internal, caplog: pytest.LogCaptureFixture
) -> None:
    lonely: FastAPI = create_app(config.model_copy(update={"redis_url": SecretStr("unix:///nowhere/redis.sock")}))
    headers = {"authorization": f"Bearer {acme.key}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(lonely), base_url="http://x", headers=headers) as client:
        answer = await client.delete(acme.path(f"/api-keys/{acme.key_id}"))
    assert answer.status_code == 200
    assert f"key:{acme.key_id} not published" in caplog.text
    await assert_refused(internal, acme.key)
    await lonely.state.context.engine.dispose()


@pytest.mark.parametrize("noun", ["organisation", "project", "user"])
async def test_archiving_an_owner_disables_its_keys_and_restoring_enables_them(noun, acme, internal, operator) -> None:
    user = await acme.make("/users", {"email": "ada@acme.example", "name": "Ada"})
    order = {"name": "app", "project_id": acme.project_id, "user_id": user["id"]}
    made = await acme.make("/api-keys", order)
    place = {
        "organisation": acme.path(),
        "project": acme.path(f"/projects/{acme.project_id}"),
        "user": acme.path(f"/users/{user['id']}"),
    }[noun]
    assert (await operator.patch(place, json={"archived": True})).json()["archived_at"] is not None
    await assert_refused(internal, made["key"])
    assert (await operator.patch(place, json={"archived": False})).json()["archived_at"] is None
    await principal_of(internal, made["key"])


async def test_an_expired_key_is_refused(acme, internal, config: ControlPlaneConfig) -> None:
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        connection.execute("UPDATE api_keys SET expires_at = now() - interval '1 second'")
    await assert_refused(internal, acme.key)


@pytest.mark.parametrize(
    "key", ["", "sk-obj-", "x" * 10_000, "sk-obj-0123456789abcdef-" + "0" * 48, "sk-obj-0123456789ABCDEF-é"]
)
async def test_what_is_no_key_of_ours_is_refused_alike(internal, key: str) -> None:
    await assert_refused(internal, key)


async def test_a_known_prefix_with_a_wrong_secret_is_refused(acme, internal) -> None:
    await assert_refused(internal, acme.key[:-1] + ("0" if acme.key[-1] != "0" else "1"))


def test_a_new_key_does_not_show_in_its_repr() -> None:
    fresh = secrets.generate(SecretStr("pepper"))
    assert fresh.key not in repr(fresh)


async def test_me_says_who_the_bearer_is(acme, operator) -> None:
    assert (await operator.get("/api/v1/me")).json()["kind"] == "operator"
    mine = (await acme.client.get("/api/v1/me")).json()
    assert (mine["kind"], mine["role"], mine["organisation_id"]) == ("api_key", "admin", acme.id)


async def test_a_member_key_reaches_me_and_nothing_else(acme, anonymous) -> None:
    made = await acme.make("/api-keys", {"name": "app", "project_id": acme.project_id})
    headers = {"authorization": f"Bearer {made['key']}"}
    assert (await anonymous.get("/api/v1/me", headers=headers)).json()["role"] == "member"
    for path in (acme.path(), acme.path("/api-keys"), "/api/v1/organisations"):
        answer = await anonymous.get(path, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic abc", "wrong"])
async def test_without_a_valid_key_there_is_no_access(anonymous, header: str | None) -> None:
    answer = await anonymous.get("/api/v1/me", headers={"authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project_id", "proj_none"),
        ("user_id", "user_none"),
        ("role", "owner"),
        ("expires_at", 1),
        ("expires_at", 10**30),
        ("name", ""),
        ("allowed_models", "all"),
        ("limits", {"requests_per_minute": 0}),
        ("limits", {"weight": 2}),
        ("limits", {"requests_per_minute": 10**30}),
        ("unknown", 1),
    ],
)
async def test_a_bad_field_of_a_key_is_named(acme, field: str, value: object) -> None:
    order = {"name": "app", "project_id": acme.project_id, field: value}
    answer = await acme.client.post(acme.path("/api-keys"), json=order)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == field


async def test_keys_are_listed_page_by_page_the_newest_first(acme) -> None:
    made = [await acme.make("/api-keys", {"name": str(n), "project_id": acme.project_id}) for n in range(4)]
    wanted = [key["id"] for key in reversed(made)] + [acme.key_id]
    seen: list[str] = []
    after = {}
    while True:
        page = (await acme.client.get(acme.path("/api-keys"), params={"limit": 2, **after})).json()
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += [key["id"] for key in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert seen == wanted


async def test_a_keys_limits_and_models_can_be_changed_without_a_new_key(acme, internal) -> None:
    made = await acme.make("/api-keys", {"name": "app", "project_id": acme.project_id, "allowed_models": ["a"]})
    place = acme.path(f"/api-keys/{made['id']}")
    changed = (await acme.client.patch(place, json={"limits": {"requests_per_minute": 3}})).json()
    assert (changed["name"], changed["allowed_models"]) == ("app", ["a"])
    assert (await principal_of(internal, made["key"])).key_limits == Limits(requests_per_minute=3)
    await acme.client.patch(place, json={"allowed_models": ["a", "b"]})
    assert (await principal_of(internal, made["key"])).allowed_models == ("a", "b")
    await acme.client.patch(place, json={"allowed_models": None, "name": "new"})
    principal = await principal_of(internal, made["key"])
    assert (principal.allowed_models, principal.key_limits) == (None, Limits(requests_per_minute=3))
    assert (await acme.client.get(place)).json()["name"] == "new"
