"""Queries about batches; those without a scope are the platform's own, for its jobs."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.batches.schemas import BatchQuery
from control_plane.batches.tables import ACTIVE, Batch, BatchLine
from control_plane.database import utc_now
from control_plane.tenancy import ProjectScope
from control_plane.usage.tables import UsageRow
from models.batches import Outcome
from models.errors import NotFound

# How a call ends of which nothing was charged, and which may be made again.
FREE = "error"
LOOK_BACK = timedelta(days=2)


def request_id(batch_id: str, line: int) -> str:
    """Under which a line is sent, whichever job sends it."""
    return f"{batch_id}-{line}"


async def page(scope: ProjectScope, query: BatchQuery) -> tuple[list[Batch], bool]:
    """One page of the project's batches, the newest first, and whether there are more."""
    rows = scope.select(Batch).order_by(Batch.id.desc()).limit(query.limit + 1)
    if query.after is not None:
        rows = rows.where(Batch.id < query.after)
    found = list((await scope.session.scalars(rows)).all())
    return found[: query.limit], len(found) > query.limit


async def batch(session: AsyncSession, batch_id: str, *, lock: bool = False) -> Batch:
    """Any organisation's batch. Raises NotFound."""
    row = await session.get(Batch, batch_id, with_for_update=lock)
    if row is None:
        raise NotFound("There is no batch with this id.")
    return row


async def active(session: AsyncSession) -> Sequence[Batch]:
    """All batches that have not ended, the oldest first."""
    return (await session.scalars(select(Batch).where(Batch.status.in_(ACTIVE)).order_by(Batch.id))).all()


async def last_turns(session: AsyncSession) -> Mapping[str, datetime]:
    """When each organisation had a batch taken last, as far as that still matters: a batch lives for a day."""
    query = select(Batch.organisation_id, func.max(Batch.submitted_at))
    recent = query.where(Batch.created_at > utc_now() - LOOK_BACK).group_by(Batch.organisation_id)
    found = (await session.execute(recent)).all()
    return {name: when for name, when in found if when is not None}


async def begin(scope: ProjectScope, batch_id: str, lines: Sequence[int]) -> None:
    """Note that lines are about to be sent."""
    owner = {"organisation_id": scope.organisation_id, "project_id": scope.project_id, "batch_id": batch_id}
    common = {**owner, "created_at": utc_now(), "ok": False}
    rows = [{**common, "line": line} for line in sorted(lines)]
    await scope.session.execute(insert(BatchLine).values(rows).on_conflict_do_nothing())


async def record(scope: ProjectScope, batch_id: str, outcomes: Sequence[Outcome]) -> list[bool]:
    """Write outcomes of lines that have none; for each line that is new, whether it went well."""
    fresh: list[bool] = []
    for one in sorted(outcomes, key=lambda outcome: outcome.line):
        statement = (
            update(BatchLine)
            .where(BatchLine.batch_id == batch_id, BatchLine.line == one.line, BatchLine.outcome.is_(None))
            .values(outcome=one.text, ok=one.ok)
            .returning(BatchLine.ok)
        )
        fresh += (await scope.session.scalars(statement)).all()
    return fresh


async def begun(scope: ProjectScope, batch_id: str) -> list[int]:
    """Lines that were sent, perhaps, and have no outcome."""
    query = select(BatchLine.line).where(BatchLine.batch_id == batch_id, BatchLine.outcome.is_(None))
    return list((await scope.session.scalars(scope.restrict(query, BatchLine).order_by(BatchLine.line))).all())


async def done(scope: ProjectScope, batch_id: str) -> list[int]:
    """Lines that have an outcome."""
    query = select(BatchLine.line).where(BatchLine.batch_id == batch_id, BatchLine.outcome.is_not(None))
    return list((await scope.session.scalars(scope.restrict(query, BatchLine).order_by(BatchLine.line))).all())


async def called(scope: ProjectScope, batch_id: str, lines: Sequence[int]) -> set[int]:
    """Those of the lines of which the ledger knows a call that may have been charged."""
    ids = {request_id(batch_id, line): line for line in lines}
    query = select(UsageRow.request_id).where(UsageRow.request_id.in_(ids), UsageRow.status != FREE)
    return {ids[name] for name in (await scope.session.scalars(scope.restrict(query, UsageRow))).all()}


async def outcomes(scope: ProjectScope, batch_id: str, after: int, limit: int) -> list[Outcome]:
    """The next outcomes by line."""
    query = scope.select(BatchLine).where(BatchLine.batch_id == batch_id, BatchLine.line > after)
    rows = await scope.session.scalars(
        query.where(BatchLine.outcome.is_not(None)).order_by(BatchLine.line).limit(limit)
    )
    return [Outcome(line=row.line, ok=row.ok, text=row.outcome or "") for row in rows.all()]


async def forget_lines(session: AsyncSession, batch_id: str) -> None:
    """The batch has ended: its files hold what became of its lines."""
    await session.execute(delete(BatchLine).where(BatchLine.batch_id == batch_id))
