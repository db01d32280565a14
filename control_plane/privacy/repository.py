"""Queries about policies and kept prompts; those without a scope are the platform's own."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import utc_now
from control_plane.privacy.tables import KeptPrompt, PrivacyPolicy
from control_plane.tenancy import ProjectScope, Scope
from control_plane.tenants.tables import Organisation, Project
from models.errors import NotFound
from models.privacy import Guards, PiiPolicy, PromptRecord

DELETED_AT_ONCE = 1_000


async def policy(scope: Scope, project_id: str) -> PrivacyPolicy | None:
    """A project's policy, if it ever had one."""
    return await scope.session.scalar(scope.select(PrivacyPolicy).where(PrivacyPolicy.project_id == project_id))


async def guards(scope: Scope, project_id: str) -> Guards | None:
    """What a project's calls are guarded by, as it travels with a principal; None where they are not."""
    row = await policy(scope, project_id)
    if row is None or (row.pii is None and row.keep_days is None):
        return None
    pii = None if row.pii is None else PiiPolicy.model_validate(row.pii)
    return Guards(pii=pii, keep_prompts=row.keep_days is not None)


def visible(scope: ProjectScope) -> Select[KeptPrompt]:
    """The project's kept prompts that have not expired."""
    return scope.select(KeptPrompt).where(KeptPrompt.expires_at > utc_now())


async def prompt(scope: ProjectScope, prompt_id: str) -> KeptPrompt:
    """Raises NotFound."""
    row = await scope.session.scalar(visible(scope).where(KeptPrompt.id == prompt_id))
    if row is None:
        raise NotFound("There is no kept prompt with this id.")
    return row


async def forget(scope: ProjectScope, prompt_id: str | None = None) -> int:
    """Delete one of a project's kept prompts, or all of them; how many they were."""
    mine = scope.restrict(select(KeptPrompt.id), KeptPrompt)
    if prompt_id is not None:
        mine = mine.where(KeptPrompt.id == prompt_id)
    gone = await scope.session.scalars(delete(KeptPrompt).where(KeptPrompt.id.in_(mine)).returning(KeptPrompt.id))
    return len(gone.all())


async def shorten(scope: ProjectScope, days: int) -> None:
    """Have what is kept expire after so many days, where it would later."""
    until = KeptPrompt.created_at + timedelta(days=days)
    mine = scope.restrict(select(KeptPrompt.id), KeptPrompt)
    await scope.session.execute(
        update(KeptPrompt).where(KeptPrompt.id.in_(mine), KeptPrompt.expires_at > until).values(expires_at=until)
    )


async def keep(session: AsyncSession, records: Sequence[PromptRecord]) -> int:
    """Insert what is new, of projects that are to be kept; how many they were."""
    projects = {record.project_id for record in records}
    query = (
        select(PrivacyPolicy.organisation_id, PrivacyPolicy.project_id, PrivacyPolicy.keep_days)
        .join(Project, Project.id == PrivacyPolicy.project_id)
        .where(PrivacyPolicy.project_id.in_(projects), PrivacyPolicy.keep_days.is_not(None))
        .where(Project.archived_at.is_(None))
    )
    days = {(row[0], row[1]): row[2] for row in (await session.execute(query)).all()}
    now = utc_now()
    values = [
        {**record.model_dump(), "created_at": now, "expires_at": now + timedelta(days=kept)}
        for record in records
        if (kept := days.get((record.organisation_id, record.project_id))) is not None
    ]
    if not values:
        return 0
    statement = insert(KeptPrompt).values(values).on_conflict_do_nothing(index_elements=["id"])
    return len((await session.scalars(statement.returning(KeptPrompt.id))).all())


async def delete_due(session: AsyncSession, now: datetime) -> int:
    """Delete some of any organisation's prompts that expired, or whose project or organisation is archived."""
    due = (
        select(KeptPrompt.id)
        .join(Project, Project.id == KeptPrompt.project_id)
        .join(Organisation, Organisation.id == Project.organisation_id)
        .where(
            or_(
                KeptPrompt.expires_at <= now,
                Project.archived_at.is_not(None),
                Organisation.archived_at.is_not(None),
            )
        )
        .limit(DELETED_AT_ONCE)
    )
    gone = await session.scalars(delete(KeptPrompt).where(KeptPrompt.id.in_(due)).returning(KeptPrompt.id))
    return len(gone.all())
