"""Queries about credentials and data keys; those without a scope are the platform's own, for the re-wrap."""

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.credentials.tables import CredentialRow, DataKey
from control_plane.database import utc_now
from control_plane.identifiers import new_id
from control_plane.tenancy import Scope

PAGE = 500


async def data_key(scope: Scope) -> DataKey | None:
    """The organisation's data key."""
    return await scope.session.scalar(scope.select(DataKey))


async def keep_data_key(scope: Scope, key_id: str, wrapped: bytes) -> DataKey:
    """The organisation's data key: this one, unless another one came first."""
    values = {"id": new_id("dk"), "organisation_id": scope.organisation_id, "created_at": utc_now()}
    statement = insert(DataKey).values({**values, "key_id": key_id, "wrapped": wrapped})
    await scope.session.execute(statement.on_conflict_do_nothing(index_elements=["organisation_id"]))
    return (await scope.session.scalars(scope.select(DataKey))).one()


async def of_project(scope: Scope, project_id: str, upstream: str) -> CredentialRow | None:
    """What a project's calls of an upstream go under: its own credential, else the organisation's."""
    query = scope.select(CredentialRow).where(CredentialRow.upstream == upstream)
    query = query.where(or_(CredentialRow.project_id.is_(None), CredentialRow.project_id == project_id))
    return await scope.session.scalar(query.order_by(CredentialRow.project_id.nulls_last()).limit(1))


async def wrapped_otherwise(session: AsyncSession, key_id: str, after: str) -> Sequence[DataKey]:
    """The next data keys of all organisations that another key wraps, by id, locked until the commit."""
    query = select(DataKey).where(DataKey.key_id != key_id, DataKey.id > after).order_by(DataKey.id).limit(PAGE)
    return (await session.scalars(query.with_for_update())).all()
