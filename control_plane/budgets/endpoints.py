"""``…/budgets`` and, for gateways, the internal ``/budgets/counts``."""

from fastapi import APIRouter

from control_plane.access import AnyCaller, Tenant
from control_plane.budgets import service
from control_plane.budgets.counting import Counting
from control_plane.budgets.schemas import BudgetChange, BudgetCreate, BudgetDeleted, BudgetView, Counts
from control_plane.budgets.tables import BudgetRow
from control_plane.context import Ctx
from control_plane.errors import CONFLICT
from control_plane.pages import ListOf, PageQuery, listed

router = APIRouter(prefix="/organisations/{organisation_id}/budgets", tags=["budgets"])
internal = APIRouter(prefix="/budgets", tags=["internal"])


@router.post("", status_code=201, responses=CONFLICT)
async def create_budget(who: AnyCaller, scope: Tenant, context: Ctx, body: BudgetCreate) -> BudgetView:
    """A new budget; one a scope, period and kind (409). Gateways follow at once. What the operator sets stays his."""
    row = await service.create(scope, body, by_operator=who.is_operator)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return (await service.views(scope, context.redis, [row]))[0]


@router.get("")
async def list_budgets(scope: Tenant, context: Ctx, page: PageQuery) -> ListOf[BudgetView]:
    """The organisation's budgets with what they have come to in the present period, the newest first."""
    rows, more = await scope.page(scope.select(BudgetRow), BudgetRow.id, page)
    return listed(await service.views(scope, context.redis, rows), lambda view: view.id, has_more=more)


@router.get("/{budget_id}")
async def get_budget(scope: Tenant, context: Ctx, budget_id: str) -> BudgetView:
    """One budget, with what is spent and held in the present period."""
    row = await scope.get(BudgetRow, budget_id, service.NOUN)
    return (await service.views(scope, context.redis, [row]))[0]


@router.patch("/{budget_id}")
async def change_budget(who: AnyCaller, scope: Tenant, context: Ctx, budget_id: str, body: BudgetChange) -> BudgetView:
    """Another amount. Gateways follow at once."""
    row = await service.change(scope, budget_id, body, by_operator=who.is_operator)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return (await service.views(scope, context.redis, [row]))[0]


@router.delete("/{budget_id}")
async def delete_budget(who: AnyCaller, scope: Tenant, context: Ctx, budget_id: str) -> BudgetDeleted:
    """Take a budget away. Gateways follow at once."""
    await service.delete(scope, context.redis, budget_id, by_operator=who.is_operator)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return BudgetDeleted(id=budget_id)


@internal.post("/counts", status_code=204)
async def count_budgets(context: Ctx, body: Counts) -> None:
    """Have windows counted that Redis does not know; 503 where that takes too long."""
    counting = Counting(context.redis, context.sessions, context.config.count_seconds)
    await service.ensure_counted(counting, body.keys)
