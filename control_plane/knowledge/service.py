"""What can be done with knowledge bases and ingestions.

An ingestion's life: ``queued`` → ``running`` → ``succeeded`` | ``failed`` | ``cancelled``. A request makes the row and
may ask for its end; the job reports how it goes; the watcher submits the job, stops it, and speaks for it when it dies.
"""

from control_plane.database import Transaction, utc_now
from control_plane.identifiers import new_id
from control_plane.knowledge import repository
from control_plane.knowledge.schemas import (
    IngestionOrder,
    IngestionState,
    KnowledgeBaseCreate,
    ManifestChange,
    ProgressAnswer,
    ProgressReport,
)
from control_plane.knowledge.tables import ACTIVE, Ingestion, KnowledgeBase
from control_plane.tenancy import Scope
from models.errors import Conflict, InvalidRequest

# A B-tree's entry holds 2,704 bytes, and the document's path is part of a key.
DOCUMENT_BYTES_MAX = 2_000
COUNTS = ("documents_total", "documents_done", "documents_failed", "chunks_done", "tokens_done")


async def create_base(scope: Scope, body: KnowledgeBaseCreate, embedding_models: tuple[str, ...]) -> KnowledgeBase:
    """Raises InvalidRequest where there is no such embedding model, Conflict where the name is taken."""
    if body.embedding_model not in embedding_models:
        message = f"There is no embedding model '{body.embedding_model}'."
        raise InvalidRequest(message, param="embedding_model", code="model_not_found")
    row = KnowledgeBase(id=new_id("kb"), name=body.name, embedding_model=body.embedding_model)
    scope.add(row)
    await scope.transaction.flush("There is a knowledge base with this name.", "name")
    return row


async def start(scope: Scope, knowledge_base_id: str, path: str) -> Ingestion:
    """Queue an ingestion. Raises NotFound, Conflict while another one of this knowledge base runs."""
    base = await scope.get(KnowledgeBase, knowledge_base_id, "knowledge base")
    row = Ingestion(id=new_id("ing"), knowledge_base_id=base.id, path=path)
    scope.add(row)
    await scope.transaction.flush("An ingestion of this knowledge base is running: wait for its end, or cancel it.")
    return row


async def cancel(scope: Scope, knowledge_base_id: str, ingestion_id: str) -> Ingestion:
    """Ask for the end; one that has ended stays as it is. Raises NotFound."""
    row = await repository.ingestion_of(scope, knowledge_base_id, ingestion_id, lock=True)
    if row.state in ACTIVE:
        row.cancel_requested_at = row.cancel_requested_at or utc_now()
        if row.submitted_at is None:
            end(row, "cancelled")
    return row


def end(row: Ingestion, state: IngestionState, error: str | None = None) -> None:
    """Give an active ingestion its final state: ``cancelled`` instead of ``failed`` where that was asked for."""
    wanted = row.cancel_requested_at is not None and state == "failed"
    row.state = "cancelled" if wanted else state
    row.error = None if wanted else error
    row.finished_at = utc_now()


async def order(transaction: Transaction, ingestion_id: str) -> IngestionOrder:
    """What the job is to do. Raises NotFound."""
    row = await repository.ingestion(transaction.session, ingestion_id)
    base = await scope_of(transaction, row).get(KnowledgeBase, row.knowledge_base_id, "knowledge base")
    return IngestionOrder(
        organisation_id=row.organisation_id,
        knowledge_base_id=base.id,
        path=row.path,
        embedding_model=base.embedding_model,
    )


async def save_manifest(transaction: Transaction, ingestion_id: str, change: ManifestChange) -> None:
    """Write records of the job. Raises NotFound, InvalidRequest, Conflict where the ingestion has ended."""
    for record in change.records:
        if len(record.document.encode()) > DOCUMENT_BYTES_MAX:
            raise InvalidRequest(f"A document's path exceeds {DOCUMENT_BYTES_MAX} bytes.", param="records")
    row = await repository.ingestion(transaction.session, ingestion_id, lock=True)
    if row.state not in ACTIVE:
        raise Conflict("This ingestion has ended; its job writes no more.")
    await repository.save_records(scope_of(transaction, row), row.knowledge_base_id, change.records)


async def report(transaction: Transaction, ingestion_id: str, body: ProgressReport) -> ProgressAnswer:
    """Take the job's report; the answer tells a job to stop that nobody waits for. Raises NotFound."""
    row = await repository.ingestion(transaction.session, ingestion_id, lock=True)
    if row.state not in ACTIVE:
        return ProgressAnswer(cancel=row.state != body.state)
    for name in COUNTS:
        count: int | None = getattr(body, name)
        if count is not None:
            setattr(row, name, count)
    row.started_at = row.started_at or utc_now()
    # A job that reports was submitted, whether the answer to its submission arrived or not.
    row.submitted_at = row.submitted_at or row.started_at
    if body.state == "running":
        row.state = "running"
        return ProgressAnswer(cancel=row.cancel_requested_at is not None)
    end(row, body.state, body.error)
    return ProgressAnswer(cancel=False)


def scope_of(transaction: Transaction, row: Ingestion) -> Scope:
    """The scope of the organisation that an ingestion belongs to."""
    return Scope(transaction, row.organisation_id)
