"""Tables: batches, and what became of each line while they run."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, PrimaryKeyConstraint, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned, same_tenant

ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")


class Batch(TenantOwned, Stamped, Base):
    """One batch. ``attempt`` counts its jobs; ``submitted_at`` is of the present one, None until it is taken."""

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        same_tenant("project_id", "projects"),
        same_tenant("api_key_id", "api_keys"),
        Index(None, "organisation_id", "project_id", "id"),
        Index(
            "ix_batches_active",
            "id",
            postgresql_where=text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    api_key_id: Mapped[str]
    status: Mapped[str] = mapped_column(default="validating")
    endpoint: Mapped[str]
    model: Mapped[str | None]
    input_file_id: Mapped[str]
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    errors: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=1)
    submitted_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]


class BatchLine(TenantOwned, Stamped, Base):
    """A line that was begun, counted from one; ``outcome`` None: not done. The rows go with the batch's end."""

    __tablename__ = "batch_lines"
    __table_args__ = (PrimaryKeyConstraint("batch_id", "line"), same_tenant("batch_id", "batches"))

    project_id: Mapped[str]
    batch_id: Mapped[str]
    line: Mapped[int] = mapped_column(autoincrement=False)
    ok: Mapped[bool] = mapped_column(default=False)
    outcome: Mapped[str | None]
