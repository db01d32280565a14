"""What can be done with API keys."""

from datetime import UTC, datetime

from pydantic import SecretStr

from control_plane.agents import repository as agents
from control_plane.budgets import repository as budgets
from control_plane.database import Transaction, unix_seconds, utc_now
from control_plane.identifiers import new_id
from control_plane.keys import repository, secrets
from control_plane.keys.schemas import ApiKeyChange, ApiKeyCreate
from control_plane.keys.tables import ApiKey
from control_plane.privacy import repository as privacy
from control_plane.tenancy import Scope
from control_plane.tenants.tables import Organisation, Project, User
from models.errors import Unauthenticated
from models.identity import Limits, Principal


async def create(scope: Scope, body: ApiKeyCreate, pepper: SecretStr) -> tuple[ApiKey, str]:
    """A new key's row, and the key. Raises InvalidRequest where project or user are not the organisation's."""
    await scope.reference(Project, body.project_id, "project", "project_id")
    if body.user_id is not None:
        await scope.reference(User, body.user_id, "user", "user_id")
    fresh = secrets.generate(pepper)
    row = ApiKey(
        id=new_id("key"),
        project_id=body.project_id,
        user_id=body.user_id,
        name=body.name,
        prefix=fresh.prefix,
        digest=fresh.digest,
        role=body.role,
        permissions=list(body.permissions),
        allowed_models=None if body.allowed_models is None else list(body.allowed_models),
        limits=body.limits.model_dump(exclude_none=True),
        expires_at=None if body.expires_at is None else datetime.fromtimestamp(body.expires_at, UTC),
    )
    scope.add(row)
    await scope.session.flush()
    return row, fresh.key


async def revoke(scope: Scope, key_id: str) -> ApiKey:
    """Revoke for ever; doing it again changes nothing. Raises NotFound."""
    row = await scope.get(ApiKey, key_id, "API key", lock=True)
    row.revoked_at = row.revoked_at or utc_now()
    return row


async def change(scope: Scope, key_id: str, body: ApiKeyChange) -> ApiKey:
    """Apply a change. Raises NotFound."""
    row = await scope.get(ApiKey, key_id, "API key", lock=True)
    row.name = body.name or row.name
    if "allowed_models" in body.model_fields_set:
        row.allowed_models = None if body.allowed_models is None else list(body.allowed_models)
    if body.permissions is not None:
        row.permissions = list(body.permissions)
    if body.limits is not None:
        row.limits = body.limits.model_dump(exclude_none=True)
    return row


async def authenticate(transaction: Transaction, key: str, pepper: SecretStr) -> Principal:
    """The principal of a key. Raises Unauthenticated, the same for every reason."""
    prefix = secrets.prefix_of(key)
    found = None if prefix is None else await repository.usable(transaction.session, prefix)
    right = secrets.matches(key, found[0].digest if found else None, pepper)
    if found is None or not right or _expired(found[0]):
        raise Unauthenticated("The API key is not valid.")
    return await _principal(transaction, *found)


async def principal_of(transaction: Transaction, key_id: str) -> Principal | None:
    """The principal of a key that the platform works for, None where it may no longer be used."""
    row = await transaction.session.get(ApiKey, key_id)
    found = None if row is None else await repository.usable(transaction.session, row.prefix)
    return None if found is None or _expired(found[0]) else await _principal(transaction, *found)


def _expired(row: ApiKey) -> bool:
    return row.expires_at is not None and row.expires_at <= utc_now()


async def _principal(
    transaction: Transaction, row: ApiKey, project: Project, organisation: Organisation, user: User | None
) -> Principal:
    scope = Scope(transaction, organisation.id)
    return Principal.model_validate(
        {
            "organisation_id": organisation.id,
            "project_id": project.id,
            "api_key_id": row.id,
            "user_id": row.user_id,
            "role": row.role,
            "permissions": tuple(row.permissions),
            "expires_at": unix_seconds(row.expires_at) if row.expires_at else None,
            "allowed_models": None if row.allowed_models is None else tuple(row.allowed_models),
            "agents": tuple(await agents.routes(scope)),
            "organisation_limits": Limits.model_validate(organisation.limits),
            "project_limits": Limits.model_validate(project.limits),
            "user_limits": Limits.model_validate(user.limits if user else {}),
            "key_limits": Limits.model_validate(row.limits),
            "budgets": await budgets.of_principal(scope, project.id, row.user_id, row.id),
            "guards": await privacy.guards(scope, project.id),
        }
    )
