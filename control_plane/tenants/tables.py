"""Tables: organisations, projects, users."""

from datetime import datetime
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned


class Organisation(Stamped, Base):
    """A tenant. ``limits``: a ``models.identity.Limits`` as JSON. Archived: all its keys are disabled."""

    __tablename__ = "organisations"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    archived_at: Mapped[datetime | None]


class Project(TenantOwned, Stamped, Base):
    """What keys and costs belong to. Archived: its keys are disabled."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("organisation_id", "id"), UniqueConstraint("organisation_id", "name"))

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    archived_at: Mapped[datetime | None]


class User(TenantOwned, Stamped, Base):
    """A person, known by an e-mail address (kept in lower case). Archived: its keys are disabled."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("organisation_id", "id"), UniqueConstraint("organisation_id", "email"))

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    archived_at: Mapped[datetime | None]
