"""API keys: shown once, stored as a digest, authenticated for gateways, revoked at once."""

import httpx

from models.identity import Principal


async def authenticate(internal: httpx.AsyncClient, key: str) -> httpx.Response:
    return await internal.post("/internal/authenticate", json={"api_key": key})


async def test_a_new_organisations_admin_key_authenticates(acme, internal) -> None:
    answer = await authenticate(internal, acme.key)
    assert answer.status_code == 200
    principal = Principal.model_validate(answer.json())
    assert (principal.organisation_id, principal.project_id, principal.role) == (acme.id, acme.project_id, "admin")


async def test_a_revoked_key_is_refused(acme, internal) -> None:
    made = await acme.make("/api-keys", {"name": "app", "project_id": acme.project_id})
    assert (await authenticate(internal, made["key"])).status_code == 200
    assert (await acme.client.delete(acme.path(f"/api-keys/{made['id']}"))).status_code == 200
    refused = await authenticate(internal, made["key"])
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
