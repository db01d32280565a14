"""Credentials for hosted upstreams: what their organisation sees, how they lie in the database, who opens them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.credentials.schemas import CredentialCreate
from control_plane.credentials.sealing import ConfiguredKeys, key_id_of, raw_key
from models.channels import CLUSTER_SECRET_HEADER, INVALIDATIONS
from models.credentials import Credential, from_wire, to_wire

SECRET = "sk-very-secret-0123456789-WXYZ"
OTHER = "sk-quite-another-9876543210-ABCD"
NEW_KEY = "cd" * 32
CLUSTER_SECRET = "test-cluster-secret"

Rows = Callable[[str], list[Any]]


@pytest.fixture
def rows(config: ControlPlaneConfig) -> Rows:
    def read(statement: str) -> list[Any]:
        with psycopg.connect(config.database_url.get_secret_value(), autocommit=True) as connection:
            cursor = connection.execute(statement)  # pyright: ignore[reportArgumentType]
            return cursor.fetchall() if cursor.description else []

    return read


@asynccontextmanager
async def restarted(config: ControlPlaneConfig, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A process with another configuration; the client is the operator and holds the cluster secret."""
    app = create_app(ControlPlaneConfig.model_validate({**config.model_dump(), **changes}))
    headers = {
        CLUSTER_SECRET_HEADER: CLUSTER_SECRET,
        "authorization": f"Bearer {config.operator_key.get_secret_value()}",
    }
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://control-plane", headers=headers) as client:
        yield client
    await app.state.context.redis.aclose()
    await app.state.context.engine.dispose()


def opened(tenant: Any, upstream: str = "openai", project_id: str | None = None) -> str:
    project = project_id or tenant.project_id
    return f"/internal/organisations/{tenant.id}/projects/{project}/credentials/{upstream}"


async def key_of(internal: httpx.AsyncClient, tenant: Any, project_id: str | None = None) -> str | None:
    answer = await internal.get(opened(tenant, project_id=project_id))
    assert answer.status_code == 200, answer.text
    found = from_wire(answer.content)
    return None if found is None else found.api_key.get_secret_value()


async def test_a_credential_is_stored_listed_by_its_end_rotated_and_deleted(acme: Any, internal: Any) -> None:
    assert await key_of(internal, acme) is None
    made = await acme.make("/credentials", {"upstream": "openai", "name": "ours", "api_key": SECRET})
    assert (made["upstream"], made["name"], made["last4"], made["project_id"]) == ("openai", "ours", "WXYZ", None)
    assert await key_of(internal, acme) == SECRET
    path = acme.path(f"/credentials/{made['id']}")
    rotated = (await acme.client.patch(path, json={"api_key": OTHER})).json()
    assert (rotated["id"], rotated["last4"], rotated["name"]) == (made["id"], "ABCD", "ours")
    assert rotated["rotated_at"] >= made["rotated_at"]
    assert await key_of(internal, acme) == OTHER
    listed = (await acme.client.get(acme.path("/credentials"))).json()
    assert listed["data"] == [(await acme.client.get(path)).json()] == [rotated]
    assert (await acme.client.delete(path)).json() == {
        "object": "credential.deleted",
        "id": made["id"],
        "deleted": True,
    }
    assert await key_of(internal, acme) is None
    assert (await acme.client.get(path)).status_code == 404


async def test_a_projects_own_credential_goes_before_the_organisations(acme: Any, internal: Any) -> None:
    project = await acme.make("/projects", {"name": "Research"})
    await acme.make("/credentials", {"upstream": "openai", "api_key": SECRET})
    own = {"upstream": "openai", "api_key": OTHER, "project_id": project["id"]}
    await acme.make("/credentials", own)
    assert await key_of(internal, acme, project["id"]) == OTHER
    assert await key_of(internal, acme) == SECRET
    for body in ({"upstream": "openai", "api_key": SECRET}, own):
        again = await acme.client.post(acme.path("/credentials"), json=body)
        assert (again.status_code, again.json()["error"]["param"]) == (409, "upstream")


