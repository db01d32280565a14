"""Organisations themselves: the one noun that no organisation owns."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.pages import Page
from control_plane.tenants.tables import Organisation
from models.errors import NotFound


async def organisation(session: AsyncSession, organisation_id: str) -> Organisation:
    """Raises NotFound."""
    row = await session.get(Organisation, organisation_id)
    if row is None:
        raise NotFound("There is no organisation with this id.")
    return row


async def organisations(session: AsyncSession, page: Page) -> tuple[list[Organisation], bool]:
    """One page of all organisations, the newest first, and whether there are more."""
    query = select(Organisation).order_by(Organisation.id.desc()).limit(page.limit + 1)
    if page.after is not None:
        query = query.where(Organisation.id < page.after)
    rows = list((await session.scalars(query)).all())
    return rows[: page.limit], len(rows) > page.limit
