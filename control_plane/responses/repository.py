"""Queries about responses, conversations and items; those without a scope are the platform's own."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import CTE, Select, delete, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.responses.tables import RUNNING, Conversation, Item, StoredResponse
from control_plane.tenancy import ProjectScope
from models.errors import InvalidRequest

CHAIN_MAX = 1_000
HISTORY_ITEMS_MAX = 10_000
HISTORY_BYTES_MAX = 32 << 20
LAPSED_A_LOOK = 100
OLD_A_LOOK = 500

Direction = Literal["asc", "desc"]


async def response(scope: ProjectScope, response_id: str, *, lock: bool = False) -> StoredResponse:
    """A response. Raises NotFound.

    ``lock``: until the commit, its conversation first; whoever locks both does so in this order.
    """
    row = await scope.get(StoredResponse, response_id, "response")
    if not lock:
        return row
    if row.conversation_id is not None:
        await locked_conversation(scope, row.conversation_id)
    await scope.session.refresh(row, with_for_update=True)
    return row


async def conversation(scope: ProjectScope, conversation_id: str, *, lock: bool = False) -> Conversation:
    """A conversation. Raises NotFound."""
    return await scope.get(Conversation, conversation_id, "conversation", lock=lock)


async def locked_conversation(scope: ProjectScope, conversation_id: str) -> Conversation | None:
    """A conversation, locked until the commit; None where it was deleted."""
    query = scope.select(Conversation).where(Conversation.id == conversation_id).with_for_update()
    return await scope.session.scalar(query.execution_options(populate_existing=True))


def _chain(scope: ProjectScope, last_id: str) -> CTE:
    row = StoredResponse
    columns = (row.id, row.previous_response_id, row.conversation_id, row.place, row.status)
    start = scope.restrict(select(*columns, literal(0).label("depth")), row).where(row.id == last_id)
    chain = start.cte("chain", recursive=True)
    older = scope.restrict(select(*columns, chain.c.depth + 1), row)
    return chain.union_all(older.where(row.id == chain.c.previous_response_id, chain.c.depth < CHAIN_MAX))


async def chain(scope: ProjectScope, last_id: str) -> list[dict[str, Any]]:
    """The response and those it builds on, the oldest first; its columns as far as a history needs them."""
    links = _chain(scope, last_id)
    rows = await scope.session.execute(select(links).order_by(links.c.depth.desc()))
    return [dict(row) for row in rows.mappings()]


async def items_of_responses(scope: ProjectScope, response_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Input and output of each, in the order given. Raises InvalidRequest where that is too much."""
    mine = Item.response_id.in_(response_ids)
    await _within_bounds(scope, scope.restrict(_size(), Item).where(mine))
    query = scope.restrict(select(Item.response_id, Item.position, Item.item), Item).where(mine)
    order = {response_id: number for number, response_id in enumerate(response_ids)}
    rows = sorted(await scope.session.execute(query), key=lambda row: (order[row[0] or ""], row[1] or 0))
    return [item for _, _, item in rows]


async def items_before(scope: ProjectScope, conversation_id: str, place: int) -> list[dict[str, Any]]:
    """A conversation's items before ``place``, in order. Raises InvalidRequest where that is too much."""
    mine = (Item.conversation_id == conversation_id, Item.place < place)
    await _within_bounds(scope, scope.restrict(_size(), Item).where(*mine))
    query = scope.restrict(select(Item.item), Item).where(*mine).order_by(Item.place)
    return list(await scope.session.scalars(query))


def _size() -> Select[int, int]:
    return select(func.count(), func.coalesce(func.sum(Item.bytes), 0))


async def _within_bounds(scope: ProjectScope, query: Select[int, int]) -> None:
    count, size = (await scope.session.execute(query)).one()
    if count > HISTORY_ITEMS_MAX or size > HISTORY_BYTES_MAX:
        raise InvalidRequest(
            f"The history is too long: it may hold {HISTORY_ITEMS_MAX} items and {HISTORY_BYTES_MAX} bytes.",
            code="context_length_exceeded",
        )


