"""Batches and their lines."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

ACTIVE = "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
TIMES = (
    *("submitted_at", "in_progress_at", "finalizing_at", "completed_at", "failed_at"),
    *("expired_at", "cancelling_at", "cancelled_at"),
)


def text(name: str, *, null: bool = False) -> sa.Column[str]:
    """A text column."""
    return sa.Column(name, sa.Text(), nullable=null)


def time(name: str, *, null: bool = True) -> sa.Column[Any]:
    """A point in time."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def organisation() -> sa.Column[str]:
    """The owner."""
    return sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False)


def same_tenant(column: str, table: str) -> sa.ForeignKeyConstraint:
    """A reference that cannot leave the organisation."""
    return sa.ForeignKeyConstraint(["organisation_id", column], [f"{table}.organisation_id", f"{table}.id"])


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), primary_key=True),
        *(organisation(), time("created_at", null=False), text("project_id"), text("api_key_id")),
        *(text("status"), text("endpoint"), text("model", null=True), text("input_file_id")),
        *(text("output_file_id", null=True), text("error_file_id", null=True)),
        sa.Column("metadata", postgresql.JSONB(), nullable=True),
        sa.Column("errors", postgresql.JSONB(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("total", "completed", "failed", "attempt")),
        *(time(name) for name in TIMES),
        time("expires_at", null=False),
        sa.UniqueConstraint("organisation_id", "id"),
        *(same_tenant("project_id", "projects"), same_tenant("api_key_id", "api_keys")),
    )
    op.create_index(None, "batches", ["organisation_id", "project_id", "id"])
    op.create_index("ix_batches_active", "batches", ["id"], postgresql_where=sa.text(ACTIVE))
    op.create_table(
        "batch_lines",
        *(organisation(), time("created_at", null=False), text("project_id"), text("batch_id")),
        sa.Column("line", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        text("outcome", null=True),
        sa.PrimaryKeyConstraint("batch_id", "line"),
        same_tenant("batch_id", "batches"),
    )


def downgrade() -> None:
    """Take back."""
    for table in ("batch_lines", "batches"):
        op.drop_table(table)
