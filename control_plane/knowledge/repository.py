"""Queries about knowledge; those without a scope are the platform's own, for its jobs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import utc_now
from control_plane.knowledge.tables import ACTIVE, Document, Ingestion, KnowledgeBase
from control_plane.tenancy import Scope
from models.documents import DocumentRecord
from models.errors import NotFound

ABSENT = "There is no ingestion with this id."


async def ingestion_of(scope: Scope, knowledge_base_id: str, ingestion_id: str, *, lock: bool = False) -> Ingestion:
    """An ingestion of this very knowledge base. Raises NotFound."""
    await scope.get(KnowledgeBase, knowledge_base_id, "knowledge base")
    row = await scope.get(Ingestion, ingestion_id, "ingestion", lock=lock)
    if row.knowledge_base_id != knowledge_base_id:
        raise NotFound(ABSENT)
    return row


async def ingestion(session: AsyncSession, ingestion_id: str, *, lock: bool = False) -> Ingestion:
    """Any organisation's ingestion. Raises NotFound."""
    row = await session.get(Ingestion, ingestion_id, with_for_update=lock)
    if row is None:
        raise NotFound(ABSENT)
    return row


async def active_ingestions(session: AsyncSession) -> Sequence[Ingestion]:
    """All ingestions that have not ended, the oldest first."""
    query = select(Ingestion).where(Ingestion.state.in_(ACTIVE)).order_by(Ingestion.id)
    return (await session.scalars(query)).all()


async def manifest(scope: Scope, knowledge_base_id: str) -> list[dict[str, Any]]:
    """Every record of a knowledge base, each the fields of a ``DocumentRecord``."""
    fields = [getattr(Document, name) for name in DocumentRecord.model_fields]
    query = scope.restrict(select(*fields), Document).where(Document.knowledge_base_id == knowledge_base_id)
    return [dict(row) for row in (await scope.session.execute(query)).mappings()]


async def save_records(scope: Scope, knowledge_base_id: str, records: Sequence[DocumentRecord]) -> None:
    """Insert or replace by document; of two records of one document the last counts."""
    # Sorted, so that two writers lock rows in the same order.
    last = {record.document: record for record in records}
    owner = {"organisation_id": scope.organisation_id, "knowledge_base_id": knowledge_base_id}
    rows = [{**owner, **last[name].model_dump(), "updated_at": utc_now()} for name in sorted(last)]
    if rows:
        statement = insert(Document).values(rows)
        changed = {name: statement.excluded[name] for name in rows[0] if name not in {*owner, "document"}}
        keys = ["knowledge_base_id", "document"]
        await scope.session.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))
