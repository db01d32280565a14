"""Files."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

WHOLE = (
    "state <> 'stored' OR (filename IS NOT NULL AND purpose IS NOT NULL AND bytes IS NOT NULL AND sha256 IS NOT NULL)"
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("filename", "purpose")),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("organisation_id", "id"),
        sa.ForeignKeyConstraint(["organisation_id", "project_id"], ["projects.organisation_id", "projects.id"]),
        sa.CheckConstraint(WHOLE, name="ck_files_whole"),
    )
    op.create_index(None, "files", ["organisation_id", "project_id", "id"])
    op.create_index("ix_files_unfinished", "files", ["lease_until"], postgresql_where=sa.text("state <> 'stored'"))
    op.create_index("ix_files_expiring", "files", ["expires_at"], postgresql_where=sa.text("expires_at IS NOT NULL"))


def downgrade() -> None:
    """Take back."""
    op.drop_table("files")
