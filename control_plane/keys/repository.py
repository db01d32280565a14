"""Looking keys up before it is known whose they are."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.keys.tables import ApiKey
from control_plane.tenants.tables import Organisation, Project, User

Owned = tuple[ApiKey, Project, Organisation, User | None]


async def usable(session: AsyncSession, prefix: str) -> Owned | None:
    """The key with this prefix and its owners, unless it or one of them is out of service."""
    query = (
        select(ApiKey, Project, Organisation, User)
        .join(Project, Project.id == ApiKey.project_id)
        .join(Organisation, Organisation.id == Project.organisation_id)
        .outerjoin(User, User.id == ApiKey.user_id)
        .where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))
        .where(Project.archived_at.is_(None), Organisation.archived_at.is_(None), User.archived_at.is_(None))
    )
    row = (await session.execute(query)).one_or_none()
    return None if row is None else (row[0], row[1], row[2], row[3])
