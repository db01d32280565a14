"""``…/knowledge-bases`` with their documents and ingestions, and the internal side of the ingestion job."""

import asyncio
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Response

from control_plane.access import AnyCaller, Tenant
from control_plane.context import Ctx, Tx
from control_plane.errors import CONFLICT
from control_plane.knowledge import repository, service
from control_plane.knowledge.paths import resolve_path
from control_plane.knowledge.schemas import (
    DocumentView,
    IngestionCreate,
    IngestionOrder,
    IngestionView,
    KnowledgeBaseCreate,
    KnowledgeBaseView,
    ManifestChange,
    ProgressAnswer,
    ProgressReport,
)
from control_plane.knowledge.tables import Document, Ingestion, KnowledgeBase
from control_plane.pages import ListOf, PageQuery, listed
from models.documents import DocumentState

router = APIRouter(prefix="/organisations/{organisation_id}/knowledge-bases", tags=["knowledge bases"])
internal = APIRouter(prefix="/ingestions", tags=["internal"])

NOUN = "knowledge base"


@router.post("", status_code=201, responses=CONFLICT)
async def create_base(scope: Tenant, context: Ctx, body: KnowledgeBaseCreate) -> KnowledgeBaseView:
    """A new knowledge base; its name is unique within the organisation (409)."""
    return KnowledgeBaseView.of(await service.create_base(scope, body, context.config.embedding_models))


@router.get("")
async def list_bases(
    scope: Tenant, page: PageQuery, name: Annotated[str | None, Query(max_length=200)] = None
) -> ListOf[KnowledgeBaseView]:
    """The organisation's knowledge bases, the newest first; with `name`, the one of that name."""
    query = scope.select(KnowledgeBase)
    if name is not None:
        query = query.where(KnowledgeBase.name == name)
    rows, more = await scope.page(query, KnowledgeBase.id, page)
    return listed([KnowledgeBaseView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("/{knowledge_base_id}")
async def get_base(scope: Tenant, knowledge_base_id: str) -> KnowledgeBaseView:
    """One knowledge base."""
    return KnowledgeBaseView.of(await scope.get(KnowledgeBase, knowledge_base_id, NOUN))


@router.get("/{knowledge_base_id}/documents")
async def list_documents(
    scope: Tenant, page: PageQuery, knowledge_base_id: str, state: DocumentState | None = None
) -> ListOf[DocumentView]:
    """The manifest: what became of each document, with the reason where it failed. The cursor is the document."""
    await scope.get(KnowledgeBase, knowledge_base_id, NOUN)
    query = scope.select(Document).where(Document.knowledge_base_id == knowledge_base_id)
    if state is not None:
        query = query.where(Document.state == state)
    rows, more = await scope.page(query, Document.document, page)
    return listed([DocumentView.of(row) for row in rows], lambda view: view.document, has_more=more)


@router.post("/{knowledge_base_id}/ingestions", status_code=202, responses=CONFLICT)
async def start_ingestion(
    who: AnyCaller, scope: Tenant, context: Ctx, knowledge_base_id: str, body: IngestionCreate
) -> IngestionView:
    """Queue an ingestion of a folder or file. One runs at a time a knowledge base (409 meanwhile).

    The path lies below one of the platform's ingestion roots, unless the operator asks.
    """
    roots = context.config.ingestion_roots
    path = await asyncio.to_thread(resolve_path, body.path, roots, anywhere=who.is_operator)
    row = await service.start(scope, knowledge_base_id, str(path))
    scope.transaction.after_commit(context.jobs_bell.ring)
    return IngestionView.of(row)


@router.get("/{knowledge_base_id}/ingestions")
async def list_ingestions(scope: Tenant, page: PageQuery, knowledge_base_id: str) -> ListOf[IngestionView]:
    """A knowledge base's ingestions, the newest first."""
    await scope.get(KnowledgeBase, knowledge_base_id, NOUN)
    query = scope.select(Ingestion).where(Ingestion.knowledge_base_id == knowledge_base_id)
    rows, more = await scope.page(query, Ingestion.id, page)
    return listed([IngestionView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("/{knowledge_base_id}/ingestions/{ingestion_id}")
async def get_ingestion(scope: Tenant, knowledge_base_id: str, ingestion_id: str) -> IngestionView:
    """One ingestion, with its counts so far."""
    return IngestionView.of(await repository.ingestion_of(scope, knowledge_base_id, ingestion_id))


@router.post("/{knowledge_base_id}/ingestions/{ingestion_id}/cancel", status_code=202)
async def cancel_ingestion(scope: Tenant, context: Ctx, knowledge_base_id: str, ingestion_id: str) -> IngestionView:
    """Stop an ingestion; it is `cancelled` once its job has stopped. Idempotent; one that has ended stays as it is."""
    row = await service.cancel(scope, knowledge_base_id, ingestion_id)
    scope.transaction.after_commit(context.jobs_bell.ring)
    return IngestionView.of(row)


@internal.get("/{ingestion_id}")
async def ingestion_order(transaction: Tx, ingestion_id: str) -> IngestionOrder:
    """What the job is to ingest, for whom."""
    return await service.order(transaction, ingestion_id)


@internal.get("/{ingestion_id}/documents")
async def load_manifest(transaction: Tx, ingestion_id: str) -> Response:
    """Every record of the knowledge base (``{"data": [DocumentRecord, …]}``), in one answer."""
    row = await repository.ingestion(transaction.session, ingestion_id)
    scope = service.scope_of(transaction, row)
    # Straight to bytes: validating 100,000 rows of our own once more would hold the event loop for seconds.
    content = orjson.dumps({"data": await repository.manifest(scope, row.knowledge_base_id)})
    return Response(content, media_type="application/json")


@internal.put("/{ingestion_id}/documents")
async def save_manifest(transaction: Tx, ingestion_id: str, body: ManifestChange) -> dict[str, int]:
    """Insert or replace records, durable once answered; 409 where the ingestion has ended."""
    await service.save_manifest(transaction, ingestion_id, body)
    return {"saved": len(body.records)}


@internal.post("/{ingestion_id}/progress")
async def report_progress(transaction: Tx, ingestion_id: str, body: ProgressReport) -> ProgressAnswer:
    """The job's report; the answer says whether it must stop."""
    return await service.report(transaction, ingestion_id, body)
