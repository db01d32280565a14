"""Tables: a project's policy, and what is kept of its calls."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned


def of_project() -> ForeignKeyConstraint:
    """A project's, and gone with it."""
    return ForeignKeyConstraint(
        ["organisation_id", "project_id"], ["projects.organisation_id", "projects.id"], ondelete="CASCADE"
    )


class PrivacyPolicy(TenantOwned, Stamped, Base):
    """``pii``: a ``models.privacy.PiiPolicy`` as JSON. ``keep_days``: how long prompts are kept; null: not at all."""

    __tablename__ = "privacy_policies"
    __table_args__ = (of_project(),)

    project_id: Mapped[str] = mapped_column(primary_key=True)
    pii: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    keep_days: Mapped[int | None]


class KeptPrompt(TenantOwned, Stamped, Base):
    """One ``models.privacy.PromptRecord``; nobody sees it after ``expires_at``."""

    __tablename__ = "kept_prompts"
    __table_args__ = (
        of_project(),
        UniqueConstraint("organisation_id", "id"),
        Index(None, "organisation_id", "project_id", "id"),
        Index(None, "organisation_id", "project_id", "request_id"),
        Index(None, "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    api_key_id: Mapped[str]
    request_id: Mapped[str]
    parent_request_id: Mapped[str | None]
    endpoint: Mapped[str]
    model: Mapped[str]
    started_at_ms: Mapped[int]
    duration_ms: Mapped[int]
    status: Mapped[str]
    request: Mapped[dict[str, Any]] = mapped_column(JSONB)
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    cut: Mapped[bool]
    expires_at: Mapped[datetime]
