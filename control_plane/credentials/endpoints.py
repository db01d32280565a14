"""``…/credentials``, the operator's re-wrap, and for gateways the internal route that opens a credential."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from control_plane.access import Operator, Tenant
from control_plane.context import Ctx, Tx
from control_plane.credentials import service
from control_plane.credentials.schemas import (
    CredentialChange,
    CredentialCreate,
    CredentialDeleted,
    CredentialView,
    Rewrapped,
)
from control_plane.credentials.tables import CredentialRow
from control_plane.errors import CONFLICT
from control_plane.pages import ListOf, PageQuery, listed
from control_plane.tenancy import Scope
from models.credentials import to_wire

router = APIRouter(prefix="/organisations/{organisation_id}/credentials", tags=["credentials"])
operators = APIRouter(prefix="/data-keys", tags=["credentials"])
internal = APIRouter(tags=["internal"])

TenantId = Annotated[str, Path(max_length=64)]


@router.post("", status_code=201, responses=CONFLICT)
async def create_credential(scope: Tenant, context: Ctx, body: CredentialCreate) -> CredentialView:
    """A new credential; one an upstream and project (409). Gateways follow at once. No answer ever holds the key."""
    row = await service.create(scope, context.key_encryption, context.config, body)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return CredentialView.of(row)


@router.get("")
async def list_credentials(scope: Tenant, page: PageQuery) -> ListOf[CredentialView]:
    """The organisation's credentials, the newest first."""
    rows, more = await scope.page(scope.select(CredentialRow), CredentialRow.id, page)
    return listed([CredentialView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("/{credential_id}")
async def get_credential(scope: Tenant, credential_id: str) -> CredentialView:
    """One credential."""
    return CredentialView.of(await scope.get(CredentialRow, credential_id, service.NOUN))


@router.patch("/{credential_id}")
async def change_credential(scope: Tenant, context: Ctx, credential_id: str, body: CredentialChange) -> CredentialView:
    """Rename it, rotate its key, change its address. Gateways follow at once."""
    row = await service.change(scope, context.key_encryption, context.config, credential_id, body)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return CredentialView.of(row)


@router.delete("/{credential_id}")
async def delete_credential(scope: Tenant, context: Ctx, credential_id: str) -> CredentialDeleted:
    """Forget it, key and all. Gateways follow at once: calls then go under the platform's key, where it has one."""
    await service.delete(scope, credential_id)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return CredentialDeleted(id=credential_id)


@operators.post("/rewrap")
async def rewrap_data_keys(_: Operator, context: Ctx, transaction: Tx) -> Rewrapped:
    """Have the current key-encryption key wrap what former ones wrap. The operator's."""
    return await service.rewrap(transaction.session, context.key_encryption)


@internal.get("/organisations/{organisation_id}/projects/{project_id}/credentials/{upstream}")
async def open_credential(
    context: Ctx, transaction: Tx, organisation_id: TenantId, project_id: TenantId, upstream: TenantId
) -> Response:
    """What a project's calls of an upstream go under, for gateways: the one answer that holds a key."""
    scope = Scope(transaction, organisation_id)
    found = await service.opened(scope, context.key_encryption, context.config, project_id, upstream)
    return Response(to_wire(found), media_type="application/json")
