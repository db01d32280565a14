"""Tables: conversations, responses, and the items of both."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned, same_tenant

RUNNING = "in_progress"


def _of_project() -> ForeignKeyConstraint:
    return same_tenant("project_id", "projects")


class Conversation(TenantOwned, Stamped, Base):
    """Items under one id, in the order they were added; ``next_place`` numbers them, under the row's lock."""

    __tablename__ = "conversations"
    __table_args__ = (UniqueConstraint("organisation_id", "id"), _of_project())

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSONB, default=dict)
    next_place: Mapped[int] = mapped_column(default=0)


class StoredResponse(TenantOwned, Stamped, Base):
    """One response. ``body``: OpenAI's response object without its output, which lies among the items.

    ``in_progress`` until a first final state, which stays. While it runs, its gateway renews ``lease_until``.
    ``previous_response_id`` may name one that was deleted since. It saw its conversation up to ``place``.
    """

    __tablename__ = "responses"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        _of_project(),
        same_tenant("conversation_id", "conversations"),
        Index("ix_responses_running", "lease_until", postgresql_where=text("status = 'in_progress'")),
        Index(None, "created_at"),
        Index(None, "organisation_id", "conversation_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    status: Mapped[str]
    background: Mapped[bool]
    previous_response_id: Mapped[str | None]
    conversation_id: Mapped[str | None]
    place: Mapped[int | None]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)
    lease_until: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Item(TenantOwned, Stamped, Base):
    """One item: of a response (``position`` counts its input, then its output), of a conversation, or of both.

    ``bytes``: length of its JSON, so that a history's size is known before it is read.
    """

    __tablename__ = "response_items"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        UniqueConstraint("response_id", "position"),
        UniqueConstraint("conversation_id", "place"),
        _of_project(),
        same_tenant("response_id", "responses"),
        same_tenant("conversation_id", "conversations"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    response_id: Mapped[str | None]
    position: Mapped[int | None]
    output: Mapped[bool] = mapped_column(default=False)
    conversation_id: Mapped[str | None]
    place: Mapped[int | None]
    bytes: Mapped[int]
    item: Mapped[dict[str, Any]] = mapped_column(JSONB)
