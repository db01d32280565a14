"""Tenants, keys, knowledge, agents and the ledger."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

ACTIVE_INGESTION = "state IN ('queued', 'running')"


def text(name: str, *, null: bool = False, **options: Any) -> sa.Column[str]:
    """A text column."""
    return sa.Column(name, sa.Text(), nullable=null, **options)


def number(name: str, *arguments: Any, null: bool = False) -> sa.Column[int]:
    """A 64-bit integer column."""
    return sa.Column(name, sa.BigInteger(), *arguments, nullable=null)


def time(name: str, *, null: bool = True) -> sa.Column[Any]:
    """A point in time."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def json(name: str) -> sa.Column[Any]:
    """A JSON column."""
    return sa.Column(name, postgresql.JSONB(), nullable=False)


def organisation() -> sa.Column[str]:
    """The owner."""
    return sa.Column("organisation_id", sa.Text(), sa.ForeignKey("organisations.id"), nullable=False)


def same_tenant(column: str, table: str) -> sa.ForeignKeyConstraint:
    """A reference that cannot leave the organisation."""
    return sa.ForeignKeyConstraint(["organisation_id", column], [f"{table}.organisation_id", f"{table}.id"])


def owned(table: str, *columns: Any) -> None:
    """Create a tenant's table: id, owner, time of creation, and the columns given."""
    head = (text("id", primary_key=True), organisation(), time("created_at", null=False))
    op.create_table(table, *head, *columns, sa.UniqueConstraint("organisation_id", "id"))


def upgrade() -> None:
    """Apply."""
    created = time("created_at", null=False)
    op.create_table(
        "organisations", text("id", primary_key=True), text("name"), json("limits"), created, time("archived_at")
    )
    unique_name = ("organisation_id", "name")
    owned("projects", text("name"), json("limits"), time("archived_at"), sa.UniqueConstraint(*unique_name))
    owned("users", text("email"), text("name"), time("archived_at"), sa.UniqueConstraint("organisation_id", "email"))
    owned(
        "api_keys",
        *(text("project_id"), text("user_id", null=True), text("name"), text("prefix", unique=True)),
        *(sa.Column("digest", sa.LargeBinary(), nullable=False), text("role"), json("limits")),
        sa.Column("allowed_models", postgresql.ARRAY(sa.TEXT()), nullable=True),
        *(time("expires_at"), time("revoked_at")),
        *(same_tenant("project_id", "projects"), same_tenant("user_id", "users")),
    )
    op.create_index(None, "api_keys", ["organisation_id", "project_id"])
    owned("knowledge_bases", text("name"), text("embedding_model"), sa.UniqueConstraint(*unique_name))
    _create_knowledge()
    _create_agents()
    _create_ledger()


def _create_knowledge() -> None:
    op.create_table(
        "documents",
        *(organisation(), text("knowledge_base_id", primary_key=True), text("document", primary_key=True)),
        *(text("state"), text("content_hash", null=True), number("bytes"), number("chunks"), number("tokens")),
        *(text("code", null=True), text("reason", null=True), time("updated_at", null=False)),
        same_tenant("knowledge_base_id", "knowledge_bases"),
    )
    counts = ("documents_total", "documents_done", "documents_failed", "chunks_done", "tokens_done")
    times = ("submitted_at", "started_at", "finished_at", "cancel_requested_at")
    owned(
        "ingestions",
        *(text("knowledge_base_id"), text("path"), text("state"), text("error", null=True)),
        *(number(name) for name in counts),
        *(time(name) for name in times),
        same_tenant("knowledge_base_id", "knowledge_bases"),
    )
    op.create_index(None, "ingestions", ["organisation_id", "knowledge_base_id"])
    one_writer = sa.text(ACTIVE_INGESTION)
    op.create_index(
        "uq_ingestions_active", "ingestions", ["knowledge_base_id"], unique=True, postgresql_where=one_writer
    )


def _create_agents() -> None:
    owned(
        "agents",
        *(text("slug"), text("name"), number("latest_version"), number("published_version", null=True)),
        *(time("published_at"), sa.UniqueConstraint("organisation_id", "slug")),
    )
    op.create_table(
        "agent_versions",
        *(organisation(), text("agent_id"), number("number"), text("knowledge_base_id", null=True)),
        *(json("spec"), time("created_at", null=False)),
        sa.PrimaryKeyConstraint("agent_id", "number"),
        sa.UniqueConstraint("organisation_id", "agent_id", "number"),
        *(same_tenant("agent_id", "agents"), same_tenant("knowledge_base_id", "knowledge_bases")),
    )
    published = ["organisation_id", "id", "published_version"]
    version = ["organisation_id", "agent_id", "number"]
    op.create_foreign_key(
        "fk_agents_organisation_id_id_published_version", "agents", "agent_versions", published, version
    )


def _create_ledger() -> None:
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    op.create_table(
        "usage_events",
        *(text("event_id", primary_key=True), number("sequence", sa.Identity(always=True)), text("organisation_id")),
        *(text("project_id"), text("api_key_id"), text("request_id"), text("parent_request_id", null=True)),
        *(text("kind"), text("model"), text("upstream"), text("status"), number("http_status")),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        *(number(name) for name in tokens),
        *(text("source"), number("cost_micro"), text("price_since", null=True), number("started_at_ms")),
        *(number("first_token_ms", null=True), number("duration_ms"), time("received_at", null=False)),
        sa.UniqueConstraint("sequence"),
    )
    for column in ("sequence", "request_id", "parent_request_id"):
        op.create_index(None, "usage_events", ["organisation_id", column])
    names = ("project_id", "api_key_id", "model", "kind")
    day = sa.Column("day", sa.Date(), nullable=False)
    op.create_table(
        "usage_days",
        *(text("organisation_id"), day, *(text(name) for name in names)),
        *(number(name) for name in ("calls", "failed_calls", *tokens, "cost_micro")),
        sa.PrimaryKeyConstraint("organisation_id", "day", *names),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_constraint("fk_agents_organisation_id_id_published_version", "agents")
    tables = ("usage_days", "usage_events", "agent_versions", "agents", "ingestions", "documents", "knowledge_bases")
    for table in (*tables, "api_keys", "users", "projects", "organisations"):
        op.drop_table(table)
