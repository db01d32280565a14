"""The ledger's queries.

Invariants
1. An event is counted in the roll-ups exactly when its row was inserted: both happen in one transaction.
2. Rows are written in the order of their keys, so that two consumers cannot deadlock.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, Table, Text, bindparam, case, column, func, or_, select, tuple_
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.dml import ReturningInsert

from control_plane.database import utc_now
from control_plane.pages import Page
from control_plane.tenancy import Scope
from control_plane.usage.schemas import TOKENS, GroupBy, Sums, UpstreamDay, UsageGroup, columns_of, day_of
from control_plane.usage.tables import UsageDay, UsageRow, UsageUpstreamDay
from models.errors import InvalidRequest
from models.usage import UsageEvent

DAY_KEY = ("organisation_id", "day", "project_id", "api_key_id", "model", "kind")
DAY_SUMS = ("calls", "failed_calls", "cached_calls", *TOKENS.values(), "cost_micro")
UPSTREAM_KEY = ("organisation_id", "day", "upstream", "model", "own_key")
UPSTREAM_SUMS = ("calls", *TOKENS.values(), "cost_micro")
GROUPS: dict[GroupBy, ColumnElement[str]] = {
    "model": cast("ColumnElement[str]", UsageDay.model),
    "project": cast("ColumnElement[str]", UsageDay.project_id),
    "api_key": cast("ColumnElement[str]", UsageDay.api_key_id),
    "day": sql_cast(UsageDay.day, Text),
}


def _recording() -> ReturningInsert[str]:
    """Rows out of one JSON array: a statement with a parameter a column and row costs its writer more than the server.

    ``events``: rows as ``columns_of`` makes them, ``received_at``.
    """
    table = cast("Table", UsageRow.__table__)
    types: dict[str, Any] = {one.name: one.type for one in table.columns}
    names = [name for name in types if name not in {"sequence", "received_at"}]
    given: Any = func.jsonb_to_recordset(bindparam("events", type_=JSONB))
    rows = given.table_valued(*(column(name, types[name]) for name in names)).render_derived(with_types=True)
    chosen = select(*(rows.c[name] for name in names), bindparam("received_at", type_=types["received_at"]))
    inserted = insert(table).from_select([*names, "received_at"], chosen.order_by(rows.c.event_id))
    return inserted.on_conflict_do_nothing(index_elements=["event_id"]).returning(table.c.event_id)


RECORD = _recording()


async def record(session: AsyncSession, events: Sequence[UsageEvent]) -> int:
    """Write events to the ledger and its roll-ups; those that are there already are left. Returns how many were new."""
    by_id = {event.event_id: event for event in events}
    if not by_id:
        return 0
    rows = [columns_of(event) for event in by_id.values()]
    new = (await session.scalars(RECORD, {"events": rows, "received_at": utc_now()})).all()
    await _roll_up(session, [by_id[name] for name in new])
    return len(new)


async def _roll_up(session: AsyncSession, events: Sequence[UsageEvent]) -> None:
    days = _Growth(UsageDay, DAY_KEY, DAY_SUMS)
    upstreams = _Growth(UsageUpstreamDay, UPSTREAM_KEY, UPSTREAM_SUMS)
    for event in events:
        counts = {"calls": 1, "failed_calls": int(event.status != "ok"), "cached_calls": int(event.from_cache)}
        columns = {**columns_of(event), "day": day_of(event), **counts}
        if event.kind == "agent" or event.from_cache:
            columns |= dict.fromkeys(TOKENS.values(), 0)
        else:
            upstreams.add({**columns, "model": event.upstream_model or event.model})
        days.add(columns)
    await days.write(session)
    await upstreams.write(session)


class _Growth:
    """What a roll-up grows by."""

    def __init__(self, table: type[UsageDay | UsageUpstreamDay], key: Sequence[str], sums: Sequence[str]) -> None:
        self._table = table
        self._key = key
        self._sums = sums
        self._rows: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(sums))

    def add(self, columns: Mapping[str, Any]) -> None:
        """One event's columns."""
        row = self._rows[tuple(columns[name] for name in self._key)]
        for place, name in enumerate(self._sums):
            row[place] += columns[name]

    async def write(self, session: AsyncSession) -> None:
        """In the order of the keys."""
        names = (*self._key, *self._sums)
        rows = [dict(zip(names, (*key, *self._rows[key]), strict=True)) for key in sorted(self._rows)]
        if rows:
            statement = insert(self._table).values(rows)
            grown = {name: getattr(self._table, name) + statement.excluded[name] for name in self._sums}
            await session.execute(statement.on_conflict_do_update(index_elements=self._key, set_=grown))


