"""Table: API keys."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned, same_tenant


class ApiKey(TenantOwned, Stamped, Base):
    """A key, known by its prefix; ``digest`` is HMAC-SHA256 of the whole key under the pepper."""

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        same_tenant("project_id", "projects"),
        same_tenant("user_id", "users"),
        Index(None, "organisation_id", "project_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    user_id: Mapped[str | None]
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    role: Mapped[str]
    permissions: Mapped[list[str]] = mapped_column(ARRAY(TEXT), default=list)
    allowed_models: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
