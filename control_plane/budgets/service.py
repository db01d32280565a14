"""What can be done with budgets."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane.budgets import repository
from control_plane.budgets.counting import Counting, present
from control_plane.budgets.schemas import BudgetChange, BudgetCreate, BudgetView
from control_plane.budgets.tables import BudgetRow
from control_plane.identifiers import new_id
from control_plane.keys.tables import ApiKey
from control_plane.tenancy import Scope
from control_plane.tenants.tables import Project, User
from models.budgets import bounds, budget_key
from models.channels import BUDGET_PREFIX
from models.errors import InvalidRequest, PermissionDenied, Unavailable

TAKEN = "There is a budget of this kind for this period."
NOUN = "budget"
WINDOW = re.compile(r"\d{4}-\d{2}(?:-\d{2})?|total")

log = logging.getLogger(__name__)


async def create(scope: Scope, body: BudgetCreate, *, by_operator: bool) -> BudgetRow:
    """Raises InvalidRequest where the target is not the organisation's, Conflict where there is such a budget."""
    tables = {"project": Project, "user": User, "api_key": ApiKey}
    if body.target_id is not None:
        noun = body.scope.replace("api_key", "API key")
        await scope.reference(tables[body.scope], body.target_id, noun, "target_id")
    row = BudgetRow(
        id=new_id("bud"),
        scope=body.scope,
        target_id=body.target_id or scope.organisation_id,
        period=body.period,
        limit_micro=body.limit_micro,
        hard=body.hard,
        by_operator=by_operator,
    )
    scope.add(row)
    await scope.transaction.flush(TAKEN, "period")
    return row


async def change(scope: Scope, budget_id: str, body: BudgetChange, *, by_operator: bool) -> BudgetRow:
    """Raises NotFound, PermissionDenied."""
    row = await _own(scope, budget_id, by_operator=by_operator)
    if body.limit_micro is not None:
        row.limit_micro = body.limit_micro
    return row


async def delete(scope: Scope, redis: Redis, budget_id: str, *, by_operator: bool) -> None:
    """Raises NotFound, PermissionDenied."""
    row = await _own(scope, budget_id, by_operator=by_operator)
    key = budget_key(row.id, present(row))
    await repository.forget(scope, row)

    async def forget() -> None:
        try:
            await redis.delete(key, f"{key}:ids")
        except (RedisError, OSError) as error:
            log.warning("%s stays in Redis until it expires: %s", key, error)

    scope.transaction.after_commit(forget)


async def views(scope: Scope, redis: Redis, rows: Sequence[BudgetRow]) -> list[BudgetView]:
    """Budgets with where they stand: as Redis says, else as far as the ledger knows."""
    alerts = await repository.alerts(scope, [row.id for row in rows])
    windows = [present(row) for row in rows]
    shown: list[BudgetView] = []
    for row, window, (known, held) in zip(rows, windows, await _standings(redis, rows, windows), strict=True):
        spent = await repository.spent(scope, row, window) if known is None else known
        shown.append(BudgetView.of(row, window, (spent, held), alerts.get((row.id, window))))
    return shown


async def ensure_counted(counting: Counting, keys: Sequence[str]) -> None:
    """Have every window counted. Raises InvalidRequest, NotFound, Unavailable."""
    try:
        for key in keys:
            budget_id, window = _parsed(key)
            if not await counting.ensure(budget_id, window):
                raise Unavailable("The ledger lags behind.", retry_after_seconds=1.0)
    except (RedisError, OSError) as error:
        raise Unavailable("Redis does not answer.", retry_after_seconds=1.0) from error


def _parsed(key: str) -> tuple[str, str]:
    budget_id, _, window = key.removeprefix(BUDGET_PREFIX).rpartition(":")
    try:
        if not key.startswith(BUDGET_PREFIX) or not WINDOW.fullmatch(window):
            raise ValueError(key)
        bounds(window)
    except ValueError as error:
        raise InvalidRequest("This is no budget's window.", param="keys") from error
    return budget_id, window


async def _own(scope: Scope, budget_id: str, *, by_operator: bool) -> BudgetRow:
    row = await scope.get(BudgetRow, budget_id, NOUN, lock=True)
    if row.by_operator and not by_operator:
        raise PermissionDenied("The operator set this budget, and only the operator may change it.")
    return row


async def _standings(
    redis: Any, rows: Sequence[BudgetRow], windows: Sequence[str]
) -> list[tuple[int | None, int | None]]:
    try:
        async with redis.pipeline(transaction=False) as pipeline:
            for row, window in zip(rows, windows, strict=True):
                pipeline.hmget(budget_key(row.id, window), "spent", "held")
            found = await pipeline.execute()
    except (RedisError, OSError):
        return [(None, None)] * len(rows)
    return [(None if spent is None else int(spent), int(held or 0)) for spent, held in found]
