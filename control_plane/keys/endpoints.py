"""``/me``, ``…/api-keys`` and the internal ``/authenticate``."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from control_plane.access import AnyCaller, Tenant
from control_plane.context import Ctx, Tx
from control_plane.keys import service
from control_plane.keys.schemas import ApiKeyChange, ApiKeyCreate, ApiKeyCreated, ApiKeyView, Authenticate
from control_plane.keys.tables import ApiKey
from control_plane.pages import ListOf, PageQuery, listed
from models.identity import Principal

me = APIRouter(tags=["me"])
router = APIRouter(prefix="/organisations/{organisation_id}/api-keys", tags=["API keys"])
internal = APIRouter(tags=["internal"])


class Me(BaseModel):
    """Who the bearer is; the ids are null for the operator."""

    kind: Literal["operator", "api_key"]
    role: str | None = None
    organisation_id: str | None = None
    project_id: str | None = None
    api_key_id: str | None = None
    user_id: str | None = None
    expires_at: int | None = None


@me.get("/me")
async def who_am_i(who: AnyCaller) -> Me:
    """Who the given key belongs to; the one route that a member key may call."""
    if who.principal is None:
        return Me(kind="operator")
    fields = who.principal.model_dump(include=set(Me.model_fields) - {"kind"})
    return Me(kind="api_key", **fields)


@router.post("", status_code=201)
async def create_key(scope: Tenant, context: Ctx, body: ApiKeyCreate) -> ApiKeyCreated:
    """A new key. This answer alone holds it: what is stored cannot be turned back into the key."""
    row, key = await service.create(scope, body, context.config.key_pepper)
    return ApiKeyCreated.with_key(row, key)


@router.get("")
async def list_keys(scope: Tenant, page: PageQuery) -> ListOf[ApiKeyView]:
    """The organisation's keys, revoked ones too, the newest first."""
    rows, more = await scope.page(scope.select(ApiKey), ApiKey.id, page)
    return listed([ApiKeyView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("/{api_key_id}")
async def get_key(scope: Tenant, api_key_id: str) -> ApiKeyView:
    """One key."""
    return ApiKeyView.of(await scope.get(ApiKey, api_key_id, "API key"))


@router.patch("/{api_key_id}")
async def change_key(scope: Tenant, context: Ctx, api_key_id: str, body: ApiKeyChange) -> ApiKeyView:
    """Rename, limit, or change which models it may use. Gateways follow at once."""
    row = await service.change(scope, api_key_id, body)
    context.invalidations.key(scope.transaction, row.id)
    return ApiKeyView.of(row)


@router.delete("/{api_key_id}")
async def revoke_key(scope: Tenant, context: Ctx, api_key_id: str) -> ApiKeyView:
    """Revoke for ever; gateways refuse it within a second. Idempotent: again answers the same, with the first time."""
    row = await service.revoke(scope, api_key_id)
    context.invalidations.key(scope.transaction, row.id)
    return ApiKeyView.of(row)


@internal.post("/authenticate")
async def authenticate(context: Ctx, transaction: Tx, body: Authenticate) -> Principal:
    """The principal of a key, for gateways; 401 for every key that may not be used."""
    return await service.authenticate(transaction, body.api_key, context.config.key_pepper)
