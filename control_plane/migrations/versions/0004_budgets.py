"""Budgets, the windows in which one was reached, and limits of users."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    limits = sa.Column("limits", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb"))
    op.add_column("users", limits)
    op.create_table(
        "budgets",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("scope", "target_id", "period")),
        sa.Column("limit_micro", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("hard", "by_operator")),
        sa.UniqueConstraint("organisation_id", "id"),
        sa.UniqueConstraint("organisation_id", "scope", "target_id", "period", "hard", "by_operator"),
    )
    op.create_table(
        "budget_alerts",
        sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.Text(), primary_key=True) for name in ("budget_id", "window")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("limit_micro", "spent_micro")),
        sa.ForeignKeyConstraint(
            ["organisation_id", "budget_id"], ["budgets.organisation_id", "budgets.id"], ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("budget_alerts")
    op.drop_table("budgets")
    op.drop_column("users", "limits")