async def events(scope: Scope, page: Page, request_id: str | None) -> tuple[list[UsageRow], bool]:
    """One page of events, the last received first; of one request and what was called on its behalf.

    Raises InvalidRequest where ``page.after`` is no event of the organisation.
    """
    query = scope.select(UsageRow)
    if request_id is not None:
        query = query.where(or_(UsageRow.request_id == request_id, UsageRow.parent_request_id == request_id))
    place = None
    if page.after is not None:
        cursor = scope.restrict(select(UsageRow.sequence), UsageRow).where(UsageRow.event_id == page.after)
        place = await scope.session.scalar(cursor)
        if place is None:
            raise InvalidRequest("'after' is not an event of this organisation.", param="after")
    return await scope.page(query, UsageRow.sequence, page, place)


async def total(scope: Scope, since: date | None, until: date | None) -> Sums:
    """Sums over the days from ``since`` to ``until``, both included."""
    query = _between(scope.restrict(select(*_sums()), UsageDay), since, until)
    return Sums.model_validate(dict((await scope.session.execute(query)).mappings().one()))


async def grouped(
    scope: Scope, page: Page, group_by: GroupBy, since: date | None, until: date | None
) -> tuple[list[UsageGroup], bool]:
    """One page of sums by group, in falling order of the group's key."""
    key = GROUPS[group_by]
    query = _between(scope.restrict(select(key.label("key"), *_sums()), UsageDay), since, until)
    if page.after is not None:
        query = query.where(key < page.after)
    query = query.group_by(key).order_by(key.desc()).limit(page.limit + 1)
    groups = [UsageGroup.model_validate(dict(row)) for row in (await scope.session.execute(query)).mappings()]
    return groups[: page.limit], len(groups) > page.limit


def _sums() -> list[ColumnElement[Any]]:
    columns = {name: cast("InstrumentedAttribute[int]", getattr(UsageDay, name)) for name in DAY_SUMS}
    sums = [_sum(column).label(name) for name, column in columns.items()]
    return [*sums, _sum(case((UsageDay.kind == "agent", UsageDay.calls), else_=0)).label("agent_calls")]


def _sum(column: Any) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)


def _between(query: Select[Any], since: date | None, until: date | None) -> Select[Any]:
    if since is not None:
        query = query.where(UsageDay.day >= since)
    if until is not None:
        query = query.where(UsageDay.day <= until)
    return query


async def upstream_days(
    session: AsyncSession, scope: Scope | None, page: Page, since: date, until: date, *, own_key: bool | None
) -> tuple[list[UpstreamDay], bool]:
    """One page of sums by day, upstream and the model's name there, the last day first.

    ``scope`` None: of all organisations, for the operator. Raises InvalidRequest where ``page.after`` is no entry's id.
    """
    key = (UsageUpstreamDay.day, UsageUpstreamDay.upstream, UsageUpstreamDay.model)
    columns = {name: cast("InstrumentedAttribute[int]", getattr(UsageUpstreamDay, name)) for name in UPSTREAM_SUMS}
    query = select(*key, *(_sum(one).label(name) for name, one in columns.items()))
    query = query.where(UsageUpstreamDay.day >= since, UsageUpstreamDay.day <= until)
    if scope is not None:
        query = scope.restrict(query, UsageUpstreamDay)
    if own_key is not None:
        query = query.where(UsageUpstreamDay.own_key == own_key)
    if page.after is not None:
        query = query.where(tuple_(*key) < tuple_(*_place(page.after)))
    query = query.group_by(*key).order_by(*(one.desc() for one in key)).limit(page.limit + 1)
    rows = [dict(row) for row in (await session.execute(query)).mappings()]
    days = [UpstreamDay.model_validate({**row, "day": row["day"].isoformat()}) for row in rows[: page.limit]]
    return days, len(rows) > page.limit


def _place(after: str) -> tuple[date, str, str]:
    day, _, rest = after.partition("/")
    upstream, slash, model = rest.partition("/")
    try:
        if slash:
            return date.fromisoformat(day), upstream, model
    except ValueError:
        pass
    raise InvalidRequest("'after' must be the last_id of a page of this list.", param="after")
