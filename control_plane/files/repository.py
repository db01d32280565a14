"""Queries about files; those without a scope are the platform's own, for its sweeps."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import utc_now
from control_plane.files.schemas import FileQuery
from control_plane.files.tables import DELETED, STORED, File
from control_plane.tenancy import ProjectScope


def visible(scope: ProjectScope) -> Select[File]:
    """The project's files that a client may see."""
    alive = or_(File.expires_at.is_(None), File.expires_at > utc_now())
    return scope.select(File).where(File.state == STORED, alive)


async def page(scope: ProjectScope, query: FileQuery) -> tuple[list[File], bool]:
    """One page of the project's files, and whether there are more."""
    newest_first = query.order == "desc"
    rows = visible(scope).order_by(File.id.desc() if newest_first else File.id.asc())
    if query.purpose is not None:
        rows = rows.where(File.purpose == query.purpose)
    if query.after is not None:
        rows = rows.where(File.id < query.after if newest_first else File.id > query.after)
    found = list((await scope.session.scalars(rows.limit(query.limit + 1))).all())
    return found[: query.limit], len(found) > query.limit


async def take_due(session: AsyncSession, now: datetime, limit: int) -> Sequence[File]:
    """Any organisation's files whose bytes must go and that nobody is at, locked until the commit; oldest first."""
    left = and_(File.state != STORED, File.lease_until <= now)
    expired = and_(File.state == STORED, File.expires_at <= now)
    query = select(File).where(or_(left, expired)).order_by(File.id).limit(limit)
    return (await session.scalars(query.with_for_update(skip_locked=True))).all()


async def purge(session: AsyncSession, file_ids: Sequence[str]) -> None:
    """Forget deleted files, of any organisation."""
    await session.execute(delete(File).where(File.id.in_(file_ids), File.state == DELETED))
