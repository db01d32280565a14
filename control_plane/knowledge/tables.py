"""Tables: knowledge bases, documents, ingestions."""

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped, utc_now
from control_plane.tenancy import TenantOwned, same_tenant

ACTIVE = ("queued", "running")


class KnowledgeBase(TenantOwned, Stamped, Base):
    """Documents under one name, embedded by one model for life."""

    __tablename__ = "knowledge_bases"
    __table_args__ = (UniqueConstraint("organisation_id", "id"), UniqueConstraint("organisation_id", "name"))

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    embedding_model: Mapped[str]


class Document(TenantOwned, Base):
    """A manifest row: a ``models.documents.DocumentRecord`` of one knowledge base."""

    __tablename__ = "documents"
    __table_args__ = (same_tenant("knowledge_base_id", "knowledge_bases"),)

    knowledge_base_id: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    content_hash: Mapped[str | None]
    bytes: Mapped[int]
    chunks: Mapped[int]
    tokens: Mapped[int]
    code: Mapped[str | None]
    reason: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Ingestion(TenantOwned, Stamped, Base):
    """One run of the ingestion job. The index allows one active run a knowledge base: a table has one writer."""

    __tablename__ = "ingestions"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        same_tenant("knowledge_base_id", "knowledge_bases"),
        Index(
            "uq_ingestions_active",
            "knowledge_base_id",
            unique=True,
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        Index(None, "organisation_id", "knowledge_base_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    knowledge_base_id: Mapped[str]
    path: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued")
    error: Mapped[str | None]
    documents_total: Mapped[int] = mapped_column(default=0)
    documents_done: Mapped[int] = mapped_column(default=0)
    documents_failed: Mapped[int] = mapped_column(default=0)
    chunks_done: Mapped[int] = mapped_column(default=0)
    tokens_done: Mapped[int] = mapped_column(default=0)
    submitted_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
