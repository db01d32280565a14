"""Queries about budgets, and what the ledger says they have come to."""

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.budgets.tables import BudgetAlert, BudgetRow
from control_plane.database import utc_now
from control_plane.keys.tables import ApiKey
from control_plane.tenancy import Scope
from control_plane.usage.tables import UsageDay, UsageRow
from models.budgets import Budget, bounds
from models.errors import NotFound

PAGE = 500


async def budget(session: AsyncSession, budget_id: str) -> BudgetRow:
    """Any organisation's budget. Raises NotFound."""
    row = await session.get(BudgetRow, budget_id)
    if row is None:
        raise NotFound("There is no budget with this id.")
    return row


async def after(session: AsyncSession, budget_id: str) -> Sequence[BudgetRow]:
    """The next budgets of all organisations, in the order of their ids."""
    query = select(BudgetRow).where(BudgetRow.id > budget_id).order_by(BudgetRow.id).limit(PAGE)
    return (await session.scalars(query)).all()


async def of_principal(scope: Scope, project_id: str, user_id: str | None, api_key_id: str) -> tuple[Budget, ...]:
    """Every budget that a key's calls count against."""
    targets = {"organisation": scope.organisation_id, "project": project_id, "user": user_id, "api_key": api_key_id}
    mine = or_(*(and_(BudgetRow.scope == name, BudgetRow.target_id == target) for name, target in targets.items()))
    rows = (await scope.session.scalars(scope.select(BudgetRow).where(mine).order_by(BudgetRow.id))).all()
    return tuple(budget_of(row) for row in rows)


def budget_of(row: BudgetRow) -> Budget:
    """The noun."""
    return Budget.model_validate({name: getattr(row, name) for name in Budget.model_fields})


async def alerts(scope: Scope, budget_ids: Collection[str]) -> dict[tuple[str, str], BudgetAlert]:
    """By budget and window."""
    query = scope.select(BudgetAlert).where(BudgetAlert.budget_id.in_(budget_ids))
    return {(row.budget_id, row.window): row for row in (await scope.session.scalars(query)).all()}


async def alert(scope: Scope, row: BudgetRow, window: str, spent_micro: int) -> bool:
    """Note that a budget was reached; whether that is news."""
    values = {"budget_id": row.id, "window": window, "limit_micro": row.limit_micro, "spent_micro": spent_micro}
    values |= {"organisation_id": scope.organisation_id, "created_at": utc_now()}
    statement = insert(BudgetAlert).values(values).on_conflict_do_nothing()
    return (await scope.session.execute(statement.returning(BudgetAlert.budget_id))).first() is not None


async def forget(scope: Scope, row: BudgetRow) -> None:
    """Delete a budget and its alerts."""
    await scope.session.execute(delete(BudgetRow).where(BudgetRow.id == row.id))


async def spent(scope: Scope, row: BudgetRow, window: str) -> int:
    """What the ledger holds of a window, from its daily roll-up."""
    first, last = bounds(window)
    query = scope.restrict(select(func.coalesce(func.sum(UsageDay.cost_micro), 0)), UsageDay)
    query = query.where(*_of_target(scope, row, UsageDay))
    if first is not None and last is not None:
        query = query.where(UsageDay.day.between(first, last))
    return int(await scope.session.scalar(query) or 0)


async def spent_by(scope: Scope, row: BudgetRow, window: str, event_ids: Collection[str]) -> int:
    """What the ledger holds of these very events of a window."""
    first, last = bounds(window)
    query = scope.restrict(select(func.coalesce(func.sum(UsageRow.cost_micro), 0)), UsageRow)
    query = query.where(*_of_target(scope, row, UsageRow), UsageRow.event_id.in_(event_ids))
    if first is not None and last is not None:
        end = _milliseconds(last + timedelta(days=1))
        query = query.where(UsageRow.started_at_ms >= _milliseconds(first), UsageRow.started_at_ms < end)
    return int(await scope.session.scalar(query) or 0)


def _of_target(scope: Scope, row: BudgetRow, table: type[UsageDay] | type[UsageRow]) -> list[ColumnElement[Any]]:
    if row.scope == "project":
        return [table.project_id == row.target_id]
    if row.scope == "api_key":
        return [table.api_key_id == row.target_id]
    if row.scope == "user":
        keys = scope.restrict(select(ApiKey.id), ApiKey).where(ApiKey.user_id == row.target_id)
        return [table.api_key_id.in_(keys)]
    return []


def _milliseconds(day: date) -> int:
    return round(datetime.combine(day, time(), UTC).timestamp() * 1_000)