async def test_no_organisation_gets_another_ones_key(acme: Any, rival: Any, internal: Any) -> None:
    await acme.make("/credentials", {"upstream": "openai", "api_key": SECRET})
    assert await key_of(internal, rival) is None
    assert await key_of(internal, rival, acme.project_id) is None
    await rival.make("/credentials", {"upstream": "openai", "api_key": OTHER})
    assert (await key_of(internal, acme), await key_of(internal, rival)) == (SECRET, OTHER)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"upstream": "nowhere", "api_key": SECRET}, "upstream"),
        ({"upstream": "openai", "api_key": "short"}, "api_key"),
        ({"upstream": "openai", "api_key": "two words-" + SECRET}, "api_key"),
        ({"upstream": "openai", "api_key": SECRET + "\r\nx-evil: 1"}, "api_key"),
        ({"upstream": "openai", "api_key": SECRET + "é"}, "api_key"),
        ({"upstream": "openai", "api_key": "k" * 5_000}, "api_key"),
        ({"upstream": "openai", "api_key": SECRET, "project_id": "proj_none"}, "project_id"),
        ({"upstream": "openai", "api_key": SECRET, "base_url": "http://169.254.169.254"}, "base_url"),
        ({"upstream": "openai", "api_key": SECRET, "base_url": "ftp://eu.api.openai.com"}, "base_url"),
        ({"upstream": "openai", "api_key": SECRET, "base_url": "https://a@eu.api.openai.com"}, "base_url"),
        ({"upstream": "anthropic", "api_key": SECRET, "base_url": "https://eu.api.openai.com"}, "base_url"),
        ({"upstream": "openai", "api_key": SECRET, "secret": "x"}, "secret"),
        ({"upstream": "openai"}, "api_key"),
    ],
)
async def test_what_cannot_be_a_credential_is_refused_by_name_without_its_key(
    acme: Any, rows: Rows, body: Any, param: str
) -> None:
    answer = await acme.client.post(acme.path("/credentials"), json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert SECRET not in answer.text
    assert rows("SELECT * FROM credentials") == []


async def test_an_address_is_the_operators_to_allow_now_and_later(
    acme: Any, internal: Any, config: ControlPlaneConfig
) -> None:
    body = {"upstream": "openai", "api_key": SECRET, "base_url": "https://EU.api.openai.com/v1/"}
    made = await acme.make("/credentials", body)
    assert made["base_url"] == "https://eu.api.openai.com"
    found = from_wire((await internal.get(opened(acme))).content)
    assert found is not None
    assert found.base_url == "https://eu.api.openai.com"
    async with restarted(config, upstreams=({"name": "openai"},)) as changed:
        answer = await changed.get(opened(acme))
        assert (answer.status_code, SECRET in answer.text) == (409, False)
    path = acme.path(f"/credentials/{made['id']}")
    assert (await acme.client.patch(path, json={"base_url": "https://evil.example"})).status_code == 400
    assert (await acme.client.patch(path, json={"base_url": None})).json()["base_url"] is None


async def test_the_key_opens_for_its_row_and_its_organisation_alone(
    acme: Any, rival: Any, internal: Any, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may write to the database cannot have one tenant's key served to another one."""
    await acme.make("/credentials", {"upstream": "openai", "api_key": SECRET})
    await acme.make("/credentials", {"upstream": "anthropic", "api_key": OTHER})
    await rival.make("/credentials", {"upstream": "openai", "api_key": OTHER})
    of = "(SELECT sealed FROM credentials WHERE organisation_id = '{}' AND upstream = '{}')"
    at = "UPDATE credentials SET sealed = {} WHERE organisation_id = '{}' AND upstream = 'openai'"
    for place, stolen in ((rival.id, of.format(acme.id, "openai")), (acme.id, of.format(acme.id, "anthropic"))):
        rows(at.format(stolen, place))
        owner = rival if place == rival.id else acme
        answer = await internal.get(opened(owner))
        assert (answer.status_code, SECRET in answer.text, OTHER in answer.text) == (503, False, False)
    # The data key is bound to its organisation, too.
    rows(
        "UPDATE data_keys SET (key_id, wrapped) = (SELECT key_id, wrapped FROM data_keys WHERE organisation_id = "
        f"'{acme.id}') WHERE organisation_id = '{rival.id}'"
    )
    assert (await internal.get(opened(rival))).status_code == 503
    assert "cannot be opened" in caplog.text
    assert SECRET not in caplog.text


async def test_without_its_key_encryption_key_nothing_opens_and_with_none_nothing_is_kept(
    acme: Any, internal: Any, config: ControlPlaneConfig
) -> None:
    await acme.make("/credentials", {"upstream": "openai", "api_key": SECRET})
    async with restarted(config, credential_key=NEW_KEY) as other:
        answer = await other.get(opened(acme))
        assert (answer.status_code, SECRET in answer.text) == (503, False)
        body = {"upstream": "anthropic", "api_key": OTHER}
        assert (await other.post(acme.path("/credentials"), json=body)).status_code == 503
    async with restarted(config, credential_key=None) as without:
        assert (await without.get(opened(acme))).status_code == 503
        assert (await without.post(acme.path("/credentials"), json=body)).status_code == 503
        assert from_wire((await without.get(opened(acme, "anthropic"))).content) is None
    assert await key_of(internal, acme) == SECRET


async def test_data_keys_are_rewrapped_and_the_former_key_is_not_needed_any_more(
    acme: Any, rival: Any, config: ControlPlaneConfig, rows: Rows
) -> None:
    for tenant, secret in ((acme, SECRET), (rival, OTHER)):
        await tenant.make("/credentials", {"upstream": "openai", "api_key": secret})
    sealed = rows("SELECT id, sealed FROM credentials ORDER BY id")
    former = config.credential_key
    assert former is not None
    path = "/api/v1/data-keys/rewrap"
    async with restarted(config, credential_key=NEW_KEY) as without:
        assert (await without.post(path)).json()["remaining"] == 2
    async with restarted(config, credential_key=NEW_KEY, credential_keys_former=(former,)) as both:
        assert await key_of(both, acme) == SECRET
        done = (await both.post(path)).json()
        assert (done["key_id"], done["rewrapped"], done["remaining"]) == (key_id_of(bytes.fromhex(NEW_KEY)), 2, 0)
        assert (await both.post(path)).json()["rewrapped"] == 0
    async with restarted(config, credential_key=NEW_KEY) as after:
        assert (await key_of(after, acme), await key_of(after, rival)) == (SECRET, OTHER)
    assert rows("SELECT id, sealed FROM credentials ORDER BY id") == sealed
    assert rows("SELECT DISTINCT key_id FROM data_keys") == [(done["key_id"],)]
    assert (await acme.client.post(path)).status_code == 403


async def test_two_first_credentials_at_once_share_one_data_key(acme: Any, internal: Any, rows: Rows) -> None:
    bodies = [{"upstream": name, "api_key": SECRET} for name in ("openai", "anthropic")]
    await asyncio.gather(*(acme.make("/credentials", body) for body in bodies))
    assert rows("SELECT count(*) FROM data_keys") == [(1,)]
    for name in ("openai", "anthropic"):
        found = from_wire((await internal.get(opened(acme, name))).content)
        assert found is not None
        assert found.api_key.get_secret_value() == SECRET


async def test_a_planted_key_is_found_nowhere_but_in_the_one_answer(
    app: FastAPI, acme: Any, internal: Any, config: ControlPlaneConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    redis = app.state.context.redis
    async with redis.pubsub() as heard:
        await heard.subscribe(INVALIDATIONS)
        answers = [await acme.client.post(acme.path("/credentials"), json={"upstream": "openai", "api_key": SECRET})]
        path = acme.path(f"/credentials/{answers[0].json()['id']}")
        answers += [
            await acme.client.get(path),
            await acme.client.get(acme.path("/credentials")),
            await acme.client.post(acme.path("/credentials"), json={"upstream": "openai", "api_key": SECRET}),
            await acme.client.post(
                acme.path("/credentials"), content=b'{"upstream": "openai", "api_key": ' + SECRET.encode()
            ),
            await acme.client.patch(path, json={"api_key": SECRET, "unknown": SECRET}),
            await acme.client.patch(path, json={"api_key": [SECRET]}),
            await acme.client.patch(path, json={"api_key": SECRET}),
        ]
        messages = [await heard.get_message(timeout=1.0) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 409, 400, 400, 400, 200]
    opening = await internal.get(opened(acme))
    assert SECRET in opening.text
    assert opening.headers["cache-control"] == "no-store"
    stored = [await redis.dump(key) for key in await redis.keys("*")]
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            table = psycopg.sql.Identifier(name)
            stored += connection.execute(psycopg.sql.SQL("SELECT t::text FROM {} t").format(table)).fetchall()
    haystack = "\n".join([*(answer.text for answer in answers), caplog.text, *map(repr, (stored, messages))])
    for form in (SECRET, SECRET.encode().hex()):
        assert form not in haystack
    assert messages[1]["data"].decode() == f"organisation:{acme.id}"


def test_a_key_shows_in_no_representation_and_no_dump() -> None:
    credential = Credential(id="cred_1", api_key=SecretStr(SECRET))
    body = CredentialCreate.model_validate({"upstream": "openai", "api_key": SECRET})
    keys = ConfiguredKeys((SecretStr(NEW_KEY),))
    for shown in (repr(credential), str(body), credential.model_dump_json(), body.model_dump_json(), repr(keys)):
        assert SECRET not in shown
        assert NEW_KEY not in shown
    assert from_wire(to_wire(credential)) == credential
    with pytest.raises(ValueError, match="is no credential") as caught:
        from_wire(b'{"credential": {"id": 1, "api_key": "' + SECRET.encode() + b'"}}')
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("key", ["", "ab", "zz" * 32, "ab" * 33])
def test_a_key_encryption_key_of_the_wrong_form_is_refused_at_the_start(config: ControlPlaneConfig, key: str) -> None:
    for change in ({"credential_key": key}, {"credential_keys_former": (key,)}):
        with pytest.raises(ValidationError, match="64 hexadecimal digits") as caught:
            ControlPlaneConfig.model_validate({**config.model_dump(), **change})
        assert "zzzz" not in str(caught.value)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        raw_key(SecretStr(key))
