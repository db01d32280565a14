"""Tables: agents and their versions."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned, same_tenant


class Agent(TenantOwned, Stamped, Base):
    """An agent; ``published_version`` is what ``agent/<slug>`` answers with, null for none."""

    __tablename__ = "agents"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        UniqueConstraint("organisation_id", "slug"),
        ForeignKeyConstraint(
            ["organisation_id", "id", "published_version"],
            ["agent_versions.organisation_id", "agent_versions.agent_id", "agent_versions.number"],
            use_alter=True,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    latest_version: Mapped[int] = mapped_column(default=0)
    published_version: Mapped[int | None]
    published_at: Mapped[datetime | None]


class AgentVersion(TenantOwned, Stamped, Base):
    """One version; ``spec`` is a ``models.agents.AgentSpec`` as JSON and never changes."""

    __tablename__ = "agent_versions"
    __table_args__ = (
        UniqueConstraint("organisation_id", "agent_id", "number"),
        same_tenant("agent_id", "agents"),
        same_tenant("knowledge_base_id", "knowledge_bases"),
    )

    agent_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    knowledge_base_id: Mapped[str | None]
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB)
