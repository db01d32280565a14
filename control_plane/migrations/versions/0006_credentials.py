"""Credentials for hosted upstreams and the data keys that seal them; whose key a call went under."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def text(name: str, *, null: bool = False) -> sa.Column[str]:
    """A text column."""
    return sa.Column(name, sa.Text(), nullable=null)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "data_keys",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        text("key_id"),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("organisation_id"),
    )
    op.create_table(
        "credentials",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(text("project_id", null=True), text("upstream"), text("name"), text("base_url", null=True), text("last4")),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("organisation_id", "id"),
        sa.UniqueConstraint("organisation_id", "upstream", "project_id", postgresql_nulls_not_distinct=True),
        sa.ForeignKeyConstraint(["organisation_id", "project_id"], ["projects.organisation_id", "projects.id"]),
    )
    own = sa.Column("own_key", sa.Boolean(), nullable=False, server_default=sa.text("false"))
    op.add_column("usage_events", own)


def downgrade() -> None:
    """Take back."""
    op.drop_column("usage_events", "own_key")
    op.drop_table("credentials")
    op.drop_table("data_keys")
