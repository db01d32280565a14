"""``…/usage`` (sums) and ``…/usage/events`` (the ledger)."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query

from control_plane.access import Operator, Tenant
from control_plane.context import Tx
from control_plane.pages import ListOf, PageQuery, listed
from control_plane.usage import repository
from control_plane.usage.schemas import GroupBy, UpstreamDay, UsageEventView, UsageSummary
from models.errors import InvalidRequest

router = APIRouter(prefix="/organisations/{organisation_id}/usage", tags=["usage"])

platform = APIRouter(prefix="/usage", tags=["usage"])

Day = Annotated[date | None, Query(description="A day (UTC), `YYYY-MM-DD`; included", examples=["2026-11-01"])]


@router.get("")
async def usage_summary(
    scope: Tenant, page: PageQuery, since: Day = None, until: Day = None, group_by: GroupBy = "model"
) -> UsageSummary:
    """Calls, tokens and cost by model, project, API key or day, read from the daily roll-up."""
    if since is not None and until is not None and since > until:
        raise InvalidRequest("'since' must not lie after 'until'.", param="since")
    groups, more = await repository.grouped(scope, page, group_by, since, until)
    return UsageSummary(
        **dict(listed(groups, lambda group: group.key, has_more=more)),
        group_by=group_by,
        since=since.isoformat() if since else None,
        until=until.isoformat() if until else None,
        total=await repository.total(scope, since, until),
    )


@router.get("/events")
async def usage_events(
    scope: Tenant, page: PageQuery, request_id: Annotated[str | None, Query(max_length=200)] = None
) -> ListOf[UsageEventView]:
    """Single calls, the last received first; with `request_id`, that call and the calls made on its behalf."""
    rows, more = await repository.events(scope, page, request_id)
    return listed([UsageEventView.of(row) for row in rows], lambda view: view.event_id, has_more=more)


FirstDay = Annotated[date, Query(description="A day (UTC), `YYYY-MM-DD`; included")]
OwnKey = Annotated[bool | None, Query(description="Under organisations' own keys alone, or under none of them")]


@router.get("/upstreams")
async def upstream_days(
    scope: Tenant, page: PageQuery, since: FirstDay, until: FirstDay, own_key: OwnKey = None
) -> ListOf[UpstreamDay]:
    """Sums by day, upstream and the model's name there: what an invoice of a provider is compared with."""
    days, more = await repository.upstream_days(scope.session, scope, page, since, until, own_key=own_key)
    return listed(days, lambda day: day.key, has_more=more)


@platform.get("/upstreams")
async def all_upstream_days(
    _: Operator, transaction: Tx, page: PageQuery, since: FirstDay, until: FirstDay, own_key: OwnKey = None
) -> ListOf[UpstreamDay]:
    """The same of all organisations together; the operator's."""
    days, more = await repository.upstream_days(transaction.session, None, page, since, until, own_key=own_key)
    return listed(days, lambda day: day.key, has_more=more)