async def items(scope: ProjectScope, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Those of the items that there are."""
    return list(await scope.session.scalars(scope.restrict(select(Item.item), Item).where(Item.id.in_(ids))))


async def output(scope: ProjectScope, response_id: str) -> list[dict[str, Any]]:
    """A response's output, in order."""
    query = scope.restrict(select(Item.item), Item).where(Item.response_id == response_id, Item.output)
    return list(await scope.session.scalars(query.order_by(Item.position)))


async def items_of(scope: ProjectScope, response_id: str) -> int:
    """How many items a response has."""
    query = scope.restrict(select(func.count()).select_from(Item), Item).where(Item.response_id == response_id)
    return await scope.session.scalar(query) or 0


async def join(scope: ProjectScope, response_id: str, conversation: Conversation) -> None:
    """Put all of a response's items at the end of a conversation, which is locked."""
    mine = update(Item).where(Item.response_id == response_id)
    first = conversation.next_place
    await scope.session.execute(mine.values(conversation_id=conversation.id, place=Item.position + first))
    conversation.next_place = first + await items_of(scope, response_id)


async def conversation_item(scope: ProjectScope, conversation_id: str, item_id: str) -> Item | None:
    """One item of a conversation."""
    query = scope.select(Item).where(Item.id == item_id, Item.conversation_id == conversation_id)
    return await scope.session.scalar(query)


async def page(
    scope: ProjectScope, owner: StoredResponse | Conversation, limit: int, after: str | None, order: Direction
) -> tuple[list[dict[str, Any]], bool]:
    """Part of a response's input or of a conversation, and whether there is more.

    Raises InvalidRequest where ``after`` is not in that list.
    """
    if isinstance(owner, Conversation):
        number, mine = Item.place, (Item.conversation_id == owner.id,)
    else:
        number, mine = Item.position, (Item.response_id == owner.id, Item.output.is_(False))
    query = scope.restrict(select(Item.item), Item).where(*mine)
    if after is not None:
        start = await scope.session.scalar(scope.restrict(select(number), Item).where(*mine, Item.id == after))
        if start is None:
            raise InvalidRequest("'after' must be the id of an item of this list.", param="after")
        query = query.where(number > start if order == "asc" else number < start)
    found = list(
        await scope.session.scalars(query.order_by(number.asc() if order == "asc" else number.desc()).limit(limit + 1))
    )
    return found[:limit], len(found) > limit


async def leave_response(session: AsyncSession, response_ids: Sequence[str]) -> None:
    """Part items from responses; those of no conversation go."""
    mine = Item.response_id.in_(response_ids)
    await session.execute(delete(Item).where(mine, Item.conversation_id.is_(None)))
    await session.execute(update(Item).where(mine).values(response_id=None, position=None))


async def leave_conversation(session: AsyncSession, conversation_id: str) -> None:
    """Part items and responses from a conversation; items of no response go."""
    mine = Item.conversation_id == conversation_id
    await session.execute(delete(Item).where(mine, Item.response_id.is_(None)))
    await session.execute(update(Item).where(mine).values(conversation_id=None, place=None))
    responses = update(StoredResponse).where(StoredResponse.conversation_id == conversation_id)
    await session.execute(responses.values(conversation_id=None))


async def renew(session: AsyncSession, ids: Sequence[str], lease_seconds: float) -> set[str]:
    """Renew the leases of those that still run; which these are."""
    renewed = (
        update(StoredResponse)
        .where(StoredResponse.id.in_(ids), StoredResponse.status == RUNNING)
        .values(lease_until=func.now() + timedelta(seconds=lease_seconds))
        .returning(StoredResponse.id)
        .execution_options(synchronize_session=False)
    )
    return set(await session.scalars(renewed))


async def lapsed(session: AsyncSession) -> Sequence[StoredResponse]:
    """Some of those that run by their state and whose lease is over, locked; others' locks are passed by."""
    query = select(StoredResponse).where(StoredResponse.status == RUNNING, StoredResponse.lease_until < func.now())
    return (await session.scalars(query.limit(LAPSED_A_LOOK).with_for_update(skip_locked=True))).all()


async def delete_old(session: AsyncSession, days_max: int) -> int:
    """Delete some of the responses that ended and are older than ``days_max``; how many it were."""
    old = or_(StoredResponse.status != RUNNING, StoredResponse.lease_until < func.now())
    query = select(StoredResponse.id).where(StoredResponse.created_at < func.now() - timedelta(days=days_max), old)
    ids = (await session.scalars(query.limit(OLD_A_LOOK).with_for_update(skip_locked=True))).all()
    if ids:
        await leave_response(session, ids)
        await session.execute(delete(StoredResponse).where(StoredResponse.id.in_(ids)))
    return len(ids)
