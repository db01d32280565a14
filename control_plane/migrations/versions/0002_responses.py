"""Responses, conversations and their items."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

RUNNING = "status = 'in_progress'"


def text(name: str, *, null: bool = False, **options: Any) -> sa.Column[str]:
    """A text column."""
    return sa.Column(name, sa.Text(), nullable=null, **options)


def number(name: str, *, null: bool = False) -> sa.Column[int]:
    """A 64-bit integer column."""
    return sa.Column(name, sa.BigInteger(), nullable=null)


def flag(name: str) -> sa.Column[bool]:
    """A boolean column."""
    return sa.Column(name, sa.Boolean(), nullable=False)


def time(name: str, *, null: bool = False) -> sa.Column[Any]:
    """A point in time."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def json(name: str) -> sa.Column[Any]:
    """A JSON column."""
    return sa.Column(name, postgresql.JSONB(), nullable=False)


def same_tenant(column: str, table: str) -> sa.ForeignKeyConstraint:
    """A reference that cannot leave the organisation."""
    return sa.ForeignKeyConstraint(["organisation_id", column], [f"{table}.organisation_id", f"{table}.id"])


def owned(table: str, *columns: Any) -> None:
    """Create a project's table: id, owners, time of creation, and the columns given."""
    organisation = sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False)
    head = (text("id", primary_key=True), organisation, text("project_id"), time("created_at"))
    tail = (sa.UniqueConstraint("organisation_id", "id"), same_tenant("project_id", "projects"))
    op.create_table(table, *head, *columns, *tail)


def upgrade() -> None:
    """Apply."""
    owned("conversations", json("metadata"), number("next_place"))
    owned(
        "responses",
        *(text("status"), flag("background"), text("previous_response_id", null=True)),
        *(text("conversation_id", null=True), number("place", null=True), json("body")),
        *(time("lease_until"), time("finished_at", null=True)),
        same_tenant("conversation_id", "conversations"),
    )
    op.create_index("ix_responses_running", "responses", ["lease_until"], postgresql_where=sa.text(RUNNING))
    op.create_index(None, "responses", ["created_at"])
    op.create_index(None, "responses", ["organisation_id", "conversation_id"])
    owned(
        "response_items",
        *(text("response_id", null=True), number("position", null=True), flag("output")),
        *(text("conversation_id", null=True), number("place", null=True), number("bytes"), json("item")),
        *(sa.UniqueConstraint("response_id", "position"), sa.UniqueConstraint("conversation_id", "place")),
        *(same_tenant("response_id", "responses"), same_tenant("conversation_id", "conversations")),
    )


def downgrade() -> None:
    """Take back."""
    for table in ("response_items", "responses", "conversations"):
        op.drop_table(table)
