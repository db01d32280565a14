"""Projects' privacy policies, kept prompts, and keys' permissions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Apply."""
    none = sa.text("'{}'::text[]")
    op.add_column(
        "api_keys", sa.Column("permissions", postgresql.ARRAY(sa.TEXT()), nullable=False, server_default=none)
    )
    op.create_table(
        "privacy_policies",
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("project_id", sa.Text(), primary_key=True),
        sa.Column("pii", postgresql.JSONB(), nullable=True),
        sa.Column("keep_days", sa.BigInteger(), nullable=True),
        _of_project(),
    )
    texts = ("project_id", "api_key_id", "request_id", "endpoint", "model", "status")
    op.create_table(
        "kept_prompts",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in texts),
        sa.Column("parent_request_id", sa.Text(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("started_at_ms", "duration_ms")),
        sa.Column("request", postgresql.JSONB(), nullable=False),
        sa.Column("answer", postgresql.JSONB(), nullable=True),
        sa.Column("cut", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _of_project(),
        sa.UniqueConstraint("organisation_id", "id"),
    )
    op.create_index(None, "kept_prompts", ["organisation_id", "project_id", "id"])
    op.create_index(None, "kept_prompts", ["organisation_id", "project_id", "request_id"])
    op.create_index(None, "kept_prompts", ["expires_at"])


def _of_project() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organisation_id", "project_id"], ["projects.organisation_id", "projects.id"], ondelete="CASCADE"
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("kept_prompts")
    op.drop_table("privacy_policies")
    op.drop_column("api_keys", "permissions")
