"""Bodies and answers: knowledge bases, documents, ingestions."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from control_plane.database import BIGINT_MAX, unix_seconds
from control_plane.fields import Body, ModelId, Name
from control_plane.knowledge.tables import Document, Ingestion, KnowledgeBase
from models.documents import DocumentRecord

IngestionState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
PATH_LENGTH_MAX = 4_096
RECORDS_MAX = 1_000
Count = Annotated[int, Field(ge=0, le=BIGINT_MAX)]


class KnowledgeBaseCreate(Body):
    """A new knowledge base. Its embedding model is fixed for life."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"name": "handbook", "embedding_model": "all-minilm-l6-v2"}}
    )

    name: Name
    embedding_model: ModelId


class KnowledgeBaseView(BaseModel):
    """A knowledge base."""

    object: Literal["knowledge_base"] = "knowledge_base"
    id: str
    organisation_id: str
    name: str
    embedding_model: str
    created_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: KnowledgeBase) -> Self:
        """As the API shows it."""
        return cls(
            id=row.id,
            organisation_id=row.organisation_id,
            name=row.name,
            embedding_model=row.embedding_model,
            created_at=unix_seconds(row.created_at),
        )


class IngestionCreate(Body):
    """What to ingest: a folder or a file as the cluster's nodes see it."""

    model_config = ConfigDict(str_strip_whitespace=False, json_schema_extra={"example": {"path": "/srv/documents"}})

    path: str = Field(min_length=1, max_length=PATH_LENGTH_MAX, description="Absolute")


class IngestionView(BaseModel):
    """One run of the ingestion job."""

    object: Literal["ingestion"] = "ingestion"
    id: str
    knowledge_base_id: str
    path: str = Field(description="Absolute, symbolic links resolved")
    state: IngestionState
    error: str | None = Field(description="Why it failed")
    cancel_requested: bool = Field(description="It ends once its job has stopped")
    documents_total: int
    documents_done: int
    documents_failed: int
    chunks_done: int
    tokens_done: int
    created_at: int = Field(description="Unix seconds")
    started_at: int | None
    finished_at: int | None

    @classmethod
    def of(cls, row: Ingestion) -> Self:
        """As the API shows it."""
        return cls.model_validate(
            {
                **{name: getattr(row, name) for name in cls.model_fields if name not in {"object", "cancel_requested"}},
                "cancel_requested": row.cancel_requested_at is not None,
                "created_at": unix_seconds(row.created_at),
                "started_at": unix_seconds(row.started_at) if row.started_at else None,
                "finished_at": unix_seconds(row.finished_at) if row.finished_at else None,
            }
        )


class DocumentView(DocumentRecord):
    """A row of the manifest: what became of one document."""

    object: Literal["document"] = "document"
    updated_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: Document) -> Self:
        """As the API shows it."""
        fields = {name: getattr(row, name) for name in DocumentRecord.model_fields}
        return cls.model_validate({**fields, "updated_at": unix_seconds(row.updated_at)})


class IngestionOrder(BaseModel):
    """What the ingestion job needs to know."""

    organisation_id: str
    knowledge_base_id: str
    path: str
    embedding_model: str


class ManifestChange(Body):
    """Rows to insert or replace, by document."""

    model_config = ConfigDict(str_strip_whitespace=False)

    records: Annotated[list[DocumentRecord], Field(max_length=RECORDS_MAX)]


class ProgressReport(Body):
    """How the job goes: absolute counts, or its end."""

    state: Literal["running", "succeeded", "failed"]
    error: str | None = Field(default=None, max_length=10_000)
    documents_total: Count | None = None
    documents_done: Count | None = None
    documents_failed: Count | None = None
    chunks_done: Count | None = None
    tokens_done: Count | None = None


class ProgressAnswer(BaseModel):
    """Whether the job must stop."""

    cancel: bool
